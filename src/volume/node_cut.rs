//! The node's part of a cut: hold the filesystem still, switch the daemon to the overlay, let go.

use super::agents::{CutOrder, CutReport, OpenImage};
use super::error::*;
use super::id::{VolumeHandle, VolumeId};
use super::local::Local;
use super::merge_job::Host;
use super::stage::{REACH, Staging};
use super::steps::{Step, reached};
use crate::attach::EXPORT;
use crate::gluster::ShareKey;
use crate::host::device::DevNumber;
use crate::host::freeze::{self, FreezeError, FrozenFs};
use crate::image::{Format, ImageRef};
use crate::qsd::command;
use crate::qsd::qmp::Client;
use snafu::{OptionExt, ensure};
use std::path::Path;
use std::time::{Duration, Instant};

/// The longest that writers are made to wait. A filesystem that cannot be frozen and switched within
/// this is cut all the same, and the snapshot is marked as crash-consistent.
const WATCHDOG: Duration = Duration::from_secs(10);

impl Staging {
    /// Moves a running image onto an overlay. Done already: said so.
    pub fn cut(&self, order: &CutOrder) -> Result<CutReport, Error> {
        let handle = VolumeHandle { share: order.share.clone(), volume: order.volume };
        self.alone(&handle, || {
            let Some((local, mut client)) = self.reach(&handle, order.epoch)? else {
                return Ok(CutReport::NotOpen);
            };
            let volume = order.volume;
            let active = active_file(&mut client, volume)?;
            if active == order.overlay_file {
                return Ok(CutReport::AlreadySwitched);
            }
            let reason = format!("the daemon writes to {active}, not to {}", order.frozen_file);
            ensure!(active == order.frozen_file, PreconditionSnafu { volume, reason });
            let overlay = ImageRef { path: local.folder.join(&order.overlay_file), format: Format::Qcow2 };
            let node = command::export_node(&mut client, EXPORT)?;
            // An earlier try may have opened the overlay and not come to the switch; or a file of that name that is gone
            // is still open.
            if let Some(stale) = command::node_of(&mut client, &overlay.path)? {
                command::del_node(&mut client, &stale)?;
            }
            let overlay = command::add_overlay(&mut client, &overlay)?;
            // A growth that nobody waited for may have come between: a smaller overlay would cut the disk off.
            let size = command::size_of(&mut client, &node)?;
            if command::size_of(&mut client, &overlay)? < size {
                command::resize(&mut client, &overlay, size)?;
            }
            let report = self.switch_frozen(&local, &mut client, &node, &overlay)?;
            // The cut is made whatever comes of this: the next one, or a merge, tries again.
            let mut host = Host { client: &mut client, folder: &local.folder, top: &overlay };
            if let Err(error) = host.seal_layers() {
                tracing::warn!(%volume, error = &error as &dyn std::error::Error, "a frozen layer stays open for writing");
            }
            Ok(report)
        })
    }

    fn switch_frozen(
        &self,
        local: &Local,
        client: &mut Client,
        node: &str,
        overlay: &str,
    ) -> Result<CutReport, Error> {
        let frozen = match (&local.filesystem, &local.device) {
            (Some(_), Some(device)) if can_freeze() => self.freeze(local, device)?,
            _ => None,
        };
        let began = Instant::now();
        reached(Step::CutFrozen);
        let switched = command::snapshot(client, node, overlay);
        if switched.is_ok() {
            reached(Step::CutSwitched);
        }
        let (filesystem_consistent, pause) = match frozen.map(FrozenFs::thaw) {
            Some(thawed) => (thawed.held, thawed.pause),
            None => (false, began.elapsed()),
        };
        self.note_freeze(local, false)?;
        switched?;
        Ok(CutReport::Switched { filesystem_consistent, pause })
    }

