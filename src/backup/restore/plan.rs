//! Folds a chain into one plan: each byte of the volume from the newest backup that stores it.

use crate::backup::catalog::{BackupSet, Chain};
use crate::backup::error::{BackupError, BadChainSnafu};
use crate::backup::format::{Extent, Manifest};
use snafu::ensure;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// One object to fetch, once, and the parts of the volume that are taken from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::backup) struct Fetch {
    pub extent: Extent,
    /// Its bytes in the repository; `None` when it is not there.
    pub stored: Option<u64>,
    /// Of the volume; ascending, disjoint, whole hash blocks.
    pub parts: Vec<Range<u64>>,
}

/// What a restore does.
#[derive(Debug)]
pub(in crate::backup) struct Plan {
    pub size: u64,
    /// By where in the volume each begins.
    pub fetches: Vec<Fetch>,
}

impl Plan {
    /// What it takes in memory. Twice: the listing and the manifests that it was made of had about as much, and what is
    /// freed in small pieces stays with the allocator.
    pub fn memory(&self) -> u64 {
        let fetches = self.fetches.iter().map(|fetch| {
            let heap = fetch.extent.key.capacity() + fetch.extent.md5.capacity();
            (size_of::<Fetch>() + heap + fetch.parts.capacity() * size_of::<Range<u64>>()) as u64
        });
        2 * fetches.sum::<u64>()
    }
}

/// Makes the plan; every byte of `wanted` (all below the volume's end, when `None`) comes from exactly one
/// object. What is wanted grows to whole blocks of `block` bytes, for a hash is of a whole one.
pub(in crate::backup) fn fold(
    chain: Chain,
    block: u64,
    wanted: Option<Range<u64>>,
) -> Result<Plan, BackupError> {
    let backup = chain.newest().prefix.backup();
    let size = chain.size();
    let broken = |reason: String| BadChainSnafu { backup, reason };
    let wanted = match wanted {
        None => 0..size,
        Some(range) => range.start / block * block..range.end.div_ceil(block).saturating_mul(block).min(size),
    };
    let mut covered = Covered::default();
    let mut fetches = Vec::new();
    for (set, manifest) in chain.links {
        let mut stored = stored_sizes(set, &manifest);
        for extent in manifest.extents {
            let within = extent.offset.max(wanted.start)..extent.end().min(wanted.end);
            if within.is_empty() {
                continue;
            }
            let parts = covered.add(within);
            let whole = |at: u64| at.is_multiple_of(block) || at == size;
            let cut = parts.iter().find(|part| !whole(part.start) || !whole(part.end));
            if let Some(part) = cut {
                let reason = format!("{} splits a hash block at {}..{}", extent.key, part.start, part.end);
                return broken(reason).fail();
            }
            if !parts.is_empty() {
                fetches.push(Fetch { stored: stored.remove(&extent.key), extent, parts });
            }
        }
    }
    let gap = covered.gaps(wanted).into_iter().next();
    let reason = gap.map(|gap| format!("no backup stores the bytes {}..{}", gap.start, gap.end));
    ensure!(reason.is_none(), broken(reason.unwrap_or_default()));
    // A target is written, and the hashes are read, from front to back.
    fetches.sort_unstable_by_key(|fetch| fetch.parts[0].start);
    Ok(Plan { size, fetches })
}

/// The chunks that are there; without those that have more bytes than anything that was ever put there.
fn stored_sizes(set: BackupSet, manifest: &Manifest) -> HashMap<String, u64> {
    let mut sizes: HashMap<String, u64> = set.objects.into_iter().map(|o| (o.key, o.size)).collect();
    for extent in &manifest.extents {
        if sizes.get(&extent.key).is_some_and(|size| *size > extent.length) {
            sizes.remove(&extent.key);
        }
    }
    sizes
}

/// Disjoint ranges that do not touch: start → end.
#[derive(Debug, Default)]
pub(in crate::backup) struct Covered(BTreeMap<u64, u64>);

impl Covered {
    /// What a backup stores.
    pub fn by(manifest: &Manifest) -> Self {
        let mut covered = Covered::default();
        for extent in &manifest.extents {
            covered.add(extent.offset..extent.end());
        }
        covered
    }

    /// What of `range` is not covered: ascending.
    pub fn gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        // Of a full backup's objects each keeps one.
        let mut gaps = Vec::with_capacity(1);
        let mut at = match self.0.range(..=range.start).next_back() {
            Some((_, &end)) => range.start.max(end),
            None => range.start,
        };
        for (&start, &end) in self.0.range(range.clone()) {
            if start > at {
                gaps.push(at..start);
            }
            at = at.max(end);
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    /// Covers `range`; answers what of it was not covered before. What it swallows is one range afterwards, so a
    /// chain costs no more than its extents do, however deep it is.
    pub fn add(&mut self, range: Range<u64>) -> Vec<Range<u64>> {
        let gaps = self.gaps(range.clone());
        let Range { mut start, mut end } = range;
        if let Some((&before, &until)) =
            self.0.range(..=start).next_back().filter(|(_, until)| **until >= start)
        {
            (start, end) = (before, end.max(until));
        }
        while let Some((&next, &until)) = self.0.range(start..=end).next() {
            end = end.max(until);
            self.0.remove(&next);
        }
        self.0.insert(start, end);
        gaps
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
