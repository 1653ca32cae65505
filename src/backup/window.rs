//! One chunk window of a backup: read, hash, compare with the parent, compress. Pure work, blocking.

use super::error::SourceLostSnafu;
use super::format::{Compression, Digest, HashList, digest_of, md5_hex, zero_digest};
use super::{BackupError, SnapshotSource};
use bytes::Bytes;
use snafu::ensure;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// What every window of one backup needs.
pub(super) struct WindowWork {
    pub source: Arc<dyn SnapshotSource>,
    pub compression: Compression,
    pub chunk_size: u64,
    pub block: u64,
    /// `None` for a full backup.
    pub parent: Option<HashList>,
    zero_block: Digest,
    zero_chunk: OnceLock<Piece>,
}

/// What becomes one object.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub offset: u64,
    pub length: u64,
    pub compression: Compression,
    pub md5: String,
    pub body: Bytes,
}

/// What one window yields.
pub(super) struct WindowResult {
    pub digests: Vec<Digest>,
    pub pieces: Vec<Piece>,
    pub bytes_read: u64,
}

impl WindowWork {
    pub fn new(
        source: Arc<dyn SnapshotSource>,
        compression: Compression,
        chunk_size: u64,
        block: u64,
        parent: Option<HashList>,
    ) -> Self {
        let zero_block = zero_digest(block);
        WindowWork { source, compression, chunk_size, block, parent, zero_block, zero_chunk: OnceLock::new() }
    }

    /// Works through the bytes of one window: `range` begins at a multiple of the chunk size.
    pub fn run(&self, range: Range<u64>) -> Result<WindowResult, BackupError> {
        let mut bytes_read = 0;
        let mut buffer = Vec::new();
        for part in self.source.data_ranges(range.clone())? {
            // Fresh from the kernel: what no read fills is zeros, and takes no memory either.
            buffer.resize((range.end - range.start) as usize, 0);
            let within = (part.start - range.start) as usize..(part.end - range.start) as usize;
            self.source.read_at(&mut buffer[within], part.start)?;
            bytes_read += part.end - part.start;
        }
        // After the reading: what was lost during it counts.
        ensure!(!self.source.is_lost(), SourceLostSnafu);
        let buffer = Bytes::from(buffer);
        let digests = self.digests(&range, &buffer);
        let mut pieces = Vec::new();
        for run in self.changed_runs(&range, &digests) {
            pieces.push(self.piece(run, &range, &buffer)?);
        }
        Ok(WindowResult { digests, pieces, bytes_read })
    }

    fn digests(&self, range: &Range<u64>, buffer: &[u8]) -> Vec<Digest> {
        let zeros_of = |length: u64| match length == self.block {
            true => self.zero_block,
            false => zero_digest(length),
        };
        if buffer.is_empty() {
            let lengths = (range.start..range.end).step_by(self.block as usize);
            return lengths.map(|at| zeros_of(self.block.min(range.end - at))).collect();
        }
        let blocks = buffer.chunks(self.block as usize);
        blocks
            .map(|block| if is_zero(block) { zeros_of(block.len() as u64) } else { digest_of(block) })
            .collect()
    }

    /// What is to be stored of a window: all of it for a full backup, else each run of changed blocks (B6).
    fn changed_runs(&self, range: &Range<u64>, digests: &[Digest]) -> Vec<Range<u64>> {
        let Some(parent) = &self.parent else { return vec![range.clone()] };
        let mut runs: Vec<Range<u64>> = Vec::new();
        for (index, digest) in digests.iter().enumerate() {
            let start = range.start + index as u64 * self.block;
            let end = range.end.min(start + self.block);
            // Past the parent's end there is nothing to compare with: a grown volume's new tail.
            if parent.digests.get((start / self.block) as usize) == Some(digest) {
                continue;
            }
            match runs.last_mut().filter(|last| last.end == start) {
                Some(last) => last.end = end,
                None => runs.push(start..end),
            }
        }
        runs
    }

    fn piece(&self, run: Range<u64>, window: &Range<u64>, buffer: &Bytes) -> Result<Piece, BackupError> {
        let length = run.end - run.start;
        let offset = run.start;
        let data = match buffer.is_empty() {
            true => None,
            false => {
                let within = (run.start - window.start) as usize..(run.end - window.start) as usize;
                Some(buffer.slice(within)).filter(|data| !is_zero(data))
            }
        };
        if let Some(data) = data {
            return self.pack(offset, data);
        }
        // A sparse volume is mostly whole chunks of zeros: hashed and compressed once.
        if length == self.chunk_size {
            if let Some(known) = self.zero_chunk.get() {
                return Ok(Piece { offset, ..known.clone() });
            }
            let made = self.pack(offset, Bytes::from(vec![0; length as usize]))?;
            return Ok(Piece { offset, ..self.zero_chunk.get_or_init(|| made).clone() });
        }
        self.pack(offset, Bytes::from(vec![0; length as usize]))
    }

    fn pack(&self, offset: u64, data: Bytes) -> Result<Piece, BackupError> {
        let md5 = md5_hex(&data);
        let length = data.len() as u64;
        let (compression, body) = match self.compression.compress(&data)? {
            Some(packed) => (self.compression, Bytes::from(packed)),
            None => (Compression::None, data),
        };
        Ok(Piece { offset, length, compression, md5, body })
    }
}

/// Compared in steps that fit the first-level cache, at the speed of memory.
pub(super) fn is_zero(data: &[u8]) -> bool {
    static ZEROS: [u8; 4096] = [0; 4096];
    data.chunks(ZEROS.len()).all(|part| part == &ZEROS[..part.len()])
}
