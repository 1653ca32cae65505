//! One chunk window of a backup: read, tell zeros, hash, compare with the parent, digest, compress. Pure work,
//! blocking. Bytes are read in steps that fit the second-level cache, and hashed while they are in it.

use super::memory::Reservation;
use super::pack::{Part, cut};
use super::piece::{Piece, Pieces};
use crate::backup::error::SourceLostSnafu;
use crate::backup::format::{ENTRY, ZeroText, digest_of, entry};
use crate::backup::window::is_zero;
use crate::backup::{BackupError, Cancel, SnapshotSource};
use bytes::Bytes;
use sha256_pairs::sha256_pair;
use snafu::ensure;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes read at a time.
const STEP: u64 = 1 << 20;

/// What every window of one backup needs.
pub(super) struct WindowWork {
    pub source: Arc<dyn SnapshotSource>,
    pub block: u64,
    pub join: u64,
    pub zeros: ZeroText,
    pub pieces: Pieces,
    pub cancel: Cancel,
    /// Set when the backup has failed elsewhere.
    pub is_over: AtomicBool,
}

/// One window's work.
pub(super) struct Job {
    /// What is read of it: whole blocks, ascending, with gaps.
    pub parts: Vec<Range<u64>>,
    /// The parent's hashes of the blocks from the first part's on; may end before the last part's, and is empty
    /// where the parent has none.
    pub known: Vec<u8>,
    /// Memory for it: as `cost` says.
    pub reservation: Reservation,
}

/// What one window yields.
pub(super) struct WindowResult {
    /// The hashes of all blocks from the first part's to the last one's, as text.
    pub text: Bytes,
    pub pieces: Vec<Piece>,
    pub bytes_read: u64,
    pub bytes_joined: u64,
}

impl WindowWork {
    /// Bytes of memory that a window needs at most.
    pub fn cost(&self, parts: &[Range<u64>], known: usize) -> u64 {
        let bytes: u64 = parts.iter().map(|part| part.end - part.start).sum();
        let span = parts.last().map_or(0, |last| last.end) - parts.first().map_or(0, |first| first.start);
        let text = span.div_ceil(self.block) * ENTRY as u64 + known as u64;
        let compares = parts.len() > 1 || known > 0;
        let out = if compares { bytes } else { self.pieces.part().min(bytes) };
        // Permits are whole pages.
        bytes + out + text + ((3 + bytes / self.pieces.part()) << 12)
    }

    pub fn step(&self) -> u64 {
        STEP.next_multiple_of(self.block)
    }

    /// Works through one window.
    pub fn run(&self, job: Job) -> Result<WindowResult, BackupError> {
        match &job.parts[..] {
            [only] if job.known.is_empty() => self.store_all(only.clone(), job.reservation),
            _ => self.compare(job),
        }
    }

    /// Nothing to compare with: part by part, each of which gives its memory back when it is compressed.
    fn store_all(&self, range: Range<u64>, mut memory: Reservation) -> Result<WindowResult, BackupError> {
        let length = range.end - range.start;
        let data = self.data(&range)?;
        if data.is_empty() {
            let pieces = vec![self.pieces.zeros(range.start, length)?];
            return Ok(WindowResult {
                text: self.zeros.many(length),
                pieces,
                bytes_read: 0,
                bytes_joined: 0,
            });
        }
        let mut text = Vec::with_capacity(length.div_ceil(self.block) as usize * ENTRY);
        let (mut parts, mut bytes_read) = (Vec::new(), 0);
        for part in cut(range.clone(), self.pieces.part()) {
            parts.extend(self.read_part(part, &data, &mut text, &mut memory, &mut bytes_read)?);
        }
        let pieces = self.pack_parts(&range, parts, memory)?;
        Ok(WindowResult { text: text.into(), pieces, bytes_read, bytes_joined: 0 })
    }

    /// Reads and hashes a part; `None` if all of it is zeros.
    fn read_part(
        &self,
        range: Range<u64>,
        data: &[Range<u64>],
        text: &mut Vec<u8>,
        memory: &mut Reservation,
        bytes_read: &mut u64,
    ) -> Result<Option<Part>, BackupError> {
        let length = range.end - range.start;
        if !data.iter().any(|data| data.start < range.end && range.start < data.end) {
            text.extend_from_slice(&self.zeros.many(length));
            return Ok(None);
        }
        let (mut raw, mut zeros) = (memory.buffer(length as usize), 0);
        for step in cut(range.clone(), self.step()) {
            let at = (step.start - range.start) as usize..(step.end - range.start) as usize;
            let bytes = &mut raw.bytes()[at];
            let has_data = self.fill(bytes, &step, data, bytes_read)?;
            zeros += self.hash(bytes, has_data, text);
        }
        // Zeros shrink, whatever lies between them.
        Ok((zeros < length).then_some(Part { range, raw, probe: zeros < length / 64 }))
    }

