//! FUSE export plus loop device: works on every kernel.
//!
//! `<work_dir>/image` is an empty file; the daemon mounts its export on it, and a loop device with
//! direct I/O stands on that. When the daemon dies, the device gives errors for ever: a daemon that
//! came back behind the same mount would hide acknowledged writes that went with the first one.

use super::{
    Access, AttachError, Backend, Device, EXPORT, ExportSnafu, FileSnafu, LoopSnafu, MountSnafu, ReachSnafu,
    SizeSnafu, StaleSnafu,
};
use crate::host::loopdev::{LoopDevice, LoopDevices, LoopOptions};
use crate::host::mount::Mounter;
use crate::qsd::Daemon;
use crate::qsd::command;
use crate::qsd::qmp::Client;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use snafu::{OptionExt, ResultExt, ensure};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Another client of the same daemon may be in the middle of a command.
const REACH: Duration = Duration::from_secs(30);

/// The backend that needs nothing but /dev/fuse and loop devices.
#[derive(Clone)]
pub struct FuseLoop {
    loops: Arc<dyn LoopDevices>,
    mounter: Arc<dyn Mounter>,
}

fn export_file(work_dir: &Path) -> PathBuf {
    work_dir.join("image")
}

fn device(path: PathBuf, export_file: PathBuf) -> Device {
    Device { path, export_file, export_id: EXPORT.to_owned() }
}

/// An empty file for the export to be mounted on.
fn touch(file: &Path, work_dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(work_dir)?;
    match File::options().write(true).create_new(true).mode(0o600).open(file) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// The size of an export, past the kernel's copy of it, which is up to a second old and which the loop device uses.
fn size_from_daemon(file: &Path) -> io::Result<u64> {
    let flags = AtFlags::STATX_FORCE_SYNC;
    Ok(statx(CWD, file, flags, StatxFlags::SIZE)?.stx_size)
}

impl FuseLoop {
    /// On these loop devices and mounts.
    pub fn new(loops: Arc<dyn LoopDevices>, mounter: Arc<dyn Mounter>) -> Self {
        FuseLoop { loops, mounter }
    }

    /// The export is there, and its mount is this daemon's.
    fn export(
        &self,
        client: &mut Client,
        node: &str,
        file: &Path,
        access: Access,
    ) -> Result<(), AttachError> {
        let exports = command::exports(client).context(ExportSnafu)?;
        let exported = exports.iter().any(|export| export.id == EXPORT && !export.shutting_down);
        let mounted = self.mounter.find(file).context(MountSnafu)?.is_some();
        if exported && mounted {
            return Ok(());
        }
        if mounted {
            // Of a daemon that died; nothing stands on it, or the caller had seen a device.
            self.mounter.unmount(file).context(MountSnafu)?;
        }
        if !exports.is_empty() {
            command::export_del(client, EXPORT).context(ExportSnafu)?;
        }
        command::export_fuse(client, EXPORT, node, file, !access.readonly, false).context(ExportSnafu)
    }

    /// Whether the export still answers: stat of a dead FUSE mount is an error.
    fn alive(file: &Path) -> bool {
        std::fs::metadata(file).is_ok()
    }
}

impl Backend for FuseLoop {
    fn attach(
        &self,
        daemon: &Daemon,
        node: &str,
        work_dir: &Path,
        access: Access,
    ) -> Result<Device, AttachError> {
        let file = export_file(work_dir);
        if let Some(found) = self.find(work_dir)? {
            let mounted = self.mounter.find(&file).context(MountSnafu)?.is_some();
            ensure!(mounted && Self::alive(&file), StaleSnafu { work_dir });
            let mut client = Client::connect(&daemon.qmp_socket, REACH).context(ReachSnafu)?;
            let exports = command::exports(&mut client).context(ExportSnafu)?;
            ensure!(exports.iter().any(|export| export.id == EXPORT), StaleSnafu { work_dir });
            return Ok(found);
        }
        let mounted = self.mounter.find(&file).context(MountSnafu)?.is_some();
        if !mounted {
            touch(&file, work_dir).context(FileSnafu { path: &file })?;
        }
        let mut client = Client::connect(&daemon.qmp_socket, REACH).context(ReachSnafu)?;
        self.export(&mut client, node, &file, access)?;
        drop(client);
        let options = LoopOptions { read_only: access.readonly, direct_io: true };
        let made = self.loops.attach(&file, options).context(LoopSnafu)?;
        Ok(device(made.path, file))
    }

    fn release_with_mount(&self, device: &Device) -> Result<(), AttachError> {
        self.loops.arm_autoclear(&LoopDevice { path: device.path.clone() }).context(LoopSnafu)
    }

    fn detach(&self, daemon: Option<&Daemon>, work_dir: &Path) -> Result<(), AttachError> {
        let file = export_file(work_dir);
        self.loops.detach(&file).context(LoopSnafu)?;
        // A daemon that does not answer any more is ended by the caller; its mount goes below.
        if let Some(daemon) = daemon
            && let Ok(mut client) = Client::connect(&daemon.qmp_socket, REACH)
        {
            // I/O that is stuck on a dead share must not keep the node from letting go: the daemon is ended next.
            if let Err(error) = command::export_del(&mut client, EXPORT) {
                tracing::warn!(%error, "the export was not taken away in order");
            }
        }
        self.mounter.unmount(&file).context(MountSnafu)?;
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context(FileSnafu { path: file })
            }
            _ => Ok(()),
        }
    }

    fn refresh(&self, work_dir: &Path) -> Result<u64, AttachError> {
        let file = export_file(work_dir);
        let device = self.find(work_dir)?.context(StaleSnafu { work_dir })?;
        let wanted = size_from_daemon(&file).context(FileSnafu { path: &file })?;
        let found = self.loops.refresh_size(&LoopDevice { path: device.path.clone() }).context(LoopSnafu)?;
        ensure!(found == wanted, SizeSnafu { device: device.path, found, wanted });
        Ok(found)
    }

    fn find(&self, work_dir: &Path) -> Result<Option<Device>, AttachError> {
        let file = export_file(work_dir);
        let found = self.loops.find_by_backing(&file).context(LoopSnafu)?.into_iter().next();
        Ok(found.map(|made| device(made.path, file)))
    }
}