    /// What this node has open of an attachment.
    pub fn status(&self, share: &ShareKey, volume: VolumeId, epoch: u64) -> Result<Option<OpenImage>, Error> {
        let handle = VolumeHandle { share: share.clone(), volume };
        self.alone(&handle, || {
            let Some((_, mut client)) = self.reach(&handle, epoch)? else { return Ok(None) };
            Ok(Some(OpenImage { active_file: active_file(&mut client, volume)? }))
        })
    }

    /// Lets go of a volume for the controller. Refused while pods have it.
    pub fn release(&self, share: &ShareKey, volume: VolumeId) -> Result<(), Error> {
        let handle = VolumeHandle { share: share.clone(), volume };
        let staging_path = self.staging_path(&handle)?;
        staging_path.map_or(Ok(()), |path| self.unstage(&handle, &path))
    }

    /// None when the filesystem did not stand still in time: the cut is made all the same, and marked.
    fn freeze(&self, local: &Local, device: &Path) -> Result<Option<FrozenFs>, Error> {
        // A freeze outlives the process that made it: whoever starts after a crash has to know of it.
        self.note_freeze(local, true)?;
        match FrozenFs::freeze(&local.staging_path, device, WATCHDOG) {
            Err(error @ FreezeError::TooSlow { .. }) => {
                tracing::warn!(volume = %local.handle, %error, "cut without a freeze");
                Ok(None)
            }
            frozen => Ok(Some(frozen?)),
        }
    }

    fn note_freeze(&self, local: &Local, freezing: bool) -> Result<(), Error> {
        let Some(mut stored) = self.local.load(&local.handle)? else { return Ok(()) };
        if stored.freezing != freezing {
            stored.freezing = freezing;
            self.local.save(&stored)?;
        }
        Ok(())
    }

    /// Thaws what a process that died had frozen. To be called before anything else at start. One volume that
    /// cannot be thawed (its mount is gone) keeps no other one frozen.
    pub fn thaw_leftovers(&self) -> Result<(), Error> {
        for handle in self.local.list()? {
            match self.thaw_leftover(&handle) {
                Ok(false) => {}
                Ok(true) => {
                    tracing::warn!(volume = %handle, "thawed a filesystem that a cut had left frozen")
                }
                Err(error) => tracing::error!(volume = %handle, %error, "a filesystem may still be frozen"),
            }
        }
        Ok(())
    }

    fn thaw_leftover(&self, handle: &VolumeHandle) -> Result<bool, Error> {
        let Some(local) = self.local.load(handle)?.filter(|local| local.freezing) else { return Ok(false) };
        if let Some(device) = &local.device {
            let expected = DevNumber::of_node(device).map_err(Error::io("stat", device))?;
            freeze::thaw_leftover(&local.staging_path, expected)?;
        }
        self.note_freeze(&local, false)?;
        Ok(true)
    }

    /// The daemon of an attachment; None when this node does not have it open for writing.
    pub(super) fn reach(&self, handle: &VolumeHandle, epoch: u64) -> Result<Option<(Local, Client)>, Error> {
        let Some(local) = self.local.load(handle)?.filter(|local| local.epoch == epoch && !local.reader)
        else {
            return Ok(None);
        };
        let Some(daemon) = self.daemon_of(&local)? else { return Ok(None) };
        let mut client = Client::connect(&daemon.qmp_socket, REACH)?;
        // Between the daemon's start and its export nothing can have been written.
        let exported = command::exports(&mut client)?.iter().any(|export| export.id == EXPORT);
        Ok(exported.then_some((local, client)))
    }
}

pub(super) fn active_file(client: &mut Client, volume: VolumeId) -> Result<String, Error> {
    let path = command::active_file(client, EXPORT)?;
    let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    name.context(PreconditionSnafu {
        volume,
        reason: format!("its image has no file name: {}", path.display()),
    })
}

/// Before 5.17 a freeze could be undone by others in ways that are not told apart from ours.
fn can_freeze() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut parts = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (5, 17)
}
