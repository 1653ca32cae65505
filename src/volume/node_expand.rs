//! The node's part of a growth: the daemon's disk, the block device on it, the filesystem on that.

use super::agents::{GrowOrder, GrowReport};
use super::error::*;
use super::id::{VolumeHandle, VolumeId};
use super::local::Local;
use super::node_cut::active_file;
use super::stage::Staging;
use super::steps::{Step, reached};
use crate::attach::EXPORT;
use crate::host::device::DevNumber;
use crate::host::mount::FsType;
use crate::qsd::command::{self, JobStatus};
use crate::qsd::qmp::Client;
use snafu::{OptionExt, ensure};
use std::path::Path;

impl Staging {
    /// Grows the disk that a daemon shows, and the device on it. They have that size already: success.
    pub fn grow(&self, order: &GrowOrder) -> Result<GrowReport, Error> {
        let handle = VolumeHandle { share: order.share.clone(), volume: order.volume };
        self.alone(&handle, || {
            let Some((local, mut client)) = self.reach(&handle, order.epoch)? else {
                return Ok(GrowReport::NotOpen);
            };
            let volume = order.volume;
            let active = active_file(&mut client, volume)?;
            let reason = format!("the daemon writes to {active}, not to {}", order.file);
            ensure!(active == order.file, PreconditionSnafu { volume, reason });
            grow_disk(&mut client, order.size)?;
            drop(client);
            reached(Step::GrowDaemonResized);
            // Without a device it was not staged to its end: the next try makes one, of the right size.
            if local.device.is_some() {
                let found = self.parts.backend.refresh(&self.local.work_dir(&handle))?;
                let reason = format!("its device has {found} bytes after it was grown to {}", order.size);
                ensure!(found >= order.size, PreconditionSnafu { volume, reason });
            }
            Ok(GrowReport::Grown)
        })
    }

    /// Brings device and filesystem of a staged volume to the size of its image; answers that size, in bytes. They have
    /// it already: success. `path` is where it is staged, or where a pod has it.
    pub fn expand(&self, handle: &VolumeHandle, path: &Path, required: Option<u64>) -> Result<u64, Error> {
        let volume = handle.volume;
        self.alone(handle, || {
            let local = self.local.load(handle)?.filter(|local| local.staged);
            let node = self.parts.node.clone();
            let local = local.context(NotStagedSnafu { volume, node: node.clone() })?;
            let here = local.staging_path == path || local.targets.iter().any(|target| target == path);
            ensure!(here, NotStagedSnafu { volume, node });
            ensure!(
                self.daemon_of(&local)?.is_some(),
                PreconditionSnafu { volume, reason: "its storage daemon died; unstage it first" }
            );
            let half = "it is staged no more: unstaging it was broken off; stage it again";
            ensure!(self.is_whole(&local)?, PreconditionSnafu { volume, reason: half });
            // It does not grow under its readers; where they look, it has its size.
            let size = self.parts.backend.refresh(&self.local.work_dir(handle))?;
            let reason = format!("its device has {size} bytes: ControllerExpandVolume comes first");
            ensure!(required.is_none_or(|required| required <= size), OutOfRangeSnafu { reason });
            reached(Step::ExpandRefreshed);
            self.grow_mounted(&local)?;
            Ok(size)
        })
    }

    /// Grows the filesystem that is mounted at the staging path, if it is smaller than its device.
    fn grow_mounted(&self, local: &Local) -> Result<(), Error> {
        let (Some(fs), Some(device)) = (&local.filesystem, &local.device) else { return Ok(()) };
        if local.reader {
            return Ok(());
        }
        let volume = local.handle.volume;
        let fs: FsType = fs.parse().map_err(|error| Error::Invalid { reason: format!("{error}") })?;
        if !self.parts.formatter.wants_growth(device, fs)? {
            return Ok(());
        }
        let mounted = self.parts.mounter.find(&local.staging_path)?;
        let number = DevNumber::of_node(device).map_err(Error::io("stat", device))?;
        ensure!(
            mounted.is_some_and(|mounted| mounted.dev == number),
            PreconditionSnafu { volume, reason: "its filesystem is not mounted at its staging path" }
        );
        Ok(self.parts.formatter.grow_mounted(device, &local.staging_path, fs)?)
    }

    /// Grows an ext4 that is smaller than its device (the volume grew while it was detached, or is a larger copy of
    /// another one) before it is mounted.
    pub(super) fn grow_before_mount(&self, volume: VolumeId, device: &Path, fs: FsType) -> Result<(), Error> {
        let formatter = &self.parts.formatter;
        if fs == FsType::Ext4 && formatter.wants_growth(device, fs)? {
            tracing::info!(%volume, "its filesystem is smaller than its device, and is grown before it is mounted");
            formatter.check(device)?;
            reached(Step::StageChecked);
            formatter.grow_unmounted(device)?;
            reached(Step::StageGrown);
        }
        Ok(())
    }

    /// The same for XFS, which grows only while it is mounted.
    pub(super) fn grow_after_mount(&self, device: &Path, at: &Path, fs: FsType) -> Result<(), Error> {
        if fs == FsType::Xfs && self.parts.formatter.wants_growth(device, fs)? {
            self.parts.formatter.grow_mounted(device, at, fs)?;
            reached(Step::StageGrown);
        }
        Ok(())
    }
}

fn grow_disk(client: &mut Client, size: u64) -> Result<(), Error> {
    // A job that is over and that nobody has dismissed still keeps its nodes from being resized.
    for job in command::jobs(client)? {
        if job.status == JobStatus::Concluded {
            command::job_dismiss(client, &job.id)?;
        }
    }
    let node = command::export_node(client, EXPORT)?;
    if command::size_of(client, &node)? < size {
        command::resize(client, &node, size)?;
    }
    Ok(())
}
