//! A command's own folder, in which it mounts a share, and what becomes of it when the command is killed.
//!
//! A whole share may be mounted below, with every volume on it. So nothing here removes a tree: folders
//! go only by rmdir(2), which refuses what holds anything, and files only where no mount can be.

use crate::host::mount::{self, LinuxMounter, MountError, Mounter};
use rustix::fs::{FlockOperation, flock};
use snafu::{ResultExt, Snafu, ensure};
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// What mounts are made in.
const MOUNTS: &str = "mounts";
/// What opening a share leaves beside its mount points.
const LEFT_BESIDE: [&str; 2] = ["log", "lock"];

/// Why a folder was not made, or stays.
#[derive(Debug, Snafu)]
pub(in crate::cli) enum WorkDirError {
    /// One step on one path.
    #[snafu(display("cannot {doing} {}: {source}", path.display()))]
    Step { doing: &'static str, path: PathBuf, source: io::Error },
    /// Something is mounted in it.
    #[snafu(display("{} stays: {} is still mounted; unmount it", path.display(), at.display()))]
    Mounted { path: PathBuf, at: PathBuf },
    /// It holds what no command of ours leaves.
    #[snafu(display("{} is neither a log nor a lock of a mount: it stays", path.display()))]
    Unknown { path: PathBuf },
    /// A mount of a killed command.
    #[snafu(display("{source}"))]
    Unmount { source: MountError },
}

/// A folder of this command alone, locked while it lives.
#[derive(Debug)]
pub(in crate::cli) struct WorkDir {
    path: PathBuf,
    _lock: File,
}

impl WorkDir {
    /// Below `base`.
    pub fn make(base: &Path) -> Result<Self, WorkDirError> {
        make_dir(base)?;
        // mountinfo lists resolved paths.
        let base = base.canonicalize().context(StepSnafu { doing: "resolve", path: base })?;
        let name = Uuid::new_v4().to_string();
        // Locked before it has a name that a sweep looks at.
        let fresh = base.join(format!(".new-{name}"));
        make_dir(&fresh)?;
        let lock = File::open(&fresh).context(StepSnafu { doing: "open", path: &fresh })?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(io::Error::from)
            .context(StepSnafu { doing: "lock", path: &fresh })?;
        let path = base.join(name);
        fs::rename(&fresh, &path).context(StepSnafu { doing: "name", path: &path })?;
        Ok(WorkDir { path, _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where to mount.
    pub fn mounts(&self) -> PathBuf {
        self.path.join(MOUNTS)
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(%error, "a folder of this command stays");
        }
    }
}

/// Unmounts and removes what commands left that did not come to their end. Those that run are locked.
pub(super) fn sweep(base: &Path) -> Result<(), WorkDirError> {
    let base = match base.canonicalize() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        resolved => resolved.context(StepSnafu { doing: "resolve", path: base })?,
    };
    for entry in fs::read_dir(&base).context(StepSnafu { doing: "list", path: &base })? {
        let entry = entry.context(StepSnafu { doing: "list", path: &base })?;
        let ours = entry.file_name().to_str().is_some_and(|name| name.parse::<Uuid>().is_ok());
        if !ours {
            continue;
        }
        let path = entry.path();
        // Gone since it was listed: its command has ended, or another one sweeps too.
        let Ok(lock) = File::open(&path) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        // One that cannot be removed must not keep the others.
        if let Err(error) = remove_leftover(&path) {
            tracing::warn!(%error, "what a killed command left stays");
        }
    }
    Ok(())
}

fn remove_leftover(path: &Path) -> Result<(), WorkDirError> {
    // The uppermost first.
    for at in mounted_below(path)?.into_iter().rev() {
        tracing::info!(at = %at.display(), "unmounting what a killed command left");
        LinuxMounter.unmount(&at).context(UnmountSnafu)?;
    }
    remove(path)
}

fn mounted_below(path: &Path) -> Result<Vec<PathBuf>, WorkDirError> {
    let mounts = mount::table().context(UnmountSnafu)?;
    Ok(mounts.into_iter().map(|mount| mount.target).filter(|target| target.starts_with(path)).collect())
}

/// Removes a folder in which nothing is mounted any more.
fn remove(path: &Path) -> Result<(), WorkDirError> {
    if let Some(at) = mounted_below(path)?.into_iter().next() {
        return MountedSnafu { path, at }.fail();
    }
    let mounts = path.join(MOUNTS);
    for (entry, is_dir) in entries(&mounts)? {
        if is_dir {
            remove_dir(&entry)?;
            continue;
        }
        let known =
            entry.extension().and_then(|end| end.to_str()).is_some_and(|end| LEFT_BESIDE.contains(&end));
        ensure!(known, UnknownSnafu { path: &entry });
        gone(fs::remove_file(&entry)).context(StepSnafu { doing: "remove", path: &entry })?;
    }
    for (entry, _) in entries(path)? {
        remove_dir(&entry)?;
    }
    remove_dir(path)
}

/// Without a look at the entries themselves, which may be mount points.
fn entries(path: &Path) -> Result<Vec<(PathBuf, bool)>, WorkDirError> {
    let failed = StepSnafu { doing: "list", path };
    let listed = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.context(failed)?,
    };
    listed
        .map(|entry| {
            let entry = entry?;
            Ok((entry.path(), entry.file_type()?.is_dir()))
        })
        .collect::<io::Result<_>>()
        .context(failed)
}

fn make_dir(path: &Path) -> Result<(), WorkDirError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.context(StepSnafu { doing: "make the folder", path })
}

