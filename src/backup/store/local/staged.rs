//! Files that have bytes before they have a name.

use super::flush::Flushes;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Where files are written that cannot be without a name. A crash may leave one here.
pub(super) const STAGING: &str = ".strata-staging";

/// How files get their name, best first. The lesser ones are for filesystems that lack the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// `O_TMPFILE` and link(2): a crash leaves nothing.
    Nameless,
    /// A file in [`STAGING`], linked to its name.
    Link,
    /// A file in [`STAGING`], renamed with `RENAME_NOREPLACE`.
    Rename,
}

/// A file on its way; gone when it is dropped before it has its name.
#[derive(Debug)]
pub(super) struct Staged {
    pub file: File,
    /// In [`STAGING`]; a nameless one has none.
    path: Option<PathBuf>,
    naming: Naming,
}

impl Staged {
    /// A new file below `root`, private. `replacing` is for one whose name may be taken.
    pub fn new(root: &Path, flushes: &Flushes, best: Naming, replacing: bool) -> io::Result<Staged> {
        make_dirs(root, flushes)?;
        if best == Naming::Nameless && !replacing {
            let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
            match rustix::fs::open(root, flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => {
                    return Ok(Staged { file: file.into(), path: None, naming: Naming::Nameless });
                }
                Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => {}
                Err(e) => return Err(e.into()),
            }
        }
        let path = staging(root, flushes)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let naming = if best == Naming::Rename { best } else { Naming::Link };
        Ok(Staged { file, path: Some(path), naming })
    }

    /// Gives it the name `target`, over what has it.
    pub fn replace(mut self, root: &Path, target: &Path, flushes: &Flushes) -> io::Result<()> {
        self.file.sync_all()?;
        let path = match self.path.clone() {
            Some(path) => path,
            // Only a rename replaces, and what has no name cannot be renamed.
            None => {
                let path = staging(root, flushes)?;
                self.link_or_rename(&path)?;
                self.path.insert(path).clone()
            }
        };
        in_its_folder(target, flushes, || fs::rename(&path, target))?;
        self.path = None;
        flush_parent(target, flushes)
    }

    /// Gives it the name `target`; `AlreadyExists` if that is taken.
    pub fn name(mut self, target: &Path, flushes: &Flushes) -> io::Result<()> {
        self.file.sync_all()?;
        in_its_folder(target, flushes, || self.link_or_rename(target))?;
        flush_parent(target, flushes)
    }

    fn link_or_rename(&mut self, target: &Path) -> io::Result<()> {
        let linked = match &self.path {
            None => {
                let file = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                rustix::fs::linkat(CWD, file, CWD, target, AtFlags::SYMLINK_FOLLOW)
            }
            Some(path) if self.naming == Naming::Link => {
                rustix::fs::linkat(CWD, path, CWD, target, AtFlags::empty())
            }
            Some(_) => Err(Errno::OPNOTSUPP),
        };
        match (linked, &self.path) {
            (Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL), Some(path)) => {
                rename_to_free_name(path, target)?;
                self.path = None;
                Ok(())
            }
            (linked, _) => Ok(linked?),
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // What cannot be removed here is never used again, and is listed as unfinished.
            let _ = fs::remove_file(path);
        }
    }
}

/// A free name in [`STAGING`].
fn staging(root: &Path, flushes: &Flushes) -> io::Result<PathBuf> {
    let folder = root.join(STAGING);
    make_dirs(&folder, flushes)?;
    Ok(folder.join(Uuid::new_v4().to_string()))
}

fn rename_to_free_name(path: &Path, target: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, path, CWD, target, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Err(io::Error::new(
            ErrorKind::Unsupported,
            "this filesystem has neither hard links nor a rename that never replaces: \
             keep the repository on another one",
        )),
        other => Ok(other?),
    }
}

/// Does `name` once the folder of `target` is there: a delete beside us removes folders that got empty.
fn in_its_folder(
    target: &Path,
    flushes: &Flushes,
    mut name: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let mut attempts = 0;
    loop {
        if let Some(parent) = target.parent() {
            make_dirs(parent, flushes)?;
        }
        match name() {
            Err(e) if e.kind() == ErrorKind::NotFound && attempts < 10 => attempts += 1,
            other => return other,
        }
    }
}

fn flush_parent(target: &Path, flushes: &Flushes) -> io::Result<()> {
    target.parent().map_or(Ok(()), |parent| flushes.flush(parent))
}

/// `mkdir -p`, private. Also a folder that is there already has its entry flushed in its parent once in
/// this process: whoever made it may not have come to that yet.
pub(super) fn make_dirs(dir: &Path, flushes: &Flushes) -> io::Result<()> {
    let there = dir.is_dir();
    if there && flushes.has_entry(dir) {
        return Ok(());
    }
    let Some(parent) = dir.parent() else { return Ok(()) };
    if !there {
        make_dirs(parent, flushes)?;
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists && dir.is_dir() => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                let reason = format!("{} is there and is no directory", dir.display());
                return Err(io::Error::new(ErrorKind::NotADirectory, reason));
            }
            other => other?,
        }
    }
    match flushes.flush(parent) {
        // The folder above a repository may be another's, that only lets us pass.
        Err(e) if there && e.kind() == ErrorKind::PermissionDenied => {}
        other => other?,
    }
    flushes.entry_is_durable(dir);
    Ok(())
}
