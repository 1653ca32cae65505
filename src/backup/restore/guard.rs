//! Refuses targets whose overwriting would tear something that is in use.

use crate::backup::error::{BackupError, SourceInUseSnafu, SourceUsersSnafu, TargetSnafu, UnsafeTargetSnafu};
use procfs::process::Process;
use rustix::fs::{major, minor};
use snafu::{OptionExt, ResultExt, ensure};
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What a restore writes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::backup) enum TargetKind {
    /// A file that does not exist yet.
    New,
    /// A file that is overwritten.
    File,
    /// A block device that is overwritten.
    BlockDevice,
}

/// What a restore was told that it may do.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::backup) struct Allowed {
    /// Overwrite what is there.
    pub in_place: bool,
    /// Make a new file on a share.
    pub to_share: bool,
}

/// The target with every link resolved, and what it is. Anything there needs `in_place`.
pub(in crate::backup) fn check(
    target: &Path,
    allowed: Allowed,
) -> Result<(PathBuf, TargetKind), BackupError> {
    let refuse = |reason: String| UnsafeTargetSnafu { path: target, reason };
    let looked = TargetSnafu { operation: "looking at", path: target };
    let meta = match fs::metadata(target) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let path = resolve_new(target).context(looked)?;
            if !allowed.to_share {
                refuse_share(target, &path)?;
            }
            return Ok((path, TargetKind::New));
        }
        other => other.context(looked)?,
    };
    let path = fs::canonicalize(target).context(looked)?;
    let kind = meta.file_type();
    ensure!(kind.is_file() || kind.is_block_device(), refuse("it is no file and no block device".to_owned()));
    refuse_share(target, &path)?;
    ensure!(allowed.in_place, refuse("it exists already; --in-place overwrites it".to_owned()));
    if let Some(user) = user_of(&meta, &path).context(looked)? {
        return refuse(user).fail();
    }
    Ok((path, if kind.is_block_device() { TargetKind::BlockDevice } else { TargetKind::File }))
}

/// Refuses to read what somebody else may be writing to: a file behind a loop device, a device in use.
/// What a QEMU has open is told by its locks.
pub fn refuse_used_source(source: &Path) -> Result<(), BackupError> {
    let used = fs::canonicalize(source).and_then(|path| user_of(&fs::metadata(&path)?, &path));
    match used.context(SourceUsersSnafu { path: source })? {
        Some(reason) => SourceInUseSnafu { path: source, reason }.fail(),
        None => Ok(()),
    }
}

/// Who uses a file or block device.
fn user_of(meta: &Metadata, path: &Path) -> io::Result<Option<String>> {
    match meta.file_type().is_block_device() {
        true => device_user(meta, path),
        false => file_user(path),
    }
}

/// The folder must be there; a dangling link is resolved by nobody.
fn resolve_new(target: &Path) -> io::Result<PathBuf> {
    if fs::symlink_metadata(target).is_ok() {
        return Err(io::Error::other("it is a link to nothing"));
    }
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = target.file_name().ok_or_else(|| io::Error::other("it has no file name"))?;
    Ok(fs::canonicalize(parent)?.join(name))
}

/// What is on a share belongs to its records; a file written beside them would never be seen right.
fn refuse_share(target: &Path, path: &Path) -> Result<(), BackupError> {
    let share = path.ancestors().skip(1).find(|dir| dir.join(".strata/share.json").exists());
    let reason = || format!("it lies on the share {}", share.unwrap_or(path).display());
    ensure!(share.is_none(), UnsafeTargetSnafu { path: target, reason: reason() });
    Ok(())
}

/// Who uses a file: a loop device on it, or the kernel for swapping.
fn file_user(path: &Path) -> io::Result<Option<String>> {
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let backing = match fs::read_to_string(entry.path().join("loop/backing_file")) {
            Ok(text) => text,
            // No loop device, or one that was just detached.
            Err(_) => continue,
        };
        if Path::new(backing.trim_end()) == path {
            return Ok(Some(format!("/dev/{} is attached to it", entry.file_name().display())));
        }
    }
    swap_user(path)
}

fn swap_user(path: &Path) -> io::Result<Option<String>> {
    let swaps = match fs::read_to_string("/proc/swaps") {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let used = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    let mut real = used.filter_map(|name| fs::canonicalize(name).ok());
    Ok(real.any(|name| name == path).then(|| "the system swaps to it".to_owned()))
}

/// Who uses a block device, a partition of it, or the device that it is a partition of.
fn device_user(meta: &Metadata, target: &Path) -> io::Result<Option<String>> {
    let number = meta.rdev();
    let sys = fs::canonicalize(format!("/sys/dev/block/{}:{}", major(number), minor(number)))?;
    let mut family = vec![sys.clone()];
    for entry in fs::read_dir(&sys)? {
        let path = entry?.path();
        if path.join("partition").exists() {
            family.push(path);
        }
    }
    let mounts = Process::myself().and_then(|me| me.mountinfo()).map_err(io::Error::other)?;
    for member in &family {
        let name = member.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let number = fs::read_to_string(member.join("dev"))?;
        for mount in &mounts.0 {
            // The device's filesystem, or its node handed on, as to a pod that uses it as a block device.
            // Whoever names the very place where it was handed to, means that user's device.
            let elsewhere = mount.mount_point != target;
            let handed_on = mount.fs_type == "devtmpfs" && mount.root == format!("/{name}") && elsewhere;
            if mount.majmin == number.trim() || handed_on {
                return Ok(Some(format!("/dev/{name} is mounted on {}", mount.mount_point.display())));
            }
        }
        let holder = fs::read_dir(member.join("holders")).ok().and_then(|mut dir| dir.next()).transpose()?;
        if let Some(holder) = holder {
            return Ok(Some(format!("/dev/{name} is used by {}", holder.file_name().display())));
        }
        if let Some(user) = swap_user(&Path::new("/dev").join(&name))? {
            return Ok(Some(user));
        }
    }
    Ok(None)
}

/// A device that the kernel itself uses answers EBUSY to an exclusive open: said in our words.
pub(super) fn busy_device(path: &Path, error: &io::Error) -> Option<BackupError> {
    let reason = "the system uses it (mounted, or part of another device)";
    (error.kind() == ErrorKind::ResourceBusy).then(|| UnsafeTargetSnafu { path, reason }.build())
}

/// The folder of a resolved path.
pub(in crate::backup) fn folder(path: &Path) -> Result<&Path, BackupError> {
    path.parent().context(UnsafeTargetSnafu { path, reason: "it has no folder" })
}
