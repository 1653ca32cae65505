//! Folds a chain into one plan: each byte of the volume from the newest backup that stores it.

use crate::backup::catalog::Chain;
use crate::backup::error::{BackupError, BadChainSnafu};
use crate::backup::format::{Extent, HashList};
use snafu::ensure;
use std::collections::BTreeMap;
use std::ops::Range;

/// One object to fetch, once, and the parts of the volume that are taken from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fetch {
    pub extent: Extent,
    /// Of the volume; ascending, disjoint, whole hash blocks.
    pub parts: Vec<Range<u64>>,
}

/// What a restore does.
#[derive(Debug)]
pub(super) struct Plan {
    pub size: u64,
    pub fetches: Vec<Fetch>,
}

/// Makes the plan; every byte below the volume's end comes from exactly one object.
pub(super) fn fold(chain: &Chain, hashes: &HashList) -> Result<Plan, BackupError> {
    let backup = chain.newest().prefix.backup();
    let size = chain.size();
    let broken = |reason: String| BadChainSnafu { backup, reason };
    let reason = format!("its {} hashes do not fit {size} bytes", hashes.digests.len());
    ensure!(hashes.fits(size), broken(reason));
    let mut covered = Covered::default();
    let mut fetches = Vec::new();
    for (_, manifest) in &chain.links {
        for extent in &manifest.extents {
            let parts = covered.add(extent.offset..extent.end());
            // What is written has been compared with a hash, and a hash is of a whole block.
            let whole = |at: u64| at.is_multiple_of(hashes.block) || at == size;
            let cut = parts.iter().find(|part| !whole(part.start) || !whole(part.end));
            if let Some(part) = cut {
                let reason = format!("{} splits a hash block at {}..{}", extent.key, part.start, part.end);
                return broken(reason).fail();
            }
            if !parts.is_empty() {
                fetches.push(Fetch { extent: extent.clone(), parts });
            }
        }
    }
    if let Some(gap) = covered.gaps(0..size).first() {
        return broken(format!("no backup stores the bytes {}..{}", gap.start, gap.end)).fail();
    }
    // In the order of the volume: a target is written from front to back.
    fetches.sort_by_key(|fetch| fetch.parts[0].start);
    Ok(Plan { size, fetches })
}

/// Disjoint ranges that do not touch: start → end.
#[derive(Default)]
struct Covered(BTreeMap<u64, u64>);

impl Covered {
    fn gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
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

    /// Covers `range`; answers what of it was not covered before.
    fn add(&mut self, range: Range<u64>) -> Vec<Range<u64>> {
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// B11: newest wins, each byte once: the same as painting byte by byte.
        #[test]
        fn covering_is_painting(ranges in prop::collection::vec((0u64..200, 1u64..60), 1..30)) {
            let mut covered = Covered::default();
            let mut painted = vec![false; 300];
            for (start, length) in ranges {
                let mut fresh = vec![false; 300];
                for gap in covered.add(start..start + length) {
                    prop_assert!(gap.start < gap.end);
                    fresh[gap.start as usize..gap.end as usize].fill(true);
                }
                for at in 0..300u64 {
                    let expected = (start..start + length).contains(&at) && !painted[at as usize];
                    prop_assert_eq!(fresh[at as usize], expected, "at {}", at);
                    painted[at as usize] |= fresh[at as usize];
                }
            }
        }
    }
}
