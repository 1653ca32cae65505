//! From the staging path to a pod: bind mounts, of the filesystem or of the device.

use super::error::*;
use super::id::VolumeHandle;
use super::local::{Local, plain_absolute};
use super::stage::{Access, Staging};
use super::steps::{Step, reached};
use serde::{Deserialize, Serialize};
use snafu::{OptionExt, ensure};
use std::path::{Path, PathBuf};

/// How many places of a node may have a volume at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sharing {
    /// The pods of the node sort it out among themselves.
    #[default]
    ManyTargets,
    /// One pod alone.
    OneTarget,
}

impl Sharing {
    /// What a state without this field means.
    pub(super) fn is_default(&self) -> bool {
        *self == Sharing::default()
    }
}

/// A place in a pod's folder where a volume is to appear.
#[derive(Clone, Debug)]
pub struct PublishTarget {
    /// Where it is staged.
    pub staging_path: PathBuf,
    /// Where it is to appear; made when missing, removed when unpublished.
    pub target_path: PathBuf,
    /// The pod may not write.
    pub readonly: bool,
    /// As staged.
    pub access: Access,
    /// Whether other places may have it, too.
    pub sharing: Sharing,
}

impl Staging {
    /// Makes a staged volume appear at a pod's path. There already: success.
    pub fn publish(&self, handle: &VolumeHandle, request: &PublishTarget) -> Result<(), Error> {
        let volume = handle.volume;
        let target = &request.target_path;
        ensure!(
            plain_absolute(target),
            InvalidSnafu { reason: format!("{} is no absolute path", target.display()) }
        );
        self.alone(handle, || {
            let local = self.local.load(handle)?.filter(|local| local.staged);
            let reason = format!("it is not staged at {}", request.staging_path.display());
            let mut local = local.context(PreconditionSnafu { volume, reason: reason.clone() })?;
            ensure!(local.staging_path == request.staging_path, PreconditionSnafu { volume, reason });
            ensure!(
                self.daemon_of(&local)?.is_some(),
                PreconditionSnafu { volume, reason: "its storage daemon died; unstage it first" }
            );
            let half = "it is staged no more: unstaging it was broken off; stage it again";
            ensure!(self.is_whole(&local)?, PreconditionSnafu { volume, reason: half });
            let readonly = request.readonly || local.reader;
            let block = request.access == Access::Block;
            ensure!(
                block == local.filesystem.is_none(),
                IncompatibleSnafu { volume, reason: "it is staged in another mode (block or mount)" }
            );
            if let Some(mounted) = self.parts.mounter.find(target)? {
                ensure!(
                    local.targets.contains(target) && mounted.read_only() == readonly,
                    IncompatibleSnafu { volume, reason: format!("{} is a mount already", target.display()) }
                );
                return Ok(());
            }
            self.may_be_shared(&local, request)?;
            if !local.targets.contains(target) {
                local.targets.push(target.clone());
            }
            local.sharing = request.sharing;
            self.local.save(&local)?;
            reached(Step::TargetNoted);
            let device = local.device.context(PreconditionSnafu { volume, reason: "it has no device" })?;
            let source = if block {
                make_file(target)?;
                device
            } else {
                std::fs::create_dir_all(target).map_err(Error::io("make the folder", target))?;
                local.staging_path
            };
            reached(Step::TargetMade);
            self.parts.mounter.bind(&source, target, readonly)?;
            reached(Step::TargetBound);
            Ok(())
        })
    }

    /// K2: a volume for one pod alone never has a second place, whichever of the two asked for that.
    fn may_be_shared(&self, local: &Local, request: &PublishTarget) -> Result<(), Error> {
        let alone = request.sharing == Sharing::OneTarget || local.sharing == Sharing::OneTarget;
        let taken = self.targets_in_use(local)?.into_iter().find(|other| *other != request.target_path);
        match taken.filter(|_| alone) {
            None => Ok(()),
            Some(other) => {
                let reason = format!(
                    "one pod alone may use it (SINGLE_NODE_SINGLE_WRITER): it is at {}",
                    other.display()
                );
                PreconditionSnafu { volume: local.handle.volume, reason }.fail()
            }
        }
    }

    /// Takes a volume out of a pod's path. Not there: success.
    pub fn unpublish(&self, handle: &VolumeHandle, target: &Path) -> Result<(), Error> {
        ensure!(
            plain_absolute(target),
            InvalidSnafu { reason: format!("{} is no absolute path", target.display()) }
        );
        self.alone(handle, || {
            let local = self.local.load(handle)?;
            let ours = local.as_ref().is_some_and(|local| local.targets.iter().any(|other| other == target));
            if !ours {
                // Not a path of ours: unmounting or removing it is nobody's wish.
                return Ok(());
            }
            self.parts.mounter.unmount(target)?;
            reached(Step::TargetUnmounted);
            remove_target(target)?;
            reached(Step::TargetRemoved);
            let mut local = local.expect("it names the target");
            local.targets.retain(|other| other != target);
            self.local.save(&local)
        })
    }

    /// Where pods have a volume.
    pub fn targets(&self, handle: &VolumeHandle) -> Result<Vec<PathBuf>, Error> {
        Ok(self.local.load(handle)?.map(|local| local.targets).unwrap_or_default())
    }

    /// Where a volume is staged.
    pub fn staging_path(&self, handle: &VolumeHandle) -> Result<Option<PathBuf>, Error> {
        Ok(self.local.load(handle)?.map(|local| local.staging_path))
    }
}

fn make_file(path: &Path) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
    }
    let made = std::fs::File::options().write(true).create(true).truncate(false).open(path);
    made.map(drop).map_err(Error::io("make the file", path))
}

/// Removes the empty folder or file that a bind mount was on.
fn remove_target(path: &Path) -> Result<(), Error> {
    let removed = match std::fs::symlink_metadata(path) {
        Err(error) => Err(error),
        Ok(meta) if meta.is_dir() => std::fs::remove_dir(path),
        Ok(_) => std::fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}
