//! Flushing folders, once for all who wait for it at the same time.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// The flushes of the folders of one store.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    folders: Mutex<HashMap<PathBuf, Arc<Folder>>>,
    /// Folders whose entry in their parent is durable.
    entries: Mutex<HashSet<PathBuf>>,
}

#[derive(Debug, Default)]
struct Folder {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Callers so far, each with a number.
    asked: u64,
    /// Callers up to this number are served.
    served: u64,
    running: bool,
    /// A flush failed. The kernel reports that once and forgets what it could not write: a later
    /// success would say nothing about it.
    failed: Option<(io::ErrorKind, String)>,
}

impl Flushes {
    /// Makes every change of `folder` durable that was done before the call. Calls during a running
    /// flush share the next one.
    pub fn flush(&self, folder: &Path) -> io::Result<()> {
        self.flush_with(folder, || File::open(folder)?.sync_all())
    }

    /// Whether this folder's own name is known to outlive a crash.
    pub fn has_entry(&self, folder: &Path) -> bool {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).contains(folder)
    }

    /// It does.
    pub fn entry_is_durable(&self, folder: &Path) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned());
    }

    /// It was removed.
    pub fn forget_entry(&self, folder: &Path) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(folder);
    }

    fn flush_with(&self, path: &Path, flush: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let folder = {
            let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(folders.entry(path.to_owned()).or_default())
        };
        let done = folder.flush(flush);
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        // Ours and the map's: nobody else waits. One that failed is kept, to be remembered.
        let idle = Arc::strong_count(&folder) == 2;
        if idle && done.is_ok() {
            folders.remove(path);
        }
        done
    }
}

impl Folder {
    fn flush(&self, flush: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked += 1;
        let mine = state.asked;
        loop {
            if let Some((kind, text)) = &state.failed {
                return Err(io::Error::new(*kind, text.clone()));
            }
            if state.served >= mine {
                return Ok(());
            }
            if state.running {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.running = true;
            let covers = state.asked;
            drop(state);
            let done = flush();
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.running = false;
            match done {
                Ok(()) => state.served = covers,
                // Gone: what was changed in it went with it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => state.served = covers,
                Err(e) => state.failed = Some((e.kind(), format!("the folder could not be flushed: {e}"))),
            }
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[test]
    fn callers_at_the_same_time_share_a_flush_that_began_after_they_called() {
        let (flushes, begun) = (Flushes::default(), AtomicUsize::new(0));
        let path = Path::new("/folder");
        let slow = || {
            begun.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(100));
            Ok(())
        };
        std::thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| {
                    let before = begun.load(Ordering::SeqCst);
                    flushes.flush_with(path, slow).unwrap();
                    assert!(begun.load(Ordering::SeqCst) > before, "served by a flush from before the call");
                });
            }
        });
        assert!(begun.load(Ordering::SeqCst) < 10, "{begun:?} flushes for 32 callers");
        assert!(flushes.folders.lock().unwrap().is_empty());
    }

    #[test]
    fn a_flush_that_failed_is_not_forgotten() {
        let flushes = Flushes::default();
        let path = Path::new("/folder");
        let full = || Err(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(flushes.flush_with(path, full).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(flushes.flush_with(path, || Ok(())).unwrap_err().kind(), io::ErrorKind::StorageFull);
        flushes.flush_with(Path::new("/other"), || Ok(())).unwrap();
    }
}