/// A folder with anything in it, or with a mount on it, stays.
fn remove_dir(path: &Path) -> Result<(), WorkDirError> {
    gone(fs::remove_dir(path)).context(StepSnafu { doing: "remove the folder", path })
}

/// Not there any more is what was wanted.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a share bound into it, as a mount that could not be taken away leaves it.
    fn with_mount(base: &Path, share: &Path) -> (WorkDir, PathBuf) {
        assert!(rustix::process::geteuid().is_root(), "this test mounts: run it as root");
        fs::write(share.join("volume"), b"somebody's data").unwrap();
        let dir = WorkDir::make(base).unwrap();
        let at = dir.mounts().join("share");
        fs::create_dir_all(&at).unwrap();
        fs::write(dir.mounts().join("share.log"), b"").unwrap();
        fs::create_dir(dir.path().join("daemons")).unwrap();
        LinuxMounter.bind(share, &at, false).unwrap();
        (dir, at)
    }

    /// However a command ends, nothing of a share is removed with its folder; the next one sweeps up.
    #[test]
    fn a_share_that_is_still_mounted_is_left_whole() {
        let (base, share) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (dir, at) = with_mount(base.path(), share.path());
        let path = dir.path().to_owned();
        assert!(matches!(remove(&path), Err(WorkDirError::Mounted { .. })));
        // Even if the table of mounts had not shown it.
        assert!(remove_dir(&at).is_err());
        // A command that runs is not swept.
        sweep(base.path()).unwrap();
        assert_eq!(fs::read(at.join("volume")).unwrap(), b"somebody's data");
        drop(dir);
        assert_eq!(fs::read(at.join("volume")).unwrap(), b"somebody's data");
        // Nobody holds it any more.
        sweep(base.path()).unwrap();
        assert!(!path.exists());
        assert_eq!(fs::read(share.path().join("volume")).unwrap(), b"somebody's data");
    }

    #[test]
    fn a_folder_without_mounts_goes_with_its_command() {
        let base = tempfile::tempdir().unwrap();
        let dir = WorkDir::make(base.path()).unwrap();
        fs::create_dir_all(dir.mounts().join("share")).unwrap();
        fs::write(dir.mounts().join("share.lock"), b"").unwrap();
        drop(dir);
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
        sweep(base.path()).unwrap();
        sweep(&base.path().join("none")).unwrap();
    }

    #[test]
    fn what_is_unknown_stays() {
        let base = tempfile::tempdir().unwrap();
        let dir = WorkDir::make(base.path()).unwrap();
        let file = dir.mounts().join("precious");
        fs::create_dir_all(dir.mounts()).unwrap();
        fs::write(&file, b"x").unwrap();
        drop(dir);
        assert!(file.exists());
    }
}
