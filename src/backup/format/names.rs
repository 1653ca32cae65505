//! Object names. Everything of one backup shares a prefix, and nothing else may.

use serde::{Deserialize, Serialize};
use snafu::{Snafu, ensure};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// An availability zone's name: part of an object name, so letters, digits, `-`, `.` and `_` only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneName(String);

/// A zone name that is none.
#[derive(Debug, Snafu)]
#[snafu(display("{text:?} is no availability zone: 1 to 64 letters, digits, '-', '.' and '_'"))]
pub struct InvalidZoneName {
    text: String,
}

impl FromStr for ZoneName {
    type Err = InvalidZoneName;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fine = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        ensure!(
            !text.is_empty() && text.len() <= 64 && text.chars().all(fine),
            InvalidZoneNameSnafu { text }
        );
        Ok(ZoneName(text.to_owned()))
    }
}

impl Default for ZoneName {
    fn default() -> Self {
        ZoneName("nova".to_owned())
    }
}

impl fmt::Display for ZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the names of one backup's objects begin with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    text: String,
    volume: Uuid,
    backup: Uuid,
}

impl Prefix {
    /// The prefix of a backup made at `timestamp` (`YYYYmmddHHMMSS`, UTC).
    pub fn new(volume: Uuid, timestamp: &str, zone: &ZoneName, backup: Uuid) -> Self {
        let text = format!("volume_{volume}/{timestamp}/az_{zone}_backup_{backup}");
        Prefix { text, volume, backup }
    }

    /// Splits an object's key into the backup that it belongs to and the rest of its name;
    /// `None` for a key that is no object of a backup.
    pub fn of_key(key: &str) -> Option<(Prefix, &str)> {
        let mut parts = key.splitn(3, '/');
        let volume = parse_uuid(parts.next()?.strip_prefix("volume_")?)?;
        let timestamp = parts.next()?;
        let name = parts.next()?;
        let is_time = timestamp.len() == 14 && timestamp.bytes().all(|b| b.is_ascii_digit());
        if !is_time || !name.starts_with("az_") {
            return None;
        }
        // A zone may itself contain the word: the last one before a UUID is the separator.
        let (at, backup) = name.rmatch_indices("_backup_").find_map(|(at, word)| {
            let id = name.get(at + word.len()..at + word.len() + 36)?;
            Some((at + word.len() + 36, parse_uuid(id)?))
        })?;
        let cut = key.len() - name.len() + at;
        Some((Prefix { text: key[..cut].to_owned(), volume, backup }, &key[cut..]))
    }

    /// What every key of a volume's backups begins with.
    pub fn of_volume(volume: Uuid) -> String {
        format!("volume_{volume}/")
    }

    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whose backup.
    pub fn volume(&self) -> Uuid {
        self.volume
    }

    /// Which backup.
    pub fn backup(&self) -> Uuid {
        self.backup
    }

    /// The name of the `number`th chunk, counted from 1.
    pub fn chunk(&self, number: u64) -> String {
        format!("{}-{number:05}", self.text)
    }

    /// The hash file's name.
    pub fn hashes(&self) -> String {
        format!("{}_sha256file", self.text)
    }

    /// The manifest's name.
    pub fn manifest(&self) -> String {
        format!("{}_metadata", self.text)
    }

    /// Whether `key` is a chunk's name under this prefix.
    pub fn owns_chunk(&self, key: &str) -> bool {
        key.strip_prefix(&self.text).and_then(|rest| rest.strip_prefix('-')).is_some_and(|digits| {
            (5..=18).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
        })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Only the plain, hyphenated, lower-case form: other spellings of one id would be other names.
fn parse_uuid(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text).ok().filter(|id| id.hyphenated().to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B4: names are Cinder's, six digits after 99999.
    #[test]
    fn names_are_cinders() {
        let prefix = Prefix::new(Uuid::nil(), "20261121194302", &ZoneName::default(), Uuid::max());
        let text = "volume_00000000-0000-0000-0000-000000000000/20261121194302/\
                    az_nova_backup_ffffffff-ffff-ffff-ffff-ffffffffffff";
        assert_eq!(prefix.as_str(), text);
        assert_eq!(prefix.chunk(1), format!("{text}-00001"));
        assert_eq!(prefix.chunk(100_000), format!("{text}-100000"));
        for name in [prefix.chunk(7), prefix.hashes(), prefix.manifest()] {
            let (found, rest) = Prefix::of_key(&name).unwrap();
            assert_eq!((found.as_str(), format!("{text}{rest}")), (text, name.clone()));
            assert_eq!((found.volume(), found.backup()), (Uuid::nil(), Uuid::max()));
        }
    }

    #[test]
    fn a_zone_that_contains_the_separator_is_split_right() {
        let zone: ZoneName = "a_backup_b".parse().unwrap();
        let prefix = Prefix::new(Uuid::nil(), "20261121194302", &zone, Uuid::max());
        assert_eq!(Prefix::of_key(&prefix.manifest()).unwrap(), (prefix.clone(), "_metadata"));
    }

    #[test]
    fn foreign_and_hostile_names_are_nobodys() {
        let prefix = Prefix::new(Uuid::nil(), "20261121194302", &ZoneName::default(), Uuid::max());
        for key in ["", "volume_x/1/az_n_backup_y", "volume_00000000-0000-0000-0000-000000000000/x/az_"] {
            assert_eq!(Prefix::of_key(key), None, "{key}");
        }
        for end in ["-1", "-0000a", "-00001/../x", "_metadata", "-", "-00001 "] {
            assert!(!prefix.owns_chunk(&format!("{prefix}{end}")), "{end}");
        }
        assert!("a/../b".parse::<ZoneName>().is_err());
    }
}
