//! Stopping a merge, and finding out from the headers what one that stopped came to.

use super::agents::MergeStep;
use super::chain::{Link, relative};
use super::error::*;
use super::merge::daemon_name;
use super::record::{Direction, Layer, Merge};
use super::steps::{Step, reached};
use super::store::Locked;
use crate::image::header::Header;
use crate::image::lock;
use snafu::{OptionExt, ResultExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long an operation waits for a merge to let go of its images: a daemon quits within this.
const STOP_WAIT: Duration = Duration::from_secs(5);

impl Locked<'_> {
    /// Makes a merge that is under way stop, and the volume ready for another operation.
    pub(super) fn stop_merge(&mut self) -> Result<(), Error> {
        let Some(merge) = &mut self.record.merge else { return Ok(()) };
        if !merge.cancelled {
            // Its runner, which may be on another node, looks for this.
            merge.cancelled = true;
            self.commit()?;
        }
        let stopped = self.end_job()?;
        let deadline = Instant::now() + STOP_WAIT;
        while !self.settle_merge(stopped)? {
            if Instant::now() > deadline {
                let doing = "a merge of its layers is being stopped".to_owned();
                return PendingSnafu { volume: self.id(), doing }.fail();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Whether it is certain that no job of a merge is there any more.
    fn end_job(&self) -> Result<bool, Error> {
        let Some(merge) = &self.record.merge else { return Ok(true) };
        let volume = self.id();
        match &merge.at {
            None => {
                self.volumes.tools.daemons.stop(&daemon_name(&self.volumes.handle(volume)))?;
                Ok(false)
            }
            Some(site) if Some(&site.node) == self.closed_on.as_ref() => Ok(true),
            Some(site) => match self.volumes.merge_on_node(volume, site, merge, MergeStep::Stop) {
                Ok(_) => Ok(true),
                // Its runner may reach the node, and the node may be gone: the locks of the images tell.
                Err(error) => {
                    tracing::debug!(%volume, %error, "a merge is stopped by its mark alone");
                    Ok(false)
                }
            },
        }
    }

    /// Works out from the headers what a merge that no longer runs came to. False while its images are still held by
    /// somebody; `stopped`: they are not, the daemon that may have them open has said so.
    pub(super) fn settle_merge(&mut self, stopped: bool) -> Result<bool, Error> {
        let Some(merge) = self.record.merge.clone() else { return Ok(true) };
        if !stopped && self.is_written_to(&merge)? {
            return Ok(false);
        }
        if self.header_changed(&merge)? {
            self.record_merged(&merge)?;
        } else {
            self.record.merge = None;
            // A commit that was stopped has written parts of the upper layer into the lower one: that reads as no point
            // any more by itself, and stays so.
            if merge.direction != Direction::Commit
                && let Some(lower) = self.record.layer_mut(merge.lower)
            {
                lower.closed = false;
            }
            self.commit()?;
        }
        self.empty_trash()?;
        self.write_info()?;
        Ok(true)
    }

    /// Whether the daemon of a merge still has its images open. Who only reads (a clone's daemon) is no sign of it,
    /// nor is, in a volume that is attached, the image that takes the pods' writes.
    fn is_written_to(&self, merge: &Merge) -> Result<bool, Error> {
        let of_own_daemon = merge.at.is_none();
        let above = self.record.children(merge.upper).filter(|_| of_own_daemon);
        let both = [merge.lower, merge.upper].into_iter().filter_map(|id| self.record.layer(id));
        for layer in both.chain(above) {
            if lock::in_use(&self.image(&layer.file)).context(ImageLockSnafu)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the header that a merge rewrites last has its new backing name.
    fn header_changed(&self, merge: &Merge) -> Result<bool, Error> {
        let upper = self.upper(merge)?;
        let below = |layer: &Layer| -> Result<Option<PathBuf>, Error> {
            let chain = self.volumes.chain(&self.record, layer.id)?;
            Ok(chain.into_iter().nth(1).map(|link: Link| link.path))
        };
        let path = |layer: &Layer| self.image(&layer.file);
        let (overlay, old, new) = match merge.direction {
            Direction::Commit => {
                let above = self.record.children(upper.id).next();
                // Without a layer above a commit is never chosen.
                let Some(above) = above else { return Ok(false) };
                (path(above), Some(path(upper)), Some(path(self.lower(merge)?)))
            }
            Direction::Stream => {
                let lower = self.lower(merge)?;
                (path(upper), Some(path(lower)), below(lower)?)
            }
            Direction::Flatten => (path(upper), below(upper)?, None),
        };
        let found = Header::read(&overlay).context(ImageHeaderSnafu)?.backing_file;
        let name = |path: Option<PathBuf>| path.map(|path| relative(&overlay, &path));
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
    fn record_merged(&mut self, merge: &Merge) -> Result<(), Error> {
        let lower = match merge.direction {
            Direction::Flatten => None,
            Direction::Commit | Direction::Stream => Some(self.lower(merge)?.clone()),
        };
        self.upper(merge)?;
        let upper = self.record.layer_mut(merge.upper).expect("looked for just now");
        upper.parent = lower.as_ref().and_then(|lower| lower.parent);
        let unused = lower.map(|lower| match merge.direction {
            Direction::Commit => {
                upper.format = lower.format;
                std::mem::replace(&mut upper.file, lower.file)
            }
            _ => lower.file,
        });
        self.record.layers.retain(|layer| layer.id != merge.lower);
        self.record.trash.extend(unused);
        self.record.merge = None;
        self.commit()?;
        reached(Step::MergeRecorded);
        Ok(())
    }

    fn upper(&self, merge: &Merge) -> Result<&Layer, Error> {
        self.record.layer(merge.upper).with_context(|| self.not_there())
    }

    fn lower(&self, merge: &Merge) -> Result<&Layer, Error> {
        self.record.layer(merge.lower).with_context(|| self.not_there())
    }

    fn not_there(&self) -> DamagedRecordSnafu<crate::volume::VolumeId, &'static str> {
        DamagedRecordSnafu { volume: self.id(), reason: "its merge names layers that are not there" }
    }
}
