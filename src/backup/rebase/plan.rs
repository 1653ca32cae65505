//! Which objects a set needs that stands for several backups of one chain.

use crate::backup::catalog::BackupSet;
use crate::backup::error::{BackupError, BadChainSnafu};
use crate::backup::format::{Extent, MAX_CHUNK_SIZE, Manifest};
use crate::backup::restore::plan::Covered;
use snafu::ensure;
use std::ops::Range;

/// One object to write: some whole hash blocks of one chunk window, without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::backup) struct Run {
    /// Of the volume.
    pub range: Range<u64>,
    /// Where its bytes are: each object once, with the parts of the volume that are taken from it.
    pub sources: Vec<(Extent, Vec<Range<u64>>)>,
}

impl Run {
    fn take(&mut self, extent: &Extent, part: Range<u64>) {
        self.range.end = part.end;
        match self.sources.iter_mut().find(|(known, _)| known.key == extent.key) {
            Some((_, parts)) => parts.push(part),
            None => self.sources.push((extent.clone(), vec![part])),
        }
    }

    /// The stored object that holds exactly these bytes, if there is one.
    pub fn whole(&self) -> Option<&Extent> {
        match self.sources.as_slice() {
            [(extent, parts)] => match parts.as_slice() {
                [part] => (*part == (extent.offset..extent.end())).then_some(extent),
                _ => None,
            },
            _ => None,
        }
    }
}

/// What is known of the volume.
#[derive(Clone, Copy, Debug)]
pub(in crate::backup) struct Shape {
    /// Bytes.
    pub size: u64,
    /// Of one hash.
    pub block: u64,
    /// Of one object at most.
    pub window: u64,
}

impl Shape {
    /// The chunk size is stored nowhere: no object is larger than it, and most are as large.
    pub fn new(links: &[(BackupSet, Manifest)], size: u64, block: u64) -> Self {
        let largest = links.iter().flat_map(|(_, m)| &m.extents).map(|extent| extent.length).max();
        let most = (MAX_CHUNK_SIZE / block).max(1) * block;
        let window = largest.unwrap_or(block).checked_next_multiple_of(block).unwrap_or(most).min(most);
        Shape { size, block, window }
    }
}

/// The objects of one set that holds what these backups hold, newest first: in the order of the volume. All of the
/// volume when `full`.
pub(in crate::backup) fn merge(
    links: &[(BackupSet, Manifest)],
    shape: Shape,
    full: bool,
) -> Result<Vec<Run>, BackupError> {
    let backup = links[0].0.prefix.backup();
    let broken = |reason: String| BadChainSnafu { backup, reason };
    let mut covered = Covered::default();
    let mut parts: Vec<(Range<u64>, &Extent)> = Vec::new();
    for extent in links.iter().flat_map(|(_, manifest)| &manifest.extents) {
        for part in covered.add(extent.offset..extent.end()) {
            let whole = |at: u64| at.is_multiple_of(shape.block) || at == shape.size;
            // A hash is of a whole block: nothing less can be checked.
            let reason = || format!("{} splits a hash block at {}..{}", extent.key, part.start, part.end);
            ensure!(whole(part.start) && whole(part.end), broken(reason()));
            parts.push((part, extent));
        }
    }
    if let Some(gap) = covered.gaps(0..shape.size).first().filter(|_| full) {
        return broken(format!("no backup stores the bytes {}..{}", gap.start, gap.end)).fail();
    }
    parts.sort_by_key(|(part, _)| part.start);
    let mut runs: Vec<Run> = Vec::new();
    for (part, extent) in parts {
        let mut at = part.start;
        while at < part.end {
            let end = part.end.min((at / shape.window + 1) * shape.window);
            match runs.last_mut().filter(|run| run.range.end == at && !at.is_multiple_of(shape.window)) {
                Some(run) => run.take(extent, at..end),
                None => {
                    let mut run = Run { range: at..end, sources: Vec::new() };
                    run.take(extent, at..end);
                    runs.push(run);
                }
            }
            at = end;
        }
    }
    Ok(runs)
}
