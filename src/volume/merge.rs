//! Merging frozen layers: which pair, in which direction, and what a merge that stopped anywhere means.
//!
//! The rule: a frozen layer that nothing refers to but one frozen child becomes one with that child. The child
//! keeps its id, its contents and its children; what changes is which file holds it:
//!
//! - *commit*: the child's clusters go down into the lower layer's file, which becomes the child's. The one layer that
//!   stands on the child gets a new backing name.
//! - *stream*: the lower layer's clusters go up into the child's file, which gets a new backing name.
//!
//! And a clone whose chain has become long is *flattened*: see `flatten`.
//!
//! Until a header has its new name, every chain reads as before, whatever was copied; after it, the old file is
//! read by nobody. So the header alone tells on which side a merge stopped, and both sides are right. The
//! active image is never merged: the boundary under it stays until the next cut.

use super::agents::MergeWork;
use super::chain::{Link, relative};
use super::cut::is_held;
use super::error::*;
use super::flatten::Flattening;
use super::id::{LayerId, VolumeHandle};
use super::record::{Direction, Layer, Merge, Record, Site};
use super::steps::{Step, reached};
use super::store::Locked;
use crate::image::Format;
use crate::image::lock::ImageLock;
use crate::qsd::DaemonName;
use jiff::Timestamp;
use snafu::{OptionExt, ResultExt};
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use uuid::Uuid;

/// The name of the daemon that merges layers of a volume. One merge a volume at a time.
pub(super) fn daemon_name(volume: &VolumeHandle) -> DaemonName {
    DaemonName::of("merge", volume.share.as_str(), volume.volume.uuid())
}

/// Two layers that can become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) lower: LayerId,
    pub(super) upper: LayerId,
    /// The one layer that stands on `upper`, when a commit is possible.
    pub(super) above: Option<LayerId>,
}

/// The pairs that can be merged. `outside`: layers that other volumes stand on. Last come those that a clone reads
/// too: while it is attached they cannot be merged, and must not stand in the way of others.
pub(super) fn candidates(record: &Record, outside: &HashSet<LayerId>) -> Vec<Pair> {
    let mut pairs: Vec<Pair> =
        record.layers.iter().filter_map(|lower| pair(record, outside, lower)).collect();
    let read_by_clones = under(record, outside);
    pairs.sort_by_key(|pair| read_by_clones.contains(&pair.upper));
    pairs
}

fn pair(record: &Record, outside: &HashSet<LayerId>, lower: &Layer) -> Option<Pair> {
    let wanted = |id: LayerId| record.snapshots.iter().any(|snapshot| snapshot.layer == id);
    if record.active == Some(lower.id) || wanted(lower.id) || outside.contains(&lower.id) {
        return None;
    }
    let mut children = record.children(lower.id);
    let upper = children.next().filter(|upper| record.active != Some(upper.id))?;
    if children.next().is_some() {
        return None;
    }
    let mut standing = record.children(upper.id);
    let above = standing.next().map(|layer| layer.id);
    let single = standing.next().is_none() && !outside.contains(&upper.id);
    Some(Pair { lower: lower.id, upper: upper.id, above: above.filter(|_| single) })
}

/// These layers of the record, and all of its layers under them.
fn under(record: &Record, tops: &HashSet<LayerId>) -> HashSet<LayerId> {
    let mut found = HashSet::new();
    for top in tops {
        let mut next = record.layer(*top);
        while let Some(layer) = next.filter(|layer| found.insert(layer.id)) {
            next = layer.parent.and_then(|parent| record.layer(parent.layer));
        }
    }
    found
}

/// A merge that is journaled, and what it takes to run it.
pub(super) struct Begun {
    pub(super) merge: Merge,
    pub(super) work: MergeWork,
    /// What a daemon of its own opens, top first.
    pub(super) chain: Vec<Link>,
}

