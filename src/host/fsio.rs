//! Files that are there whole or not at all, also after a crash.

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use snafu::{ResultExt, Snafu};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A step on a file that failed.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub), display("cannot {action} {}: {source}", path.display()))]
pub struct FsError {
    /// What was tried.
    pub action: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// From the kernel.
    pub source: io::Error,
}

impl FsError {
    /// The kernel's reason.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// Replaces or makes a file (mode 0600) with these bytes: temporary file beside it, fsync, rename, fsync
/// of the folder. Whoever reads the path sees the old bytes or the new ones.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FsError> {
    write_atomic_if(path, bytes, || Ok(()))
}

/// The same, with a last look between the synced temporary file and the rename: an error there leaves the
/// old file as it was.
pub fn write_atomic_if<E: From<FsError>>(
    path: &Path,
    bytes: &[u8],
    check: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    let mut temporary = Temporary::write(path, bytes)?;
    check()?;
    fs::rename(&temporary.0, path).context(FsSnafu { action: "rename into place", path })?;
    temporary.0.clear();
    Ok(sync_dir(parent(path))?)
}

/// Makes a file (mode 0600) with these bytes, never over an existing one: of several racing callers, on
/// whatever nodes, exactly one succeeds and the others get `AlreadyExists`.
pub fn create_exclusive(path: &Path, bytes: &[u8]) -> Result<(), FsError> {
    let temporary = Temporary::write(path, bytes)?;
    // link(2) and not O_EXCL: the name must never be seen with half of the bytes behind it.
    fs::hard_link(&temporary.0, path).context(FsSnafu { action: "create", path })?;
    drop(temporary);
    sync_dir(parent(path))
}

/// Makes a new name, or the absence of an old one, last.
pub fn sync_dir(path: &Path) -> Result<(), FsError> {
    File::open(path).and_then(|dir| dir.sync_all()).context(FsSnafu { action: "sync the folder", path })
}

/// Gives a file its name, unless somebody else has taken it since we looked.
pub fn rename_new(staged: &Path, path: &Path) -> io::Result<()> {
    match renameat_with(CWD, staged, CWD, path, RenameFlags::NOREPLACE) {
        // A filesystem without that flag: a second name is refused in the same way.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            fs::hard_link(staged, path)?;
            fs::remove_file(staged)
        }
        other => Ok(other?),
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A synced file under a name of its own in the target's folder; removed when dropped under that name.
struct Temporary(PathBuf);

impl Temporary {
    fn write(target: &Path, bytes: &[u8]) -> Result<Self, FsError> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = parent(target).join(format!(".{name}.{}.tmp", uuid::Uuid::new_v4().simple()));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .context(FsSnafu { action: "create", path: &path })?;
        let temporary = Temporary(path);
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .context(FsSnafu { action: "write", path: &temporary.0 })?;
        Ok(temporary)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Empty once it was renamed. Nobody reads names like these; what a dead share keeps costs nothing.
        if !self.0.as_os_str().is_empty() {
            let _ = fs::remove_file(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names(dir: &Path) -> Vec<String> {
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        write_atomic(&path, b"a longer first version").unwrap();
        write_atomic(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(dir.path()), ["record"]);
    }

    #[test]
    fn an_exclusive_creation_has_one_winner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        let wins: usize = std::thread::scope(|scope| {
            let race = |n: usize| {
                let path = &path;
                scope.spawn(move || match create_exclusive(path, n.to_string().as_bytes()) {
                    Ok(()) => {
                        assert_eq!(fs::read(path).unwrap(), n.to_string().as_bytes());
                        1
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{error}");
                        0
                    }
                })
            };
            let racers: Vec<_> = (0..8).map(race).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).sum()
        });
        assert_eq!(wins, 1);
        assert_eq!(names(dir.path()), ["id"]);
    }

    #[test]
    fn a_failed_write_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("taken");
        fs::create_dir(&target).unwrap();
        let error = write_atomic(&target, b"x").unwrap_err();
        assert!(error.to_string().contains("taken"), "{error}");
        assert_eq!(names(dir.path()), ["taken"]);
    }
}
