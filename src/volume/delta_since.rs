//! What changed since an earlier state: the union of the deltas on the way back to it.

use super::chain::Link;
use super::delta::Kept;
use super::delta_file::{At, Delta, GRAIN, block_count, grown};
use super::id::{LayerId, VolumeId};
use super::pin::Pinned;
use super::record::Record;
use super::volumes::Volumes;
use roaring::RoaringBitmap;
use serde::Serialize;
use std::ops::Range;
use uuid::Uuid;

/// More steps than any limit on tombstones allows, at a file each.
pub(super) const MAX_STEPS: usize = 10_000;
/// Ranges that an answer has at most (4 MiB): what is torn into more is told more coarsely.
const MAX_RANGES: usize = 1 << 18;

/// Names a state of a volume's data for ever. Not by the snapshot's id, which comes from its name: of a name that is
/// used again within the volume's life there would be two states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateId {
    /// The life of the volume that wrote it.
    pub incarnation: Uuid,
    /// The id of the layer that holds, or held, it.
    pub layer: Uuid,
}

/// What may have changed since a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// Anything; why nothing better is known.
    Unknown(String),
    /// Only these bytes: ascending, disjoint.
    Only(Vec<Range<u64>>),
}

/// What a snapshot's delta comes to, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeltaDetail {
    /// Bytes that may have changed since the state before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed: Option<u64>,
    /// Why that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

impl Pinned {
    /// The state that is pinned.
    pub fn state(&self) -> StateId {
        let top = &self.links[0].layer;
        StateId { incarnation: top.incarnation, layer: top.id.uuid() }
    }

    /// What of a disk of `size` bytes may have changed since an earlier state, of this volume or of one that it was
    /// made from.
    pub fn changed_since(&self, earlier: StateId, size: u64) -> Since {
        let Some(last) = block_count(size) else {
            return Since::Unknown(format!("a disk of {size} bytes has more blocks than a delta"));
        };
        match self.union_since(earlier) {
            Err(reason) => Since::Unknown(reason),
            Ok((mut blocks, smallest)) => {
                blocks.insert_range(grown(smallest, size));
                blocks.remove_range(last..);
                Since::Only(ranges(&blocks, size, MAX_RANGES))
            }
        }
    }

    /// The blocks, and the smallest size on the way.
    fn union_since(&self, earlier: StateId) -> Result<(RoaringBitmap, u64), String> {
        let mut at = self.links[0].layer.state(self.links[0].volume);
        let mut blocks = RoaringBitmap::new();
        let mut smallest = at.size;
        for _ in 0..MAX_STEPS {
            if at.layer.uuid() == earlier.layer {
                if at.incarnation == earlier.incarnation {
                    return Ok((blocks, smallest));
                }
                return Err(format!("state {} is of another life of volume {}", at.layer, at.volume));
            }
            let delta = self.step(at)?;
            blocks |= &delta.blocks;
            smallest = smallest.min(delta.from.size).min(delta.to.size);
            at = delta.from;
        }
        Err(format!("there are more than {MAX_STEPS} deltas on the way"))
    }

    /// The delta that ends at a state: the one that is kept, or for a layer that is still there one made now.
    pub(super) fn step(&self, at: At) -> Result<Delta, String> {
        let missing = match self.volumes.delta(at.volume, at.layer).map_err(|error| error.to_string())? {
            Kept::Whole(delta) if delta.to.same_state(&at) => return Ok(delta),
            Kept::Damaged(reason) => format!("the delta {} is damaged: {reason}", at.layer),
            // Of a life that a rebuilt record has ended.
            Kept::Whole(_) | Kept::Nothing => {
                format!("what changed up to state {} of volume {} is not kept", at.layer, at.volume)
            }
        };
        let here = |link: &Link| link.layer.state(link.volume).same_state(&at);
        let index = self.links.iter().position(here).ok_or(missing)?;
        let Some(below) = self.links.get(index + 1) else {
            return Err(format!("state {} of volume {} stands on nothing older", at.layer, at.volume));
        };
        let from = below.layer.state(below.volume);
        let made = self.volumes.measure_delta(from, at, &self.links[index].image());
        let delta = made.map_err(|error| error.to_string())?;
        // Not of what may have been merged meanwhile.
        if !self.is_lost()
            && let Err(error) = self.volumes.keep_delta(&delta)
        {
            tracing::debug!(volume = %at.volume, layer = %at.layer, %error, "a delta is not kept");
        }
        Ok(delta)
    }
}

impl Volumes {
    /// What is known of the changes up to a layer of a record.
    pub(super) fn delta_detail(&self, record: &Record, layer: LayerId) -> DeltaDetail {
        let unknown = |reason: String| DeltaDetail { changed: None, unknown: Some(reason) };
        let volume: VolumeId = record.id;
        let Some(found) = record.layer(layer) else { return unknown("its layer is not there".to_owned()) };
        match self.delta(volume, layer) {
            Err(error) => unknown(error.to_string()),
            Ok(Kept::Damaged(reason)) => unknown(format!("its delta is damaged: {reason}")),
            Ok(Kept::Whole(delta)) if delta.to.same_state(&found.state(volume)) => {
                let parts = ranges(&delta.changed(), delta.to.size, usize::MAX);
                let changed = parts.iter().map(|part| part.end - part.start).sum();
                DeltaDetail { changed: Some(changed), unknown: None }
            }
            Ok(_) if found.parent.is_none() => unknown("it stands on nothing older".to_owned()),
            Ok(_) => unknown("not recorded yet".to_owned()),
        }
    }
}

/// As bytes of a disk; in at most `limit` ranges, for which small gaps between them are taken in.
fn ranges(blocks: &RoaringBitmap, size: u64, limit: usize) -> Vec<Range<u64>> {
    let mut gap = 0;
    loop {
        if let Some(ranges) = ranges_with(blocks, size, limit, gap) {
            return ranges;
        }
        gap = (gap * 2).max(GRAIN);
    }
}

fn ranges_with(blocks: &RoaringBitmap, size: u64, limit: usize, gap: u64) -> Option<Vec<Range<u64>>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    let mut blocks = blocks.iter();
    while let Some(run) = blocks.next_range() {
        let start = u64::from(*run.start()) * GRAIN;
        let end = ((u64::from(*run.end()) + 1) * GRAIN).min(size);
        match found.last_mut().filter(|last| start - last.end <= gap) {
            Some(last) => last.end = end,
            None => found.push(start..end),
        }
        if found.len() > limit {
            return None;
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_changes_are_told_more_coarsely_and_never_less() {
        let blocks: RoaringBitmap = (0..4000).step_by(4).chain(9000..9010).collect();
        let size = 9009 * GRAIN + 17;
        let exact = ranges(&blocks, size, usize::MAX);
        assert_eq!(exact.len(), 1001);
        assert_eq!(exact[1000], 9000 * GRAIN..size);
        let coarse = ranges(&blocks, size, 10);
        assert_eq!(coarse, [0..3997 * GRAIN, 9000 * GRAIN..size]);
        assert_eq!(ranges(&RoaringBitmap::new(), size, 10), []);
    }
}