impl Locked<'_> {
    /// Chooses what to merge and journals it. Under the graph lock, so that a layer that goes has no reference and
    /// gets none. None if there is nothing to merge, or if it must wait. `seen`: the layers whose deltas were made, as far
    /// as they can be; others were frozen since.
    pub(super) fn begin_merge(&mut self, seen: &HashSet<LayerId>) -> Result<Option<Begun>, Error> {
        let outside = self.volumes.outside_references(self.id())?;
        let mut held = None;
        for pair in candidates(&self.record, &outside) {
            if self.is_pinned(pair.lower) || self.is_pinned(pair.upper) {
                continue;
            }
            if !seen.contains(&pair.lower) || !seen.contains(&pair.upper) {
                held = Some(self.before_deltas());
                continue;
            }
            match self.ensure_free(pair) {
                Err(error @ Error::Pending { .. }) => {
                    held = Some(error);
                    continue;
                }
                free => free?,
            }
            let direction = self.direction(pair)?;
            let top = match direction {
                Direction::Commit => pair.above.expect("a commit is chosen only under one layer"),
                Direction::Stream | Direction::Flatten => pair.upper,
            };
            let chain = self.volumes.chain(&self.record, top)?;
            return self.begin(pair, direction, chain).map(Some);
        }
        if let Some(Flattening { upper, lower, chain }) = self.flattening()? {
            let pair = Pair { lower, upper, above: None };
            match self.ensure_free(pair) {
                _ if !seen.contains(&upper) => held = Some(self.before_deltas()),
                Err(error @ Error::Pending { .. }) => held = Some(error),
                free => {
                    free?;
                    return self.begin(pair, Direction::Flatten, chain).map(Some);
                }
            }
        }
        held.map_or(Ok(None), Err)
    }

    fn before_deltas(&self) -> Error {
        let doing = "what changed up to its newest layer is yet to be recorded".to_owned();
        Error::Pending { volume: self.id(), doing }
    }

    fn begin(&mut self, pair: Pair, direction: Direction, chain: Vec<Link>) -> Result<Begun, Error> {
        let at = self.site();
        let work = self.work(pair, direction, &chain)?;
        let merge = Merge {
            lower: pair.lower,
            upper: pair.upper,
            direction,
            run: Uuid::new_v4(),
            cancelled: false,
            started_at: Timestamp::now(),
            at,
        };
        if let Some(lower) = self.record.layer_mut(pair.lower) {
            lower.closed = true;
        }
        self.record.merge = Some(merge.clone());
        self.commit()?;
        reached(Step::MergeIntended);
        Ok(Begun { merge, work, chain })
    }

    /// The daemon that has the layers open: no other process could write to them.
    fn site(&self) -> Option<Site> {
        self.record.writer().map(|(node, epoch)| Site { node, epoch })
    }

    /// Open in another process, such as the daemon of a clone: a merge would only fail.
    fn ensure_free(&self, pair: Pair) -> Result<(), Error> {
        if self.site().is_some() {
            // Its own daemon has them open; what else does, the job finds out.
            return Ok(());
        }
        let files = [Some(pair.lower), Some(pair.upper), pair.above].into_iter().flatten();
        for layer in files.filter_map(|id| self.record.layer(id)) {
            let free = ImageLock::write(&self.image(&layer.file));
            if is_held(&free) {
                let doing = "layers that are to be merged are open elsewhere".to_owned();
                return PendingSnafu { volume: self.id(), doing }.fail();
            }
            drop(free.context(ImageLockSnafu)?);
        }
        Ok(())
    }

    fn work(&self, pair: Pair, direction: Direction, chain: &[Link]) -> Result<MergeWork, Error> {
        let file = |id| self.record.layer(id).map(|layer| layer.file.clone());
        let at = |id| chain.iter().position(|link| link.layer.id == id);
        let backing = match direction {
            Direction::Commit => file(pair.lower),
            Direction::Stream => {
                let (upper, lower) = (at(pair.upper), at(pair.lower));
                let below = lower.and_then(|lower| chain.get(lower + 1));
                upper.zip(below).map(|(upper, below)| relative(&chain[upper].path, &below.path))
            }
            Direction::Flatten => None,
        };
        let reason = "a merge's upper layer is not there";
        Ok(MergeWork {
            direction,
            upper_file: file(pair.upper).context(InvalidSnafu { reason })?,
            lower_file: if direction == Direction::Flatten { None } else { file(pair.lower) },
            backing,
            speed: self.volumes.tools.policy.merge_speed,
        })
    }

    /// Whichever copies fewer bytes.
    fn direction(&self, pair: Pair) -> Result<Direction, Error> {
        let layer = |id| self.record.layer(id).expect("a candidate is in the record");
        if pair.above.is_none() {
            return Ok(Direction::Stream);
        }
        // A raw base was asked for as such: it stays one.
        if layer(pair.lower).format == Format::Raw {
            return Ok(Direction::Commit);
        }
        let allocated = |id| {
            let path = self.image(&layer(id).file);
            std::fs::metadata(&path).map(|meta| meta.blocks()).map_err(Error::io("stat", path))
        };
        let commit = allocated(pair.upper)? <= allocated(pair.lower)?;
        Ok(if commit { Direction::Commit } else { Direction::Stream })
    }
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
