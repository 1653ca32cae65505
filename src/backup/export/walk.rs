//! A disk from its first byte to its last, hashed on the way; what is zeros is not read.

use super::super::error::{SourceLostSnafu, TargetSnafu};
use super::super::progress::{Cancel, Progress};
use super::super::{BackupError, SnapshotSource};
use sha2::{Digest, Sha256};
use snafu::{ResultExt, ensure};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

/// How much is read at a time.
const PIECE: u64 = 4 << 20;
/// How much of the disk's map is asked for at a time.
const MAP: u64 = 1 << 30;

/// Bytes that a layer stores.
pub(super) struct Piece<'a> {
    pub offset: u64,
    pub data: &'a [u8],
}

/// Answers what is stored, in order; all between is zeros.
pub(super) struct Walk<'a> {
    source: &'a dyn SnapshotSource,
    progress: &'a Progress,
    cancel: &'a Cancel,
    /// All before it is hashed.
    hashed: u64,
    /// All before it is in `ranges`, or was.
    mapped: u64,
    ranges: VecDeque<Range<u64>>,
    hash: Sha256,
    buffer: Vec<u8>,
}

/// The source is still what it was all the time that it was read.
pub(super) fn still_held(source: &dyn SnapshotSource) -> Result<(), BackupError> {
    ensure!(!source.is_lost(), SourceLostSnafu);
    Ok(())
}

impl<'a> Walk<'a> {
    pub fn new(source: &'a dyn SnapshotSource, progress: &'a Progress, cancel: &'a Cancel) -> Self {
        let (ranges, buffer) = (VecDeque::new(), vec![0; PIECE as usize]);
        Walk { source, progress, cancel, hashed: 0, mapped: 0, ranges, hash: Sha256::new(), buffer }
    }

    /// The next bytes that are stored; None when the disk is at its end, and all of it is hashed.
    pub fn step(&mut self) -> Result<Option<Piece<'_>>, BackupError> {
        while self.ranges.is_empty() && self.mapped < self.source.size() {
            self.cancel.check()?;
            let end = self.source.size().min(self.mapped + MAP);
            self.ranges.extend(self.source.data_ranges(self.mapped..end)?);
            self.mapped = end;
            if self.ranges.is_empty() {
                self.zeros_until(end)?;
            }
        }
        let Some(range) = self.ranges.pop_front() else {
            self.zeros_until(self.source.size())?;
            still_held(self.source)?;
            return Ok(None);
        };
        self.cancel.check()?;
        let end = range.end.min(range.start + PIECE);
        if end < range.end {
            self.ranges.push_front(end..range.end);
        }
        self.zeros_until(range.start)?;
        let buffer = &mut self.buffer[..(end - range.start) as usize];
        self.source.read_at(buffer, range.start)?;
        still_held(self.source)?;
        self.hash.update(&*buffer);
        self.progress.add_done(end - self.hashed);
        self.hashed = end;
        Ok(Some(Piece { offset: range.start, data: &self.buffer[..(end - range.start) as usize] }))
    }

    /// Of the whole disk, once it was walked.
    pub fn digest(self) -> String {
        hex(self.hash)
    }

    fn zeros_until(&mut self, end: u64) -> Result<(), BackupError> {
        static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
        while self.hashed < end {
            self.cancel.check()?;
            let length = (end - self.hashed).min(ZEROS.len() as u64);
            self.hash.update(&ZEROS[..length as usize]);
            self.progress.add_done(length);
            self.hashed += length;
        }
        Ok(())
    }
}

/// Of a file that nobody writes to.
pub(super) fn digest_of_file(path: &Path, cancel: &Cancel) -> Result<String, BackupError> {
    let failed = TargetSnafu { operation: "reading back", path };
    let mut file = File::open(path).context(failed)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; PIECE as usize]);
    loop {
        cancel.check()?;
        match file.read(&mut buffer).context(failed)? {
            0 => return Ok(hex(hash)),
            read => hash.update(&buffer[..read]),
        }
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