    /// Each run of blocks whose hash is not the parent's is stored (B6).
    fn compare(&self, job: Job) -> Result<WindowResult, BackupError> {
        let Job { parts, known, reservation: mut memory } = job;
        let first = parts[0].start;
        let length: u64 = parts.iter().map(|part| part.end - part.start).sum();
        let data = parts.iter().map(|part| self.data(part)).collect::<Result<Vec<_>, _>>()?;
        // Of holes there is nothing to read, and nothing to hold.
        let is_hole = data.iter().all(Vec::is_empty);
        let mut raw = (!is_hole).then(|| memory.buffer(length as usize));
        let (mut text, mut bytes_read, mut bytes_joined, mut filled) = (known, 0, 0, 0);
        let mut runs: Vec<(Range<u64>, usize)> = Vec::new();
        for (part, data) in parts.iter().zip(&data) {
            let mut run: Option<(Range<u64>, usize)> = None;
            for step in cut(part.clone(), self.step()) {
                let length = (step.end - step.start) as usize;
                let mut hashes = Vec::new();
                if let Some(raw) = &mut raw {
                    let bytes = &mut raw.bytes()[filled..filled + length];
                    let has_data = self.fill(bytes, &step, data, &mut bytes_read)?;
                    self.hash(bytes, has_data, &mut hashes);
                } else {
                    self.check()?;
                    hashes.extend_from_slice(&self.zeros.many(length as u64));
                }
                for (n, hash) in hashes.chunks_exact(ENTRY).enumerate() {
                    let start = step.start + n as u64 * self.block;
                    if !put(&mut text, ((start - first) / self.block) as usize, hash) {
                        continue;
                    }
                    let end = part.end.min(start + self.block);
                    match &mut run {
                        Some((last, _)) if start - last.end <= self.join => {
                            bytes_joined += start - last.end;
                            last.end = end;
                        }
                        _ => runs.extend(run.replace((start..end, filled + (start - step.start) as usize))),
                    }
                }
                filled += length;
            }
            runs.extend(run);
        }
        let pieces = self.pack_runs(runs, raw.as_ref().map(AsRef::as_ref), &mut memory)?;
        Ok(WindowResult { text: text.into(), pieces, bytes_read, bytes_joined })
    }

    /// What may be anything but zeros.
    pub fn data(&self, range: &Range<u64>) -> Result<Vec<Range<u64>>, BackupError> {
        Ok(self.source.data_ranges(range.clone())?)
    }

    /// Fills `buffer` with the bytes of `range`; answers whether any were read.
    pub fn fill(
        &self,
        buffer: &mut [u8],
        range: &Range<u64>,
        data: &[Range<u64>],
        bytes_read: &mut u64,
    ) -> Result<bool, BackupError> {
        self.check()?;
        let mut filled = 0;
        let begin = data.partition_point(|part| part.end <= range.start);
        let mut has_data = false;
        for part in data[begin..].iter().take_while(|part| part.start < range.end) {
            let start = (part.start.max(range.start) - range.start) as usize;
            let end = (part.end.min(range.end) - range.start) as usize;
            buffer[filled..start].fill(0);
            self.source.read_at(&mut buffer[start..end], range.start + start as u64)?;
            *bytes_read += (end - start) as u64;
            (filled, has_data) = (end, true);
        }
        buffer[filled..].fill(0);
        // After the reading: what was lost during it counts.
        ensure!(!self.source.is_lost(), SourceLostSnafu);
        Ok(has_data)
    }

    /// Adds the hashes of `bytes`; answers how many of them lie in blocks of zeros.
    pub fn hash(&self, bytes: &[u8], has_data: bool, text: &mut Vec<u8>) -> u64 {
        if !has_data {
            text.extend_from_slice(&self.zeros.many(bytes.len() as u64));
            return bytes.len() as u64;
        }
        let (mut zeros, mut waiting) = (0, None);
        for block in bytes.chunks(self.block as usize) {
            let at = text.len();
            if is_zero(block) {
                text.extend_from_slice(&self.zeros.of(block.len() as u64));
                zeros += block.len() as u64;
                continue;
            }
            text.resize(at + ENTRY, 0);
            // By pairs: two take little longer than one.
            let Some((before, earlier)) = waiting.replace((at, block)) else { continue };
            let [one, other] = sha256_pair(earlier, block);
            text[before..before + ENTRY].copy_from_slice(&entry(&one));
            text[at..at + ENTRY].copy_from_slice(&entry(&other));
            waiting = None;
        }
        if let Some((at, block)) = waiting {
            text[at..at + ENTRY].copy_from_slice(&entry(&digest_of(block)));
        }
        zeros
    }

    /// Whether a block has that hash.
    pub fn has_hash(&self, range: Range<u64>, hash: &[u8]) -> Result<bool, BackupError> {
        let (mut bytes, mut text) = (vec![0; (range.end - range.start) as usize], Vec::new());
        let data = self.data(&range)?;
        let has_data = self.fill(&mut bytes, &range, &data, &mut 0)?;
        self.hash(&bytes, has_data, &mut text);
        Ok(text == hash)
    }

    pub fn check(&self) -> Result<(), BackupError> {
        self.cancel.check()?;
        // Whoever failed has said why.
        ensure!(!self.is_over.load(Ordering::Relaxed), crate::backup::error::CancelledSnafu);
        Ok(())
    }
}

/// Makes `hash` the `index`th one of `text`, behind its end too; answers whether it was another one before.
fn put(text: &mut Vec<u8>, index: usize, hash: &[u8]) -> bool {
    let at = index * ENTRY;
    match text.get_mut(at..at + ENTRY) {
        Some(known) if known == hash => false,
        Some(known) => {
            known.copy_from_slice(hash);
            true
        }
        // Blocks come in order, and there are no gaps behind the parent's end.
        None => {
            text.extend_from_slice(hash);
            true
        }
    }
}
