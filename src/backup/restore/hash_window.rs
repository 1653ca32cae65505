//! The hashes of the chunks that are being worked on. Chunks come in the order of their first bytes, but a large one
//! may reach past smaller ones inside it: the hashes from the first byte on are kept, those before are let go.

use crate::backup::blocking;
use crate::backup::error::{BackupError, DamagedSnafu};
use crate::backup::format::{Digest, zero_digest};
use crate::backup::hash_reader::HashReader;
use snafu::ensure;
use std::collections::VecDeque;
use std::ops::Range;

/// A hash file that is read as the volume is gone through.
#[derive(Debug)]
pub(in crate::backup) struct HashWindow {
    reader: HashReader,
    key: String,
    /// The digest of a block of zeros.
    zeros: Digest,
    /// The block of the first digest that is kept.
    first: u64,
    kept: VecDeque<Digest>,
}

impl HashWindow {
    /// `key` is for errors.
    pub async fn new(reader: HashReader, key: String) -> Result<Self, BackupError> {
        let block = reader.block();
        let zeros = blocking(move || Ok(zero_digest(block))).await?;
        Ok(HashWindow { reader, key, zeros, first: 0, kept: VecDeque::new() })
    }

    /// Bytes per hash.
    pub fn block(&self) -> u64 {
        self.reader.block()
    }

    /// The digest of a block of zeros, made once.
    pub fn zeros(&self) -> Digest {
        self.zeros
    }

    /// The digests of the blocks of these parts of the volume: ascending, the first one never before an earlier
    /// call's first one.
    pub async fn digests(&mut self, parts: &[Range<u64>]) -> Result<Vec<Digest>, BackupError> {
        let block = self.block();
        let blocks = |part: &Range<u64>| part.start / block..part.end.div_ceil(block);
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return Ok(Vec::new()) };
        let (start, end) = (blocks(first).start, blocks(last).end);
        while self.first < start && self.kept.pop_front().is_some() {
            self.first += 1;
        }
        self.first = start;
        let known = start + self.kept.len() as u64;
        if known < end {
            self.kept.extend(self.reader.take(known..end).await?);
        }
        let found = start + self.kept.len() as u64;
        let reason = format!("it has {found} hashes, {end} or more are needed");
        ensure!(found >= end, DamagedSnafu { key: &self.key, reason });
        let mut digests = Vec::new();
        for part in parts {
            let Range { start, end } = blocks(part);
            digests.extend(self.kept.range((start - self.first) as usize..(end - self.first) as usize));
        }
        Ok(digests)
    }

    /// Reads on to the end, and checks that there is one hash for each block of a volume of `size` bytes.
    pub async fn finish(self, size: u64) -> Result<(), BackupError> {
        let (block, key) = (self.block(), self.key);
        let found = self.reader.finish().await?;
        let reason = format!("its {found} hashes do not fit {size} bytes");
        ensure!(found == size.div_ceil(block), DamagedSnafu { key, reason });
        Ok(())
    }
}
