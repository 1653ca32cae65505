//! What is checked of a chunk before any of it is used, and what may be wrong with it.

use crate::backup::error::BackupError;
use crate::backup::format::{Digest, Extent};
use std::ops::Range;
use uuid::Uuid;

/// One object to fetch, and what is known of its content.
#[derive(Clone, Debug)]
pub(in crate::backup) struct Job {
    pub extent: Extent,
    /// Its bytes in the repository, as listed.
    pub stored: u64,
    /// Of the volume; ascending, disjoint, whole hash blocks.
    pub parts: Vec<Range<u64>>,
    /// Of the parts' blocks, one after the other; `None`: nothing but the md5 is known.
    pub digests: Option<Vec<Digest>>,
    /// Bytes per digest.
    pub block: u64,
    /// The digest of that many zeros.
    pub zeros: Digest,
}

impl Job {
    /// An object of which only the md5 is known.
    pub fn unhashed(extent: Extent, stored: u64, parts: Vec<Range<u64>>) -> Self {
        Job { extent, stored, parts, digests: None, block: 1, zeros: [0; 32] }
    }
}

/// What is wrong with a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::backup) enum Fault {
    /// Its bytes are not those that were stored.
    Chunk(String),
    /// It is as its manifest says, but not as the hash file says, in these ranges of the volume.
    Hashes(Vec<Range<u64>>),
    /// It was there, and went together with its backup's manifest: no damage.
    Gone(Uuid),
}

impl Fault {
    /// In words.
    pub fn reason(&self) -> String {
        match self {
            Fault::Chunk(reason) => reason.clone(),
            Fault::Hashes(_) => "its SHA-256 is not the hash file's".to_owned(),
            Fault::Gone(backup) => BackupError::Changed { backup: *backup }.to_string(),
        }
    }
}

/// Adds a range behind the others, and joins it with the last one when they touch.
pub(in crate::backup) fn push_range(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut().filter(|last| last.end == range.start) {
        Some(last) => last.end = range.end,
        None => ranges.push(range),
    }
}
