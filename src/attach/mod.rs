//! From an image that a daemon has open to a block device of the kernel.

mod fuse_loop;
pub mod selftest;

pub use fuse_loop::FuseLoop;

use crate::host::loopdev::LoopError;
use crate::host::mount::MountError;
use crate::qsd::Daemon;
use crate::qsd::command::CommandError;
use crate::qsd::qmp::QmpError;
use snafu::Snafu;
use std::path::{Path, PathBuf};

/// The id of the one export that a volume's daemon has.
pub const EXPORT: &str = "strata";

/// Who may do what through the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The device refuses writes.
    pub readonly: bool,
}

/// A block device on an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The device node.
    pub path: PathBuf,
    /// The file through which the daemon shows the image.
    pub export_file: PathBuf,
    /// The daemon's export of it.
    pub export_id: String,
}

/// Why a device was not made or not taken away.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub))]
pub enum AttachError {
    /// The export's file could not be made or looked at.
    #[snafu(display("failed to prepare {}: {source}", path.display()))]
    File {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The daemon was not reached.
    #[snafu(display("{source}"))]
    Reach {
        /// Cause.
        source: QmpError,
    },
    /// The daemon refused.
    #[snafu(display("{source}"))]
    Export {
        /// Cause.
        source: CommandError,
    },
    /// The loop device.
    #[snafu(display("{source}"))]
    Loop {
        /// Cause.
        source: LoopError,
    },
    /// The export's mount.
    #[snafu(display("{source}"))]
    Mount {
        /// Cause.
        source: MountError,
    },
    /// The device did not take on the export's size.
    #[snafu(display("{} has {found} bytes where its image has {wanted}", device.display()))]
    Size {
        /// The device node.
        device: PathBuf,
        /// Its size.
        found: u64,
        /// The export's.
        wanted: u64,
    },
    /// What is there belongs to a daemon that died.
    #[snafu(display(
        "the device of {} belongs to a storage daemon that is gone; unstage the volume first",
        work_dir.display()
    ))]
    Stale {
        /// Its folder.
        work_dir: PathBuf,
    },
}

/// A way to make a block device. Every step first looks whether it is done already, so that a call
/// that was broken off anywhere can be repeated; taking away needs nothing but this node's state.
pub trait Backend: Send + Sync {
    /// Makes a device that shows `node`. There already for this daemon: the same answer.
    fn attach(
        &self,
        daemon: &Daemon,
        node: &str,
        work_dir: &Path,
        access: Access,
    ) -> Result<Device, AttachError>;
    /// The device goes when its last user lets go of it, whatever becomes of us. To be called once a
    /// mount holds it.
    fn release_with_mount(&self, device: &Device) -> Result<(), AttachError>;
    /// Takes the device away, with or without its daemon. Not there: success.
    fn detach(&self, daemon: Option<&Daemon>, work_dir: &Path) -> Result<(), AttachError>;
    /// The device takes on the size that its image has by now; answers that size, in bytes.
    fn refresh(&self, work_dir: &Path) -> Result<u64, AttachError>;
    /// The device that is there, alive or not.
    fn find(&self, work_dir: &Path) -> Result<Option<Device>, AttachError>;
}
