//! `_metadata`: what a backup consists of. Written last, read first, and never trusted.

use super::{
    Compression, FormatError, InvalidSnafu, MAX_CHUNK_SIZE, Prefix, SyntaxSnafu, UnknownMetaVersionSnafu,
    UnknownVersionSnafu, VERSION, json,
};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use snafu::{ResultExt, ensure};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use uuid::Uuid;

/// One chunk: a run of the volume's bytes in one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The object's key.
    pub key: String,
    /// Where in the volume.
    pub offset: u64,
    /// How many bytes of the volume.
    pub length: u64,
    /// How they are stored.
    pub compression: Compression,
    /// MD5 of the volume's bytes, in hex.
    pub md5: String,
}

impl Extent {
    /// The first byte after it. Checked when the manifest was parsed.
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }
}

/// MD5 in hex.
pub fn md5_hex(data: &[u8]) -> String {
    super::hashes::hex(&md5_lanes::md5(data))
}

/// A manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Where its objects are; names both ids.
    pub prefix: Prefix,
    /// What it was made on; `None` for a full backup.
    pub parent: Option<Uuid>,
    /// As given by the user.
    pub name: Option<String>,
    /// As given by the user.
    pub description: Option<String>,
    /// `2026-11-21 19:30:00.123456+00:00`, as Python prints it.
    pub created_at: String,
    /// The volume's metadata: JSON in a string.
    pub volume_meta: Option<String>,
    /// In the order of writing.
    pub extents: Vec<Extent>,
}

impl Manifest {
    /// The bytes to store.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let stored = Stored {
            backup_description: self.description.clone(),
            backup_id: self.prefix.backup().to_string(),
            backup_name: self.name.clone(),
            created_at: self.created_at.clone(),
            objects: Objects(&self.extents),
            parent_id: self.parent.map(|id| id.to_string()),
            version: VERSION.to_owned(),
            volume_id: self.prefix.volume().to_string(),
            volume_meta: self.volume_meta.clone(),
        };
        json::to_vec(&stored).context(SyntaxSnafu { key: self.prefix.manifest() })
    }

    /// Reads and checks what was stored under `prefix`.
    pub fn parse(prefix: &Prefix, bytes: &[u8]) -> Result<Self, FormatError> {
        let key = prefix.manifest();
        check_version(&key, bytes)?;
        let stored: Stored<Vec<StoredExtent<'_>>> =
            serde_json::from_slice(bytes).context(SyntaxSnafu { key: &key })?;
        let invalid = |reason: String| InvalidSnafu { key: &key, reason };
        for (field, found, expected) in [
            ("backup_id", &stored.backup_id, prefix.backup()),
            ("volume_id", &stored.volume_id, prefix.volume()),
        ] {
            let reason = format!("its {field} is {found:?}, its name says {expected}");
            ensure!(*found == expected.to_string(), invalid(reason));
        }
        let parent = match &stored.parent_id {
            None => None,
            Some(text) => match text.parse::<Uuid>() {
                Ok(id) => Some(id),
                Err(e) => return invalid(format!("its parent_id {text:?} is no UUID: {e}")).fail(),
            },
        };
        let mut extents = Vec::with_capacity(stored.objects.len().min(1 << 20));
        for object in stored.objects {
            extents.push(object.check(prefix)?);
        }
        check_disjoint(&key, &extents)?;
        if let Some(meta) = &stored.volume_meta {
            VolumeMeta::check(&key, meta)?;
        }
        Ok(Manifest {
            prefix: prefix.clone(),
            parent,
            name: stored.backup_name,
            description: stored.backup_description,
            created_at: stored.created_at,
            volume_meta: stored.volume_meta,
            extents,
        })
    }
}

/// Dispatches on the version before anything else of the shape is expected.
pub(super) fn check_version(key: &str, bytes: &[u8]) -> Result<(), FormatError> {
    #[derive(Deserialize)]
    struct Version {
        version: String,
    }
    let found: Version = serde_json::from_slice(bytes).context(SyntaxSnafu { key })?;
    ensure!(found.version == VERSION, UnknownVersionSnafu { key, version: found.version });
    Ok(())
}

/// The same for a version that was met alone, as JSON.
pub(super) fn parse_version(key: &str, json: &str) -> Result<(), FormatError> {
    let version: String = serde_json::from_str(json).context(SyntaxSnafu { key })?;
    ensure!(version == VERSION, UnknownVersionSnafu { key, version });
    Ok(())
}

fn check_disjoint(key: &str, extents: &[Extent]) -> Result<(), FormatError> {
    let mut names = HashSet::with_capacity(extents.len());
    for extent in extents {
        let reason = || format!("it lists {} twice", extent.key);
        ensure!(names.insert(&extent.key), InvalidSnafu { key, reason: reason() });
    }
    let mut sorted: Vec<&Extent> = extents.iter().collect();
    sorted.sort_by_key(|extent| extent.offset);
    for pair in sorted.windows(2) {
        let reason = || format!("{} and {} overlap", pair[0].key, pair[1].key);
        ensure!(pair[0].end() <= pair[1].offset, InvalidSnafu { key, reason: reason() });
    }
    Ok(())
}

