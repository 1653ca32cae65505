//! Growing a filesystem up to the size of its device.

use super::exec::{self, ExecError};
use super::mkfs::LinuxFormatter;
use super::mount::FsType;
use snafu::{ResultExt, Snafu};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// e2fsck reads all metadata of the filesystem: minutes for some TiB on a slow share.
const LIMIT: Duration = Duration::from_secs(3600);
/// Less than this at the end of a device may belong to no allocation group; volumes grow by whole GiB.
const UNUSED_END: u64 = 16 << 20;
/// EXT4_ERROR_FS in `s_state`: set by the kernel on an error, and by resize2fs while it is at work.
const EXT4_HAS_ERRORS: u16 = 2;

/// Why a filesystem was not grown.
#[derive(Debug, Snafu)]
pub enum GrowError {
    /// Its superblock could not be read.
    #[snafu(display("failed to read the size of the filesystem on {}: {source}", device.display()))]
    Read {
        /// The device.
        device: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// There is no such filesystem on the device.
    #[snafu(display("{} carries no {fs} superblock", device.display()))]
    Superblock {
        /// The device.
        device: PathBuf,
        /// What was expected.
        fs: FsType,
    },
    /// e2fsck found what it does not repair unasked.
    #[snafu(display(
        "the filesystem on {} has to be checked before it is grown, and that failed: {source}", device.display()
    ))]
    Check {
        /// The device.
        device: PathBuf,
        /// Cause.
        source: ExecError,
    },
    /// The kernel lets only some processes grow a mounted ext4.
    #[snafu(display(
        "growing a mounted ext4 needs CAP_SYS_RESOURCE, which this process does not have: the device has its new \
         size, and the filesystem follows when the volume is staged next (restart its pods on the node)"
    ))]
    NotPermitted,
    /// The filesystem's own tool failed.
    #[snafu(display("failed to grow the {fs} on {}: {source}", device.display()))]
    Grow {
        /// The filesystem.
        fs: FsType,
        /// The device.
        device: PathBuf,
        /// Cause.
        source: ExecError,
    },
}

/// What the rest of the driver asks of filesystems that are to grow. Each call can be repeated.
pub trait Grower: Send + Sync {
    /// Whether the filesystem, mounted or not, leaves a part of its device unused, or was being grown when the
    /// machine stopped.
    fn wants_growth(&self, device: &Path, fs: FsType) -> Result<bool, GrowError>;
    /// Checks an ext4 that is not mounted, and repairs what can be repaired without a question.
    fn check(&self, device: &Path) -> Result<(), GrowError>;
    /// Grows an ext4 that is not mounted and was checked.
    fn grow_unmounted(&self, device: &Path) -> Result<(), GrowError>;
    /// Grows a filesystem that is mounted.
    fn grow_mounted(&self, device: &Path, mounted_at: &Path, fs: FsType) -> Result<(), GrowError>;
}

struct Superblock {
    bytes: u64,
    has_errors: bool,
}

fn le16(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

fn le32(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// Linux, fs/ext4/ext4.h: struct ext4_super_block.
fn ext4(block: &[u8; 1024]) -> Option<Superblock> {
    const INCOMPAT_64BIT: u32 = 0x80;
    let wide = le32(block, 0x60) & INCOMPAT_64BIT != 0;
    let high = if wide { u64::from(le32(block, 0x150)) } else { 0 };
    let blocks = high << 32 | u64::from(le32(block, 0x04));
    let log_size = le32(block, 0x18);
    (le16(block, 0x38) == 0xEF53 && log_size <= 6).then(|| Superblock {
        bytes: blocks.saturating_mul(1024 << log_size),
        has_errors: le16(block, 0x3A) & EXT4_HAS_ERRORS != 0,
    })
}

/// Linux, fs/xfs/libxfs/xfs_format.h: struct xfs_dsb.
fn xfs(block: &[u8; 1024]) -> Option<Superblock> {
    let be32 =
        |at: usize| u64::from(u32::from_be_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]));
    let blocks = be32(8) << 32 | be32(12);
    (&block[..4] == b"XFSB").then(|| Superblock { bytes: blocks.saturating_mul(be32(4)), has_errors: false })
}

fn superblock(device: &Path, fs: FsType) -> Result<(Superblock, u64), GrowError> {
    let mut block = [0; 1024];
    let start = if fs == FsType::Ext4 { 1024 } else { 0 };
    let read = File::open(device).and_then(|mut file| {
        file.read_exact_at(&mut block, start)?;
        file.seek(SeekFrom::End(0))
    });
    let size = read.context(ReadSnafu { device })?;
    let found = match fs {
        FsType::Ext4 => ext4(&block),
        FsType::Xfs => xfs(&block),
    };
    Ok((found.ok_or_else(|| SuperblockSnafu { device, fs }.build())?, size))
}

impl Grower for LinuxFormatter {
    fn wants_growth(&self, device: &Path, fs: FsType) -> Result<bool, GrowError> {
        let (found, size) = superblock(device, fs)?;
        Ok(found.has_errors || found.bytes.saturating_add(UNUSED_END) <= size)
    }

    fn check(&self, device: &Path) -> Result<(), GrowError> {
        let mut command = Command::new("e2fsck");
        command.args(["-f", "-p", "--"]).arg(device);
        let output = exec::run(command, LIMIT).context(CheckSnafu { device })?;
        // 1: repaired. 2 asks for a reboot, which only the root filesystem needs.
        if matches!(output.status.code(), Some(0..=2)) {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        let stderr = String::from_utf8_lossy(&said).trim().to_owned();
        let source = ExecError::Failed { program: "e2fsck".to_owned(), status: output.status, stderr };
        Err(source).context(CheckSnafu { device })
    }

    fn grow_unmounted(&self, device: &Path) -> Result<(), GrowError> {
        resize2fs(device)
    }

    fn grow_mounted(&self, device: &Path, mounted_at: &Path, fs: FsType) -> Result<(), GrowError> {
        match fs {
            FsType::Ext4 => match resize2fs(device) {
                Err(GrowError::Grow { source: ExecError::Failed { stderr, .. }, .. })
                    if stderr.contains("Permission denied") || stderr.contains("Operation not permitted") =>
                {
                    NotPermittedSnafu.fail()
                }
                grown => grown,
            },
            FsType::Xfs => {
                let mut command = Command::new("xfs_growfs");
                command.arg("-d").arg(mounted_at);
                exec::run_ok(command, LIMIT).map(drop).context(GrowSnafu { fs, device })
            }
        }
    }
}

fn resize2fs(device: &Path) -> Result<(), GrowError> {
    let mut command = Command::new("resize2fs");
    command.arg(device);
    exec::run_ok(command, LIMIT).map(drop).context(GrowSnafu { fs: FsType::Ext4, device })
}

#[cfg(test)]
#[path = "growfs_tests.rs"]
mod tests;
