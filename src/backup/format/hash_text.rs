//! `_sha256file` as text: what stands before, between and behind its digests. One digest takes 72 bytes,
//! always the same ones for the same digest, so that stretches of a file can be copied as they are.

use super::hashes::{Digest, is_hash_block, unhex, zero_digest};
use super::manifest::parse_version;
use super::{FormatError, InvalidSnafu, Prefix, SyntaxSnafu, VERSION, json};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};
use snafu::{OptionExt, ResultExt, ensure};

/// Bytes of one digest with what stands before it. The first one of a file has no comma.
pub const ENTRY: usize = 72;
const BEFORE: &[u8; 7] = b",\n    \"";
const LIST: &[u8] = b"\n  \"sha256s\": [";

/// One digest as it stands in the file, comma first.
pub fn entry(digest: &Digest) -> [u8; ENTRY] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'"'; ENTRY];
    text[..BEFORE.len()].copy_from_slice(BEFORE);
    for (pair, byte) in text[BEFORE.len()..].chunks_exact_mut(2).zip(digest) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    text
}

/// The digest of an entry.
pub fn digest_in(entry: &[u8]) -> Option<Digest> {
    unhex(std::str::from_utf8(entry.get(BEFORE.len()..ENTRY - 1)?).ok()?)
}

/// Whether these 72 bytes are an entry as we write it.
pub fn is_entry(text: &[u8; ENTRY]) -> bool {
    let hex = &text[BEFORE.len()..ENTRY - 1];
    // No early end: this way the compiler compares many bytes at once.
    let fine =
        hex.iter().fold(true, |fine, b| fine & ((b.wrapping_sub(b'0') < 10) | (b.wrapping_sub(b'a') < 6)));
    fine && text.starts_with(BEFORE) && text[ENTRY - 1] == b'"'
}

/// The entry of a digest that is written in another way: no comma, upper case.
pub fn entry_of_text(text: &str) -> Option<[u8; ENTRY]> {
    unhex(text).map(|digest| entry(&digest))
}

/// The entries of blocks of zeros, made once.
#[derive(Debug)]
pub struct ZeroText {
    block: u64,
    entry: [u8; ENTRY],
    many: Bytes,
}

impl ZeroText {
    /// For up to `most` blocks at a time.
    pub fn new(block: u64, most: usize) -> Self {
        let entry = entry(&zero_digest(block));
        ZeroText { block, entry, many: entry.repeat(most).into() }
    }

    /// The entry of a block of `length` zeros.
    pub fn of(&self, length: u64) -> [u8; ENTRY] {
        if length == self.block { self.entry } else { entry(&zero_digest(length)) }
    }

    /// The entries of `length` zeros in blocks.
    pub fn many(&self, length: u64) -> Bytes {
        let whole = (length / self.block) as usize * ENTRY;
        if length.is_multiple_of(self.block) && whole <= self.many.len() {
            return self.many.slice(..whole);
        }
        let mut text = self.entry.repeat(whole / ENTRY);
        if !length.is_multiple_of(self.block) {
            text.extend_from_slice(&self.of(length % self.block));
        }
        text.into()
    }
}

/// What stands around the digests.
#[derive(Clone, Debug)]
pub struct HashFrame {
    /// Up to the list's bracket.
    pub head: Bytes,
    /// From its closing bracket on; a list that is not empty has a line break before.
    pub tail: Bytes,
}

impl HashFrame {
    /// With the manifest's header fields.
    pub fn new(
        prefix: &Prefix,
        block: u64,
        name: Option<&str>,
        description: Option<&str>,
        created_at: &str,
    ) -> Result<Self, FormatError> {
        let (backup_id, volume_id) = (prefix.backup().to_string(), prefix.volume().to_string());
        let sha256s = [];
        let fields = Fields {
            backup_description: description,
            backup_id: &backup_id,
            backup_name: name,
            chunk_size: block,
            created_at,
            sha256s,
            version: VERSION,
            volume_id: &volume_id,
        };
        let text = Bytes::from(json::to_vec(&fields).context(SyntaxSnafu { key: prefix.hashes() })?);
        // A line break inside a string is escaped, so this stands there once.
        let at = text.windows(LIST.len()).position(|part| part == LIST);
        let at = at.context(InvalidSnafu { key: prefix.hashes(), reason: "it has no list of hashes" })?;
        let cut = at + LIST.len();
        Ok(HashFrame { head: text.slice(..cut), tail: text.slice(cut..) })
    }
}

/// Field order is the sorted order that the format has.
#[derive(Serialize)]
struct Fields<'a> {
    backup_description: Option<&'a str>,
    backup_id: &'a str,
    backup_name: Option<&'a str>,
    chunk_size: u64,
    created_at: &'a str,
    sha256s: [u8; 0],
    version: &'a str,
    volume_id: &'a str,
}

