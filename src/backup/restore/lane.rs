//! One chunk on its way: unpacked step by step, each step checked while it is still in the core's cache.

use super::blocks::Blocks;
use super::check::{Fault, Job};
use super::chunk::{Chunk, Piece};
use super::ledger::{Grant, SEGMENT, Segment};
use super::source::{Origin, Source};
use super::unpack::{Stop, Unpacker};
use crate::backup::error::BackupError;
use crate::backup::format::{Extent, hex};
use crate::backup::window::is_zero;
use md5_lanes::Md5;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a chunk takes while it is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// Bytes that it holds from begin to end.
    pub fixed: u64,
    /// What it will hold at last.
    pub segments: u64,
}

impl Need {
    pub fn of(extent: &Extent, stored: u64, wanted: &[Range<u64>]) -> Self {
        let segment = SEGMENT as u64;
        let mut kept = 0;
        let mut next = 0;
        for range in wanted {
            let first = (range.start.saturating_sub(extent.offset) / segment).max(next);
            next = (range.end - extent.offset).div_ceil(segment).max(first);
            kept += next - first;
        }
        // One more to work in, unless all are kept.
        let segments = (kept + 1).min(extent.length.div_ceil(segment));
        Need { fixed: Unpacker::memory(extent, stored), segments }
    }
}

/// A chunk on its way.
pub(super) struct Lane {
    pub job: Job,
    wanted: Vec<Range<u64>>,
    unpacker: Unpacker,
    blocks: Blocks,
    md5: Md5,
    /// The segment that is filled now, and how much of it is.
    now: Option<Segment>,
    filled: usize,
    is_full: bool,
    chunk: Chunk,
    fetched: Arc<AtomicU64>,
    /// Given back last.
    grant: Grant,
}

/// A chunk that came to its end.
pub(super) struct Done {
    pub job: Job,
    /// Given back before the grant.
    pub checked: Result<Chunk, Fault>,
    pub fetched: u64,
    _grant: Grant,
}

impl Lane {
    /// Begins to fetch it.
    pub fn begin(
        job: Job,
        wanted: Vec<Range<u64>>,
        grant: Grant,
        origin: Origin,
    ) -> Result<Self, BackupError> {
        let source = Source::begin(origin, &job.extent, job.stored);
        let fetched = source.fetched();
        let unpacker = Unpacker::new(&job.extent, source)?;
        let chunk = Chunk::new(&job);
        Ok(Lane {
            job,
            wanted,
            unpacker,
            blocks: Blocks::default(),
            md5: Md5::default(),
            now: None,
            filled: 0,
            is_full: false,
            chunk,
            fetched,
            grant,
        })
    }

    /// Unpacks the next step, and compares its blocks. False: bytes or memory have to come first.
    pub fn fill(&mut self) -> Result<bool, Stop> {
        if self.is_full {
            return Ok(true);
        }
        if self.now.is_none() {
            self.now = self.grant.segment();
        }
        let Some(now) = &mut self.now else { return Ok(false) };
        let place = self.chunk.next();
        let bytes = &mut now.bytes_mut()[..(place.end - place.start) as usize];
        self.is_full = self.unpacker.fill(bytes, &mut self.filled)?;
        if self.is_full {
            self.blocks.take(&self.job, place.start, bytes);
        }
        Ok(self.is_full)
    }

    /// Whether a step is unpacked.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// The step that is unpacked, and the MD5 that is to take it.
    pub fn step(&mut self) -> Option<(&mut Md5, &[u8])> {
        let now = self.now.as_ref().filter(|_| self.is_full)?;
        Some((&mut self.md5, &now.bytes()[..self.filled]))
    }

    /// After its step was digested: keeps it if somebody wants it. True: that was the last one.
    pub fn next(&mut self) -> bool {
        let place = self.chunk.next();
        let is_wanted = self.wanted.iter().any(|range| range.start < place.end && range.end > place.start);
        let piece = match self.now.take() {
            Some(now) if !is_wanted => {
                self.now = Some(now);
                Piece::Unwanted
            }
            Some(now) if is_zero(&now.bytes()[..self.filled]) => {
                self.now = Some(now);
                Piece::Zeros
            }
            Some(now) => Piece::Data(now),
            None => Piece::Unwanted,
        };
        self.chunk.push(piece);
        (self.filled, self.is_full) = (0, false);
        self.chunk.next().is_empty()
    }

    /// Ends it, with what is known of it.
    pub fn end(self, fault: Option<Fault>) -> Done {
        let Lane { job, blocks, md5, chunk, fetched, grant, .. } = self;
        let checked = match fault {
            Some(fault) => Err(fault),
            // What md5 says comes first: it tells a damaged chunk from a damaged hash file.
            None if hex(&md5.finish()) != job.extent.md5 => {
                Err(Fault::Chunk("its md5 is not the manifest's".to_owned()))
            }
            None if blocks.wrong.is_empty() => Ok(chunk),
            None => Err(Fault::Hashes(blocks.wrong)),
        };
        Done { job, checked, fetched: fetched.load(Ordering::Relaxed), _grant: grant }
    }
}