/// Field order is the sorted order that the format has.
#[derive(Serialize, Deserialize)]
struct Stored<O> {
    backup_description: Option<String>,
    backup_id: String,
    backup_name: Option<String>,
    created_at: String,
    objects: O,
    parent_id: Option<String>,
    version: String,
    volume_id: String,
    volume_meta: Option<String>,
}

/// A map of one key, the object's, to this. Texts stay where they were read, for there may be hundreds of thousands.
struct StoredExtent<'a> {
    key: Cow<'a, str>,
    fields: StoredFields<Text<'a>>,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Serialize, Deserialize)]
struct StoredFields<T> {
    compression: T,
    length: u64,
    md5: T,
    offset: u64,
}

/// Written without a copy: there may be hundreds of thousands.
struct Objects<'a>(&'a [Extent]);

struct Object<'a>(&'a Extent);

impl Serialize for Objects<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Object))
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Extent { key, offset, length, compression, md5 } = self.0;
        let compression = compression.to_string();
        let (compression, md5) = (compression.as_str(), md5.as_str());
        let fields = StoredFields { compression, length: *length, md5, offset: *offset };
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(key, &fields)?;
        map.end()
    }
}

impl StoredExtent<'_> {
    fn check(self, prefix: &Prefix) -> Result<Extent, FormatError> {
        let StoredExtent { key, fields } = self;
        let invalid = |reason: String| InvalidSnafu { key: prefix.manifest(), reason };
        ensure!(prefix.owns_chunk(&key), invalid(format!("{key:?} is no chunk of this backup")));
        let StoredFields { compression: Text(compression), length, md5: Text(md5), offset } = fields;
        ensure!(
            (1..=MAX_CHUNK_SIZE).contains(&length) && offset.checked_add(length).is_some(),
            invalid(format!("{key} cannot have offset {offset} and length {length}"))
        );
        let compression = match compression.parse() {
            Ok(compression) => compression,
            Err(e) => return invalid(format!("{key}: {e}")).fail(),
        };
        let is_md5 = md5.len() == 32 && md5.bytes().all(|b| b.is_ascii_hexdigit());
        ensure!(is_md5, invalid(format!("{key} has {md5:?} for an md5")));
        Ok(Extent { key: key.into_owned(), offset, length, compression, md5: md5.to_ascii_lowercase() })
    }
}

impl<'de> Deserialize<'de> for StoredExtent<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneKey;
        impl<'de> Visitor<'de> for OneKey {
            type Value = StoredExtent<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of one object's name to its offset, length, compression and md5")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                use serde::de::Error;
                let first = map.next_entry()?;
                let (Text(key), fields) = first.ok_or_else(|| A::Error::custom("an empty map"))?;
                match map.next_key::<String>()? {
                    None => Ok(StoredExtent { key, fields }),
                    Some(second) => Err(A::Error::custom(format!("a second key {second:?}"))),
                }
            }
        }
        deserializer.deserialize_map(OneKey)
    }
}

/// The volume's metadata, in the envelope that Cinder reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VolumeMeta {
    version: u32,
    #[serde(rename = "volume-base-metadata")]
    base: BTreeMap<String, serde_json::Value>,
    #[serde(rename = "volume-metadata")]
    extra: BTreeMap<String, String>,
}

impl VolumeMeta {
    /// `base` under the keys of Cinder's volume table, `extra` under keys of our own.
    pub fn new(base: BTreeMap<String, serde_json::Value>, extra: BTreeMap<String, String>) -> Self {
        VolumeMeta { version: 2, base, extra }
    }

    /// As the string that a manifest holds.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("maps with text keys always become JSON")
    }

    /// The metadata of its own that a volume had, as far as they are texts. `text` was checked with its manifest.
    pub(in crate::backup) fn extra_in(text: &str) -> BTreeMap<String, String> {
        #[derive(Deserialize)]
        struct Envelope {
            #[serde(default, rename = "volume-metadata")]
            extra: BTreeMap<String, serde_json::Value>,
        }
        let envelope: Option<Envelope> = serde_json::from_str(text).ok();
        let extra = envelope.map(|envelope| envelope.extra).unwrap_or_default().into_iter();
        extra.filter_map(|(key, value)| Some((key, value.as_str()?.to_owned()))).collect()
    }

    fn check(key: &str, text: &str) -> Result<(), FormatError> {
        #[derive(Deserialize)]
        struct Envelope {
            version: serde_json::Value,
        }
        let envelope: Envelope = serde_json::from_str(text).context(SyntaxSnafu { key })?;
        let known = matches!(envelope.version.as_u64(), Some(1 | 2));
        ensure!(known, UnknownMetaVersionSnafu { key, version: envelope.version.to_string() });
        Ok(())
    }
}
