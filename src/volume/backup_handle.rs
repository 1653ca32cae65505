//! The name of a backup where CSI has the name of a snapshot: `bak://<repository>/<volume>/<backup>`, and `cinder://…`
//! for one that Cinder wrote. Both name the same kind of set: a repository of the operator's, and the two ids that
//! the names of the set's objects hold.

use super::id::{InvalidId, InvalidIdSnafu, parse_uuid};
use serde::{Deserialize, Serialize};
use snafu::ensure;
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// CSI bounds ids to 128 bytes; two UUIDs, the longer scheme and the slashes leave 46.
const MAX_NAME: usize = 40;

/// A repository's name: a DNS subdomain of at most 40 letters, as Kubernetes has it for an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryName(String);

impl RepositoryName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepositoryName {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let what = "repository name (lower-case letters, digits, '-' and '.', at most 40)";
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let label = |part: &str| {
            !part.is_empty() && part.chars().all(fine) && !part.starts_with('-') && !part.ends_with('-')
        };
        ensure!(text.len() <= MAX_NAME && text.split('.').all(label), InvalidIdSnafu { what, text });
        Ok(RepositoryName(text.to_owned()))
    }
}

impl TryFrom<String> for RepositoryName {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<RepositoryName> for String {
    fn from(name: RepositoryName) -> String {
        name.0
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who wrote a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Writer {
    /// Strata: its metadata say what the volume was used as.
    Strata,
    /// OpenStack Cinder: its metadata are about a volume there.
    Cinder,
}

impl Writer {
    const ALL: [Writer; 2] = [Writer::Strata, Writer::Cinder];

    fn scheme(self) -> &'static str {
        match self {
            Writer::Strata => "bak://",
            Writer::Cinder => "cinder://",
        }
    }
}

/// `bak://<repository>/<volume>/<backup>` or `cinder://<repository>/<volume>/<backup>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupHandle {
    /// Who wrote it.
    pub writer: Writer,
    /// Where it is.
    pub repository: RepositoryName,
    /// Whose backup it is: the id in its objects' names.
    pub volume: Uuid,
    /// The backup.
    pub backup: Uuid,
}

impl BackupHandle {
    /// Whether a text is meant as one, rightly written or not: no snapshot's handle begins like it.
    pub fn is_meant(text: &str) -> bool {
        Writer::ALL.iter().any(|writer| text.starts_with(writer.scheme()))
    }
}

impl FromStr for BackupHandle {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let what = "backup's handle (bak://<repository>/<volume>/<backup> or cinder://<repository>/<volume>/<backup>, \
                    volume and backup being lower-case UUIDs)";
        let invalid = || InvalidIdSnafu { what, text }.build();
        let written = |writer: &Writer| Some((*writer, text.strip_prefix(writer.scheme())?));
        let (writer, rest) = Writer::ALL.iter().find_map(written).ok_or_else(invalid)?;
        let [repository, volume, backup] = rest.split('/').collect::<Vec<_>>()[..] else {
            return Err(invalid());
        };
        Ok(BackupHandle {
            writer,
            repository: repository.parse().map_err(|_| invalid())?,
            volume: parse_uuid(what, volume).map_err(|_| invalid())?,
            backup: parse_uuid(what, backup).map_err(|_| invalid())?,
        })
    }
}

impl fmt::Display for BackupHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}/{}/{}", self.writer.scheme(), self.repository, self.volume, self.backup)
    }
}

impl TryFrom<String> for BackupHandle {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<BackupHandle> for String {
    fn from(handle: BackupHandle) -> String {
        handle.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const ID: &str = "6f1d3c52-8b7a-4d0e-9a41-52c71e0b7a01";

    #[test]
    fn handles_survive_a_round_trip_and_fit_csi() {
        for scheme in ["bak", "cinder"] {
            let text = format!("{scheme}://{}/{ID}/{}", "r".repeat(40), Uuid::max());
            assert!(text.len() <= 128, "{} bytes", text.len());
            let handle: BackupHandle = text.parse().unwrap();
            assert_eq!((handle.volume.to_string(), handle.backup), (ID.to_owned(), Uuid::max()));
            assert_eq!(handle.to_string(), text);
        }
    }

    /// Invariant 6: what is not exactly a handle is none.
    #[rstest]
    #[case("bak://r/v/b")]
    #[case("bak://r/ID")]
    #[case("bak://r/ID/ID/ID")]
    #[case("bak://r/ID/ID/")]
    #[case("bak:///ID/ID")]
    #[case("bak://R/ID/ID")]
    #[case("bak://../ID/ID")]
    #[case("bak://-r/ID/ID")]
    #[case("bak://r./ID/ID")]
    #[case("bak://r%2f/ID/ID")]
    #[case("BAK://r/ID/ID")]
    #[case("s3://r/ID/ID")]
    #[case("bak://r/{ID}/ID")]
    #[case("bak://r/ID/ID\0")]
    #[case("bak://rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr/ID/ID")]
    fn a_malformed_handle_is_refused(#[case] text: &str) {
        let text = text.replace("ID", ID);
        let error = text.parse::<BackupHandle>().unwrap_err();
        assert!(error.to_string().contains("bak://<repository>/<volume>/<backup>"), "{error}");
        assert!(text.to_uppercase().parse::<BackupHandle>().is_err());
    }
}
