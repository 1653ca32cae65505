//! Merging frozen layers: which pair, in which direction, and what a merge that stopped anywhere means.
//!
//! The rule: a frozen layer that nothing refers to but one frozen child becomes one with that child. The child
//! keeps its id, its contents and its children; what changes is which file holds it:
//!
//! - *commit*: the child's clusters go down into the lower layer's file, which becomes the child's. The one layer that
//!   stands on the child gets a new backing name.
//! - *stream*: the lower layer's clusters go up into the child's file, which gets a new backing name.
//!
//! Until a header has its new name, every chain reads as before, whatever was copied; after it, the old file is
//! read by nobody. So the header alone tells on which side a merge stopped, and both sides are right. The
//! active image is never merged: the boundary under it stays until the next cut.

use super::chain::{Link, relative};
use super::cut::is_held;
use super::error::*;
use super::id::{LayerId, VolumeHandle};
use super::record::{Direction, Layer, Merge, Record};
use super::steps::{Step, reached};
use super::store::Locked;
use crate::image::Format;
use crate::image::header::Header;
use crate::image::lock::{self, ImageLock};
use crate::qsd::DaemonName;
use jiff::Timestamp;
use snafu::ResultExt;
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long an operation waits for a merge to let go of its images: a daemon quits within this.
const STOP_WAIT: Duration = Duration::from_secs(5);

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

/// The first pair that can be merged. `outside`: layers that other volumes stand on.
pub(super) fn candidate(record: &Record, outside: &HashSet<LayerId>) -> Option<Pair> {
    let wanted = |id: LayerId| record.snapshots.iter().any(|snapshot| snapshot.layer == id);
    record.layers.iter().find_map(|lower| {
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
    })
}

impl Locked<'_> {
    /// Chooses a pair and journals its merge. Under the graph lock, so that the layer that goes has no
    /// reference and gets none. None if there is nothing to merge, or if it must wait.
    pub(super) fn begin_merge(&mut self) -> Result<Option<(Merge, Pair)>, Error> {
        let outside = self.volumes.outside_references(self.id())?;
        let Some(pair) = candidate(&self.record, &outside) else { return Ok(None) };
        if self.is_pinned(pair.lower) || self.is_pinned(pair.upper) {
            return Ok(None);
        }
        // Open in another process, such as the daemon of a clone: a merge would only fail.
        let files = [Some(pair.lower), Some(pair.upper), pair.above].into_iter().flatten();
        for layer in files.filter_map(|id| self.record.layer(id)) {
            let free = ImageLock::write(&self.image(&layer.file));
            if is_held(&free) {
                let doing = "layers that are to be merged are open elsewhere".to_owned();
                return PendingSnafu { volume: self.id(), doing }.fail();
            }
            drop(free.context(ImageLockSnafu)?);
        }
        let direction = self.direction(pair)?;
        let merge = Merge {
            lower: pair.lower,
            upper: pair.upper,
            direction,
            run: Uuid::new_v4(),
            cancelled: false,
            started_at: Timestamp::now(),
        };
        self.record.layer_mut(pair.lower).expect("a candidate is in the record").closed = true;
        self.record.merge = Some(merge.clone());
        self.commit()?;
        reached(Step::MergeIntended);
        Ok(Some((merge, pair)))
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

    /// Makes a merge that is under way stop, and the volume ready for another operation.
    pub(super) fn stop_merge(&mut self) -> Result<(), Error> {
        let Some(merge) = &mut self.record.merge else { return Ok(()) };
        if !merge.cancelled {
            // Its runner, which may be on another node, looks for this.
            merge.cancelled = true;
            self.commit()?;
        }
        self.volumes.tools.daemons.stop(&daemon_name(&self.volumes.handle(self.id())))?;
        let deadline = Instant::now() + STOP_WAIT;
        while !self.settle_merge()? {
            if Instant::now() > deadline {
                let doing = "a merge of its layers is being stopped".to_owned();
                return PendingSnafu { volume: self.id(), doing }.fail();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Works out from the headers what a merge that no longer runs came to. False while its images are
    /// still held by somebody.
    pub(super) fn settle_merge(&mut self) -> Result<bool, Error> {
        let Some(merge) = self.record.merge.clone() else { return Ok(true) };
        let layer = |record: &Record, id| record.layer(id).cloned();
        let (Some(lower), Some(upper)) = (layer(&self.record, merge.lower), layer(&self.record, merge.upper))
        else {
            let reason = "its merge names layers that are not there".to_owned();
            return DamagedRecordSnafu { volume: self.id(), reason }.fail();
        };
        // Its daemon writes to one of these. Who only reads (a clone's daemon) is no sign of a running merge.
        for layer in [&lower, &upper].into_iter().chain(self.record.children(upper.id)) {
            if lock::in_use(&self.image(&layer.file)).context(ImageLockSnafu)? {
                return Ok(false);
            }
        }
        if self.header_changed(&merge, &lower, &upper)? {
            self.record_merged(&merge, &lower)?;
        } else {
            self.record.merge = None;
            if let Some(lower) = self.record.layer_mut(merge.lower) {
                lower.closed = false;
            }
            self.commit()?;
        }
        self.empty_trash()?;
        self.write_info()?;
        Ok(true)
    }

    /// Whether the header that a merge rewrites last has its new backing name.
    pub(super) fn header_changed(&self, merge: &Merge, lower: &Layer, upper: &Layer) -> Result<bool, Error> {
        let (overlay, old, new) = match merge.direction {
            Direction::Commit => {
                let above = self.record.children(upper.id).next();
                // Without a layer above a commit is never chosen.
                let Some(above) = above else { return Ok(false) };
                (self.image(&above.file), Some(self.image(&upper.file)), Some(self.image(&lower.file)))
            }
            Direction::Stream => {
                let below = self.volumes.chain(&self.record, lower.id)?.into_iter().nth(1);
                (self.image(&upper.file), Some(self.image(&lower.file)), below.map(|link: Link| link.path))
            }
        };
        let found = Header::read(&overlay).context(ImageHeaderSnafu)?.backing_file;
        let name = |path: Option<std::path::PathBuf>| path.map(|path| relative(&overlay, &path));
        if found == name(new) {
            return Ok(true);
        }
        if found == name(old) {
            return Ok(false);
        }
        let reason = format!("{} stands on {found:?}, which is neither side of its merge", overlay.display());
        DamagedRecordSnafu { volume: self.id(), reason }.fail()
    }

    /// The record's side of a merge whose header is written: the upper layer takes the lower one's place.
    pub(super) fn record_merged(&mut self, merge: &Merge, lower: &Layer) -> Result<(), Error> {
        let upper = self.record.layer_mut(merge.upper).expect("checked by the caller");
        upper.parent = lower.parent;
        let unused = match merge.direction {
            Direction::Commit => {
                upper.format = lower.format;
                std::mem::replace(&mut upper.file, lower.file.clone())
            }
            Direction::Stream => lower.file.clone(),
        };
        self.record.layers.retain(|layer| layer.id != merge.lower);
        self.record.trash.push(unused);
        self.record.merge = None;
        self.commit()?;
        reached(Step::MergeRecorded);
        Ok(())
    }
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
