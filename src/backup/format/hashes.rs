//! `_sha256file`: one SHA-256 per hash block of the whole volume. 32 bytes each in memory; the JSON
//! is 70 bytes each, so no tree of it is ever built.

use super::manifest::check_version;
use super::{FormatError, InvalidSnafu, MAX_CHUNK_SIZE, MIN_HASH_BLOCK, Prefix, SyntaxSnafu, VERSION, json};
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use snafu::{ResultExt, ensure};
use std::fmt;

/// A SHA-256.
pub type Digest = [u8; 32];

/// The digest of one hash block.
pub fn digest_of(block: &[u8]) -> Digest {
    Sha256::digest(block).into()
}

/// Whether a hash block may have so many bytes: no chunk is shorter than one, but for the volume's end.
pub fn is_hash_block(bytes: u64) -> bool {
    (MIN_HASH_BLOCK..=MAX_CHUNK_SIZE).contains(&bytes)
}

/// The digest of a block of `length` zeros. All of them are hashed: for a large block off the async threads.
pub fn zero_digest(length: u64) -> Digest {
    let mut hasher = Sha256::new();
    let zeros = [0u8; 4096];
    let mut left = length;
    while left > 0 {
        let step = left.min(zeros.len() as u64);
        hasher.update(&zeros[..step as usize]);
        left -= step;
    }
    hasher.finalize().into()
}

/// Lower-case hex.
pub(in crate::backup) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

pub(super) fn unhex(text: &str) -> Option<Digest> {
    let bytes = text.as_bytes();
    if bytes.len() != 64 {
        return None;
    }
    let mut digest = [0; 32];
    for (out, pair) in digest.iter_mut().zip(bytes.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *out = (high << 4 | low) as u8;
    }
    Some(digest)
}

/// The hashes of a volume at one backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashList {
    /// Bytes per hash; the last block may be shorter.
    pub block: u64,
    /// In the order of the volume.
    pub digests: Vec<Digest>,
}

impl HashList {
    /// The bytes to store, with the manifest's header fields.
    pub fn encode(
        &self,
        prefix: &Prefix,
        name: Option<&str>,
        description: Option<&str>,
        created_at: &str,
    ) -> Result<Vec<u8>, FormatError> {
        let stored = Stored {
            backup_description: description.map(str::to_owned),
            backup_id: prefix.backup().to_string(),
            backup_name: name.map(str::to_owned),
            chunk_size: self.block,
            created_at: created_at.to_owned(),
            sha256s: Digests(&self.digests),
            version: VERSION,
            volume_id: prefix.volume().to_string(),
        };
        json::to_vec(&stored).context(SyntaxSnafu { key: prefix.hashes() })
    }

    /// Reads and checks what was stored under `prefix`.
    pub fn parse(prefix: &Prefix, bytes: &[u8]) -> Result<Self, FormatError> {
        let key = prefix.hashes();
        check_version(&key, bytes)?;
        let found: Parsed = serde_json::from_slice(bytes).context(SyntaxSnafu { key: &key })?;
        let same =
            found.backup_id == prefix.backup().to_string() && found.volume_id == prefix.volume().to_string();
        ensure!(same, InvalidSnafu { key: &key, reason: "it is another backup's or another volume's" });
        let reason = format!("a hash block of {} bytes", found.chunk_size);
        ensure!(is_hash_block(found.chunk_size), InvalidSnafu { key, reason });
        Ok(HashList { block: found.chunk_size, digests: found.sha256s.0 })
    }

    /// Whether this is the number of hashes that a volume of `size` bytes has.
    pub fn fits(&self, size: u64) -> bool {
        size.div_ceil(self.block) == self.digests.len() as u64
    }
}

/// Field order is the sorted order that the format has.
#[derive(Serialize)]
struct Stored<'a> {
    backup_description: Option<String>,
    backup_id: String,
    backup_name: Option<String>,
    chunk_size: u64,
    created_at: String,
    sha256s: Digests<'a>,
    version: &'static str,
    volume_id: String,
}

struct Digests<'a>(&'a [Digest]);

impl Serialize for Digests<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|digest| hex(digest)))
    }
}

#[derive(Deserialize)]
struct Parsed {
    backup_id: String,
    chunk_size: u64,
    sha256s: ParsedDigests,
    volume_id: String,
}

struct ParsedDigests(Vec<Digest>);

/// One digest, decoded where it stands.
struct ParsedDigest(Digest);

impl<'de> Deserialize<'de> for ParsedDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Hex;
        impl Visitor<'_> for Hex {
            type Value = ParsedDigest;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a SHA-256 in hex")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ParsedDigest, E> {
                unhex(text).map(ParsedDigest).ok_or_else(|| E::custom(format!("{text:?} is no SHA-256")))
            }
        }
        deserializer.deserialize_str(Hex)
    }
}

impl<'de> Deserialize<'de> for ParsedDigests {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = ParsedDigests;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of SHA-256 in hex")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<ParsedDigests, A::Error> {
                let mut digests = Vec::new();
                while let Some(ParsedDigest(digest)) = seq.next_element()? {
                    if digests.len() >= u32::MAX as usize {
                        return Err(A::Error::custom("more hashes than any volume has"));
                    }
                    digests.push(digest);
                }
                Ok(ParsedDigests(digests))
            }
        }
        deserializer.deserialize_seq(List)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ZoneName;
    use super::*;
    use uuid::Uuid;

    /// B5: the constant of cinder's zero block.
    #[test]
    fn the_digest_of_zeros() {
        let expected = "c35020473aed1b4642cd726cad727b63fff2824ad68cedd7ffb73c7cbd890479";
        assert_eq!(hex(&zero_digest(32 * 1024)), expected);
        assert_eq!(zero_digest(700), digest_of(&[0; 700]));
        assert_eq!(unhex(expected), Some(zero_digest(32 * 1024)));
        assert_eq!(unhex("zz"), None);
    }

    /// Of a block that no chunk can hold, nobody ever hashes the zeros.
    #[test]
    fn blocks_that_are_none() {
        let prefix = Prefix::new(Uuid::nil(), "20261121194302", &ZoneName::default(), Uuid::max());
        for (block, good) in [(0, false), (511, false), (512, true), (1 << 30, true), ((1 << 30) + 1, false)]
        {
            let text = HashList { block, digests: vec![[7; 32]] }.encode(&prefix, None, None, "now").unwrap();
            let parsed = HashList::parse(&prefix, &text);
            assert_eq!(parsed.is_ok(), good, "{block}: {parsed:?}");
        }
    }
}
