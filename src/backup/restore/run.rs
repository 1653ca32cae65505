//! A restore under way: what becomes of each chunk, and of each that is damaged.

use super::check::{Fault, Job};
use super::chunk::Chunk;
use super::flow::Sink;
use super::target::Target;
use super::zeros::Written;
use crate::backup::Progress;
use crate::backup::error::{BackupError, ChangedSnafu, LostSnafu};
use serde::Serialize;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// What a damaged object does to a restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Damaged {
    /// It ends it.
    #[default]
    Fail,
    /// Its bytes become zeros, and the rest is restored.
    Zero,
}

/// A damaged object, and what it takes with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// Its key.
    pub object: String,
    /// Which check failed.
    pub reason: String,
    /// Of the volume: ascending, `[start, end]`, the end not included.
    pub ranges: Vec<(u64, u64)>,
}

/// Ranges for people.
pub(in crate::backup) fn ranges_text(ranges: &[Range<u64>]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> =
        ranges.iter().take(SHOWN).map(|range| format!("{}-{}", range.start, range.end)).collect();
    match ranges.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The target, and the books.
pub(super) struct Writing {
    pub target: Target,
    /// What of the volume is wanted; blocks that reach past it are checked, and not written.
    pub wanted: Range<u64>,
    pub damaged: Damaged,
    pub progress: Progress,
    pub data: AtomicU64,
    pub zeros: AtomicU64,
    pub losses: Mutex<Vec<Loss>>,
}

impl Writing {
    pub fn new(target: Target, wanted: Range<u64>, damaged: Damaged, progress: &Progress) -> Self {
        Writing {
            target,
            wanted,
            damaged,
            progress: progress.clone(),
            data: AtomicU64::new(0),
            zeros: AtomicU64::new(0),
            losses: Mutex::default(),
        }
    }

    /// Makes parts of the target zeros, unfetched.
    pub fn zero(&self, parts: &[Range<u64>]) -> Result<(), BackupError> {
        for part in parts {
            let part = self.clip(part);
            let zeros = self.target.zero(part.clone())?;
            self.count(Written { data: 0, zeros }, part.end - part.start);
        }
        Ok(())
    }

    /// Decides on an object of which these parts were wanted.
    pub fn lose(&self, key: &str, reason: String, parts: &[Range<u64>]) -> Result<(), BackupError> {
        let ranges: Vec<Range<u64>> = parts.iter().map(|part| self.clip(part)).collect();
        if self.damaged == Damaged::Fail {
            return LostSnafu { key, reason, ranges: ranges_text(&ranges) }.fail();
        }
        self.zero(parts)?;
        let ranges = ranges.into_iter().map(|range| (range.start, range.end)).collect();
        let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        losses.push(Loss { object: key.to_owned(), reason, ranges });
        Ok(())
    }

    fn clip(&self, part: &Range<u64>) -> Range<u64> {
        part.start.max(self.wanted.start)..part.end.min(self.wanted.end)
    }

    fn count(&self, written: Written, done: u64) {
        self.data.fetch_add(written.data, Ordering::Relaxed);
        self.zeros.fetch_add(written.zeros, Ordering::Relaxed);
        self.progress.add_done(done);
    }
}

impl Sink for Writing {
    fn wants<'a>(&'a self, job: &'a Job) -> &'a [Range<u64>] {
        &job.parts
    }

    fn take(&self, job: &Job, chunk: &Chunk) -> Result<(), BackupError> {
        for part in &job.parts {
            for (at, bytes) in chunk.bytes(&self.clip(part)) {
                let written = self.target.write_at(bytes, at)?;
                self.count(written, bytes.len() as u64);
            }
        }
        Ok(())
    }

    fn lost(&self, job: &Job, fault: Fault) -> Result<(), BackupError> {
        match fault {
            Fault::Gone(backup) => ChangedSnafu { backup }.fail(),
            fault => self.lose(&job.extent.key, fault.reason(), &job.parts),
        }
    }
}
