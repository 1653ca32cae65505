//! What is backed up.

use crate::image::{ChainReader, ReadError};
use std::ops::Range;

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
