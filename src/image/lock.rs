//! QEMU's image locks, taken from Rust.
//!
//! QEMU tells other processes how it uses an image file by shared OFD locks on single bytes: byte
//! 100 + n says "I use permission n", byte 200 + n says "I tolerate nobody who uses permission n".
//! After placing its own bytes a process looks for anybody else's contradicting ones. GlusterFS
//! passes these locks on between nodes, so what is held here stops a QEMU anywhere.

use rustix::io::Errno;
use snafu::{ResultExt, Snafu};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

const USED: i64 = 100;
const NOT_SHARED: i64 = 200;

/// Permissions as QEMU numbers them (write-unchanged, 2, is used by filters only).
const CONSISTENT_READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

/// Why an image lock was not taken.
#[derive(Debug, Snafu)]
pub enum LockError {
    /// Somebody uses the image in a way that excludes us.
    #[snafu(display("{} is in use by another process, here or on another node ({conflict})", path.display()))]
    Held {
        /// The image.
        path: PathBuf,
        /// What the other one does.
        conflict: &'static str,
    },
    /// The file could not be opened or locked.
    #[snafu(display("failed to {what} {}: {source}", path.display()))]
    Io {
        /// The step.
        what: &'static str,
        /// The image.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
}

/// A held image lock, released on drop.
#[derive(Debug)]
pub struct ImageLock {
    _file: File,
}

fn flock(kind: i32, start: i64) -> libc::flock {
    // SAFETY: flock is plain integers, for which all-zero is a value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as _;
    lock.l_whence = libc::SEEK_SET as _;
    lock.l_start = start;
    lock.l_len = 1;
    lock
}

fn place(file: &File, byte: i64) -> std::io::Result<()> {
    let lock = flock(libc::F_RDLCK, byte);
    // SAFETY: F_OFD_SETLK reads one flock, which outlives the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Whether another open of the file holds `byte`.
fn held_by_other(file: &File, byte: i64) -> std::io::Result<bool> {
    let mut lock = flock(libc::F_WRLCK, byte);
    // SAFETY: F_OFD_GETLK reads and fills one flock, which outlives the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut lock) } {
        0 => Ok(i32::from(lock.l_type) != libc::F_UNLCK),
        _ => Err(std::io::Error::last_os_error()),
    }
}

impl ImageLock {
    /// As a writer: no QEMU can write to the image any more (nor read it, if it is qcow2), and none that
    /// does so now is overlooked.
    pub fn write(path: &Path) -> Result<ImageLock, LockError> {
        Self::take(path, &[CONSISTENT_READ, WRITE, RESIZE], &[WRITE, RESIZE])
    }

    /// As a reader that tolerates other readers, but nobody who writes.
    pub fn read(path: &Path) -> Result<ImageLock, LockError> {
        Self::take(path, &[CONSISTENT_READ], &[WRITE, RESIZE])
    }

    fn take(path: &Path, uses: &[i64], excludes: &[i64]) -> Result<ImageLock, LockError> {
        // Shared locks need read access only, and opening for writing could wake the file's caches.
        let file = File::open(path).context(IoSnafu { what: "open", path })?;
        let mine = uses.iter().map(|p| USED + p).chain(excludes.iter().map(|p| NOT_SHARED + p));
        for byte in mine {
            // A shared lock is only refused by an exclusive one, which no QEMU ever holds.
            match place(&file, byte) {
                Ok(()) => {}
                Err(error) if is_conflict(&error) => {
                    return HeldSnafu { path, conflict: "it holds its locks exclusively" }.fail();
                }
                Err(error) => return Err(error).context(IoSnafu { what: "lock", path }),
            }
        }
        let held = |byte| held_by_other(&file, byte).context(IoSnafu { what: "query the locks of", path });
        for &permission in excludes {
            if held(USED + permission)? {
                return HeldSnafu { path, conflict: "it writes to it" }.fail();
            }
        }
        for &permission in uses {
            if held(NOT_SHARED + permission)? {
                let conflict = match permission {
                    CONSISTENT_READ => "it is changing what the image reads back",
                    _ => "it reads it and tolerates no writer",
                };
                return HeldSnafu { path, conflict }.fail();
            }
        }
        Ok(ImageLock { _file: file })
    }
}

fn is_conflict(error: &std::io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::AGAIN | Errno::ACCESS))
}

/// Whether somebody has the image open for writing.
pub fn in_use(path: &Path) -> Result<bool, LockError> {
    let file = File::open(path).context(IoSnafu { what: "open", path })?;
    held_by_other(&file, USED + WRITE).context(IoSnafu { what: "query the locks of", path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_excludes_readers_and_writers_until_it_is_dropped() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let writer = ImageLock::write(image.path()).unwrap();
        assert!(in_use(image.path()).unwrap());
        assert!(matches!(ImageLock::write(image.path()), Err(LockError::Held { .. })));
        assert!(matches!(ImageLock::read(image.path()), Err(LockError::Held { .. })));
        drop(writer);
        assert!(!in_use(image.path()).unwrap());
        ImageLock::write(image.path()).unwrap();
    }

    #[test]
    fn readers_tolerate_each_other_and_exclude_a_writer() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let _one = ImageLock::read(image.path()).unwrap();
        let _two = ImageLock::read(image.path()).unwrap();
        assert!(!in_use(image.path()).unwrap());
        assert!(matches!(ImageLock::write(image.path()), Err(LockError::Held { .. })));
    }
}
