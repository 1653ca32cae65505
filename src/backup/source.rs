//! What is backed up.

use crate::image::{ChainReader, ReadError};
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
    /// What may have changed since an earlier point.
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
