//! What is backed up.

use crate::image::{ChainReader, ReadError};
use serde_json::Value;
use std::ops::Range;
use uuid::Uuid;

/// A point in the life of a volume's data, as the manifest of its backup remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DataPoint {
    /// Of the volume's record: ids come from names, and names are used again.
    pub incarnation: Uuid,
    /// Names the state that the snapshot holds: the id of the layer that froze it. A snapshot's own id comes from its
    /// name, which may be used again within the life of a volume, for another state.
    pub snapshot: Uuid,
}

/// Keys of a backup's volume metadata.
const INCARNATION: &str = "strata.incarnation";
const SNAPSHOT: &str = "strata.snapshot-id";
const COPIED_VOLUME: &str = "strata.copied-from-volume";
const COPIED_BACKUP: &str = "strata.copied-from-backup";
const EXTRA: &str = "volume-metadata";

impl DataPoint {
    /// The point that a manifest's volume metadata remembers.
    pub fn of_meta(meta: &str) -> Option<DataPoint> {
        let meta: Value = serde_json::from_str(meta).ok()?;
        let id = |key: &str| meta.get(EXTRA)?.get(key)?.as_str()?.parse().ok();
        Some(DataPoint { incarnation: id(INCARNATION)?, snapshot: id(SNAPSHOT)? })
    }

    /// Volume metadata with this point in it; as it is where it is no metadata.
    pub(super) fn note_in(&self, meta: &str) -> String {
        note(meta, &[(INCARNATION, self.incarnation), (SNAPSHOT, self.snapshot)])
    }
}

/// Volume metadata with the backup in it that objects were copied from.
pub(super) fn note_copied(meta: &str, volume: Uuid, backup: Uuid) -> String {
    note(meta, &[(COPIED_VOLUME, volume), (COPIED_BACKUP, backup)])
}

fn note(meta: &str, ids: &[(&str, Uuid)]) -> String {
    let Ok(mut noted) = serde_json::from_str::<Value>(meta) else { return meta.to_owned() };
    let Some(extra) = noted.get_mut(EXTRA).and_then(Value::as_object_mut) else {
        return meta.to_owned();
    };
    extra.extend(ids.iter().map(|(key, id)| ((*key).to_owned(), id.to_string().into())));
    noted.to_string()
}

/// Something that a volume was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Another volume, and its states on the way back, the latest first: what changed since each is known.
    Volume {
        /// Which.
        volume: Uuid,
        /// Its states; none where the way to it is not known.
        states: Vec<DataPoint>,
    },
    /// A backup.
    Backup {
        /// Whose it is.
        volume: Uuid,
        /// Which.
        backup: Uuid,
        /// The state that holds just what it holds, if that is known.
        state: Option<DataPoint>,
    },
}

/// Where a volume's bytes may differ from what they were at an earlier point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Anywhere; and why nothing better is known.
    Unknown(String),
    /// Only here: ascending, disjoint. What lies past the earlier size counts as changed.
    Only(Vec<Range<u64>>),
}

/// The bytes of a volume at one instant, which do not change while they are read. Blocking: called
/// on blocking threads, from several of them at once.
pub trait SnapshotSource: Send + Sync + 'static {
    /// The volume's size in bytes.
    fn size(&self) -> u64;
    /// The parts of `range` that may hold anything but zeros: ascending, disjoint, not empty.
    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError>;
    /// Fills `buffer` from `offset`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), ReadError>;
    /// Whether it is no longer certain that the bytes stay as they are. Asked after each read, so it should
    /// cost next to nothing.
    fn is_lost(&self) -> bool {
        false
    }
    /// Which point this is, if a later one can ever be compared with it.
    fn point(&self) -> Option<DataPoint> {
        None
    }
    /// What the volume was made from, the latest first; nothing if it was made from nothing, or from what is not known.
    fn origins(&self) -> Vec<Origin> {
        Vec::new()
    }
    /// What may have changed since an earlier point, also of what the volume was made from.
    fn changed_since(&self, earlier: &DataPoint) -> Result<Changed, ReadError> {
        Ok(Changed::Unknown(format!("nothing is recorded of the changes since {}", earlier.snapshot)))
    }
}

impl SnapshotSource for ChainReader {
    fn size(&self) -> u64 {
        ChainReader::size(self)
    }
    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        let extents = self.extents(range)?;
        Ok(extents.into_iter().filter(|extent| extent.data).map(|extent| extent.range).collect())
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), ReadError> {
        ChainReader::read_at(self, buffer, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::format::VolumeMeta;
    use std::collections::BTreeMap;

    #[test]
    fn a_point_is_remembered() {
        let point = DataPoint { incarnation: Uuid::new_v4(), snapshot: Uuid::new_v4() };
        let extra = BTreeMap::from([("strata.snapshot-name".to_owned(), "caf\u{e9}".to_owned())]);
        let meta = VolumeMeta::new(BTreeMap::new(), extra).encode();
        assert_eq!(DataPoint::of_meta(&meta), None);
        let noted = point.note_in(&meta);
        assert_eq!(DataPoint::of_meta(&noted), Some(point));
        assert!(noted.contains("caf\u{e9}") && noted.contains("\"version\":2"), "{noted}");
        assert_eq!(point.note_in("[]"), "[]");
    }
}
