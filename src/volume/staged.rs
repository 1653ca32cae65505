//! Whether a volume is staged on this node, by what is there and not by the note alone.

use super::error::*;
use super::id::VolumeHandle;
use super::local::Local;
use super::stage::{Access, StageVolume, Staging, daemon_name};
use crate::host::device::DevNumber;
use crate::qsd::Daemon;
use snafu::ensure;
use std::path::PathBuf;

impl Staging {
    /// Whether the volume is staged as asked, and alive.
    pub(super) fn is_staged(&self, handle: &VolumeHandle, request: &StageVolume) -> Result<bool, Error> {
        let Some(local) = self.local.load(handle)?.filter(|local| local.staged) else { return Ok(false) };
        let volume = handle.volume;
        let daemon = self.parts.daemons.find(&daemon_name(handle))?;
        let alive = daemon.is_some_and(|daemon| Some(daemon.instance) == local.daemon_instance);
        if !alive {
            ensure!(
                self.targets_in_use(&local)?.is_empty(),
                PreconditionSnafu {
                    volume,
                    reason: "its storage daemon died; unpublish and unstage it first"
                }
            );
            return Ok(false);
        }
        if !self.is_whole(&local)? {
            let targets = self.targets_in_use(&local)?;
            let reason =
                format!("it was half unstaged while pods still have it at {targets:?}; unpublish it first");
            ensure!(targets.is_empty(), PreconditionSnafu { volume, reason });
            return Ok(false);
        }
        ensure!(
            local.staging_path == request.staging_path,
            PreconditionSnafu {
                volume,
                reason: format!("it is staged at {}; unstage it there first", local.staging_path.display())
            }
        );
        let wanted = match &request.access {
            Access::Mount { fs, .. } => Some(fs.name().to_owned()),
            Access::Block => None,
        };
        ensure!(
            local.filesystem == wanted,
            IncompatibleSnafu { volume, reason: "it is staged in another mode; unstage it first" }
        );
        local.has_options_of(&request.access)?;
        Ok(true)
    }

    /// The pods' paths that are still mounts: after a reboot the notes are there and the mounts are not.
    pub(super) fn targets_in_use(&self, local: &Local) -> Result<Vec<PathBuf>, Error> {
        let mut targets = Vec::new();
        for target in &local.targets {
            if self.parts.mounter.find(target)?.is_some() {
                targets.push(target.clone());
            }
        }
        Ok(targets)
    }

    /// The daemon that has a staged volume open.
    pub(super) fn daemon_of(&self, local: &Local) -> Result<Option<Daemon>, Error> {
        let daemon = self.parts.daemons.find(&daemon_name(&local.handle))?;
        Ok(daemon.filter(|daemon| Some(&daemon.instance) == local.daemon_instance.as_ref()))
    }

    /// Whether device and mount are still what the note says. Unstaging that was broken off leaves a daemon without
    /// them: its staging path is a folder of the node's own disk, and its loop device may be another volume's by now.
    pub(super) fn is_whole(&self, local: &Local) -> Result<bool, Error> {
        let found = self.parts.backend.find(&self.local.work_dir(&local.handle))?;
        let Some(device) = found.map(|found| found.path).filter(|path| Some(path) == local.device.as_ref())
        else {
            return Ok(false);
        };
        if local.filesystem.is_none() {
            return Ok(true);
        }
        let number = DevNumber::of_node(&device).map_err(Error::io("look at", &device))?;
        Ok(self.parts.mounter.find(&local.staging_path)?.is_some_and(|mount| mount.dev == number))
    }
}
