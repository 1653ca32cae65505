//! A pod's writer that notes when each of its calls began and ended.

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const BLOCK: usize = 4096;
/// The file is written over and over.
const FILE: u64 = 16 << 20;
/// A buffered writer syncs after so many writes, and writes no faster than one block each so long: 20 MB/s.
const SYNC_EVERY: u64 = 256;
const BUFFERED_PACE: Duration = Duration::from_micros(200);

/// How it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// O_DIRECT, one block after the other.
    Direct,
    /// Through the page cache, with fdatasync now and then.
    Buffered,
}

/// A call that took from one instant to another.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub begin: Instant,
    pub end: Instant,
}

impl Span {
    pub fn time(self) -> Duration {
        self.end - self.begin
    }

    fn touches(self, other: Span) -> bool {
        self.begin < other.end && other.begin < self.end
    }
}

pub struct Writer {
    stop: Arc<AtomicBool>,
    worker: JoinHandle<Result<Vec<Span>>>,
}

impl Writer {
    /// Writes to a new file in `folder` from now on.
    pub fn start(folder: &Path, kind: Kind) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let (asked, path) = (stop.clone(), folder.join("written"));
        Writer { stop, worker: std::thread::spawn(move || write(&path, kind, &asked)) }
    }

    /// Every call, in order.
    pub fn stop(self) -> Result<Vec<Span>> {
        self.stop.store(true, Ordering::Relaxed);
        self.worker.join().expect("the writer does not panic")
    }
}

/// The longest call that touches a window.
pub fn longest(calls: &[Span], window: Span) -> Duration {
    // Calls follow each other, so those of a window are neighbours.
    let from = calls.partition_point(|call| call.end < window.begin);
    let touching = calls[from..].iter().take_while(|call| call.touches(window));
    touching.map(|call| call.time()).max().unwrap_or_default()
}

fn open(path: &PathBuf, kind: Kind) -> Result<File> {
    let direct = if kind == Kind::Direct { OFlags::DIRECT } else { OFlags::empty() };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | direct;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
    Ok(File::from(file.with_context(|| format!("cannot open {}", path.display()))?))
}

fn write(path: &PathBuf, kind: Kind, stop: &AtomicBool) -> Result<Vec<Span>> {
    let file = open(path, kind)?;
    let memory = vec![0xa5; 2 * BLOCK];
    let start = memory.as_ptr().align_offset(BLOCK);
    let block = &memory[start..start + BLOCK];
    let mut calls = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // 7919 is a prime: every block comes once before any comes again.
        let offset = number * 7919 * BLOCK as u64 % FILE;
        let begin = Instant::now();
        file.write_all_at(block, offset).context("the writer's write failed")?;
        if kind == Kind::Buffered && number % SYNC_EVERY == 0 {
            file.sync_data().context("the writer's sync failed")?;
        }
        calls.push(Span { begin, end: Instant::now() });
        if kind == Kind::Buffered {
            std::thread::sleep(BUFFERED_PACE);
        }
    }
    Ok(calls)
}