/// The header fields that a reader needs, as far as they were met yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HashHeader {
    /// The format's version, as JSON.
    pub version: Option<String>,
    /// Bytes per hash, as JSON.
    pub chunk_size: Option<String>,
    /// As JSON.
    pub backup_id: Option<String>,
    /// As JSON.
    pub volume_id: Option<String>,
}

impl HashHeader {
    /// Where a member's value belongs; `None` for one that nobody needs.
    pub fn field(&mut self, name: &str) -> Option<&mut Option<String>> {
        match name {
            "version" => Some(&mut self.version),
            "chunk_size" => Some(&mut self.chunk_size),
            "backup_id" => Some(&mut self.backup_id),
            "volume_id" => Some(&mut self.volume_id),
            _ => None,
        }
    }

    /// Whether nothing is missing.
    pub fn is_complete(&self) -> bool {
        [&self.version, &self.chunk_size, &self.backup_id, &self.volume_id].iter().all(|f| f.is_some())
    }

    /// Takes what is missing here from the members of a JSON object.
    pub fn fill(&mut self, members: &[u8]) -> bool {
        let Ok(members) = serde_json::from_slice::<Map<String, Value>>(members) else { return false };
        for (name, value) in members {
            if let Some(field) = self.field(&name).filter(|field| field.is_none()) {
                *field = Some(value.to_string());
            }
        }
        true
    }

    /// Dispatches on the version, then checks the rest; answers the bytes per hash.
    pub fn check(&self, prefix: &Prefix) -> Result<u64, FormatError> {
        let key = prefix.hashes();
        let missing = |name: &str| InvalidSnafu { key: prefix.hashes(), reason: format!("it has no {name}") };
        parse_version(&key, self.version.as_ref().context(missing("version"))?)?;
        let text = |field: &Option<String>, name: &str| {
            let raw = field.as_ref().context(missing(name))?;
            serde_json::from_str::<String>(raw).context(SyntaxSnafu { key: &key })
        };
        let same = text(&self.backup_id, "backup_id")? == prefix.backup().to_string()
            && text(&self.volume_id, "volume_id")? == prefix.volume().to_string();
        ensure!(same, InvalidSnafu { key: &key, reason: "it is another backup's or another volume's" });
        let raw = self.chunk_size.as_ref().context(missing("chunk_size"))?;
        let block: u64 = serde_json::from_str(raw).context(SyntaxSnafu { key: &key })?;
        let reason = format!("a hash block of {block} bytes");
        ensure!(is_hash_block(block), InvalidSnafu { key, reason });
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HashList, ZoneName, digest_of};
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    proptest! {
        /// Frame and entries are, to the byte, what the whole list is when it is encoded at once.
        #[test]
        fn bit_by_bit_is_at_once(seeds in prop::collection::vec(any::<u8>(), 0..40), name in "\\PC{0,20}") {
            let prefix = Prefix::new(Uuid::nil(), "20261121194302", &ZoneName::default(), Uuid::max());
            let digests: Vec<Digest> = seeds.iter().map(|seed| digest_of(&[*seed])).collect();
            let name = Some(name.as_str());
            let frame = HashFrame::new(&prefix, 4096, name, Some("\n  \"sha256s\": ["), "now").unwrap();
            let mut text = frame.head.to_vec();
            for (at, digest) in digests.iter().enumerate() {
                let entry = entry(digest);
                assert!(is_entry(&entry) && digest_in(&entry) == Some(*digest));
                text.extend_from_slice(&entry[usize::from(at == 0)..]);
            }
            if !digests.is_empty() {
                text.extend_from_slice(b"\n  ");
            }
            text.extend_from_slice(&frame.tail);
            let list = HashList { block: 4096, digests };
            let whole = list.encode(&prefix, name, Some("\n  \"sha256s\": ["), "now").unwrap();
            assert_eq!(String::from_utf8(text).unwrap(), String::from_utf8(whole).unwrap());
        }
    }

    #[test]
    fn what_is_no_entry() {
        let good = entry(&[0xab; 32]);
        for (at, byte) in [(0, b' '), (1, b' '), (6, b'\''), (7, b'A'), (40, b'g'), (70, b'"'), (71, b',')] {
            let mut bad = good;
            bad[at] = byte;
            assert!(!is_entry(&bad), "{at}");
        }
        assert_eq!(entry_of_text(&"AB".repeat(32)), Some(good));
        assert_eq!(entry_of_text("ab"), None);
    }

    #[test]
    fn text_of_zeros() {
        let zeros = ZeroText::new(4096, 3);
        let expected =
            |lengths: &[u64]| lengths.iter().flat_map(|l| entry(&zero_digest(*l))).collect::<Vec<_>>();
        assert_eq!(zeros.many(8192), expected(&[4096, 4096]));
        assert_eq!(zeros.many(5 * 4096), expected(&[4096; 5]));
        assert_eq!(zeros.many(5000), expected(&[4096, 904]));
    }
}
