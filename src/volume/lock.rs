//! Locks on the share: flock on files that are never renamed and never unlinked.
//!
//! A holder that was cut off from the servers is not told. So before each rename or unlink the holder writes
//! its generation through the locked descriptor, which fails after a cut when `client.strict-locks` is on,
//! and compares the record's generation with the one it read (`store::Locked::fence`).

use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often a busy lock is tried again. A lock call is a round trip to three servers (2 ms).
const RETRY: Duration = Duration::from_millis(20);

/// A held lock. Dropping it lets go.
#[derive(Debug)]
pub(super) struct ShareLock {
    file: File,
}

/// Who else may hold it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

impl ShareLock {
    /// Takes the lock, or answers None if others hold it all through `wait`.
    pub(super) fn acquire(path: &Path, mode: Mode, wait: Duration) -> io::Result<Option<Self>> {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let operation = match mode {
            Mode::Shared => FlockOperation::NonBlockingLockShared,
            Mode::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        let deadline = Instant::now() + wait;
        loop {
            match flock(&file, operation) {
                Ok(()) => return Ok(Some(ShareLock { file })),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(RETRY),
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Proves that the lock is still ours: after a cut the servers refuse this write.
    pub(super) fn write_generation(&self, generation: u64) -> io::Result<()> {
        self.file.write_all_at(format!("{generation:020}\n").as_bytes(), 0)?;
        self.file.sync_data()
    }

    /// The generation that was last written so; 0 if there was none.
    pub(super) fn last_generation(&self) -> io::Result<u64> {
        let mut text = [0; 20];
        match self.file.read_exact_at(&mut text, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            read => {
                read.map(|()| std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()).unwrap_or(0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G14: one operation at a time.
    #[test]
    fn a_second_holder_waits_and_then_gives_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let wait = Duration::from_millis(60);
        let first = ShareLock::acquire(&path, Mode::Exclusive, wait).unwrap().unwrap();
        assert!(ShareLock::acquire(&path, Mode::Exclusive, wait).unwrap().is_none());
        assert!(ShareLock::acquire(&path, Mode::Shared, wait).unwrap().is_none());
        drop(first);
        let shared = ShareLock::acquire(&path, Mode::Shared, wait).unwrap().unwrap();
        assert!(ShareLock::acquire(&path, Mode::Shared, wait).unwrap().is_some());
        assert!(ShareLock::acquire(&path, Mode::Exclusive, wait).unwrap().is_none());
        drop(shared);
    }
}
