//! A pod that writes and never stops, and what it may expect to find again.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Writes and syncs small files for as long as it lives, and keeps the first error.
pub struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<Result<(), String>>>,
}

fn numbered(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("w{number}"))
}

fn contents(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(1000)
}

impl Writer {
    pub fn start(dir: &Path) -> Writer {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count, dir) = (Arc::clone(&stop), Arc::clone(&written), dir.to_owned());
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::SeqCst) {
                let number = count.load(Ordering::SeqCst);
                let write = || -> std::io::Result<()> {
                    let mut file = std::fs::File::create(numbered(&dir, number))?;
                    file.write_all(&contents(number))?;
                    file.sync_all()
                };
                write().map_err(|error| format!("file {number}: {error}"))?;
                count.store(number + 1, Ordering::SeqCst);
            }
            Ok(())
        });
        Writer { stop, written, thread: Some(thread) }
    }

    /// How many files were acknowledged.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }

    /// Waits until it has written more, and fails when it does not.
    pub fn goes_on(&self) {
        let (before, deadline) = (self.written(), Instant::now() + Duration::from_secs(30));
        while self.written() <= before + 2 {
            assert!(Instant::now() < deadline, "the writer stands still");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether it writes nothing for that long.
    pub fn stands_still(&self, long: Duration) -> bool {
        let before = self.written();
        std::thread::sleep(long);
        // One that was already on its way to the disk may still be counted.
        self.written() <= before + 1
    }

    /// Whether it has seen an error.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(std::thread::JoinHandle::is_finished)
    }

    /// Ends it; it must not have seen an error.
    pub fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap().expect("the writer saw no error");
        self.written()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// All files that were acknowledged are there, byte for byte.
pub fn verify_files(dir: &Path, count: u64) {
    for number in 0..count {
        let read = std::fs::read(numbered(dir, number)).unwrap_or_else(|e| panic!("file {number}: {e}"));
        assert_eq!(read, contents(number), "file {number}");
    }
}
