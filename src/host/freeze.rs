//! Freezing a mounted filesystem for the moment of a snapshot.
//!
//! A frozen filesystem blocks every writer, so three things hold here: only the filesystem that was
//! meant is frozen (checked on the descriptor that is then frozen, never by path again), a watchdog
//! thaws it whatever becomes of the caller, and dropping the guard thaws.

use super::device::DevNumber;
use linux_raw_sys::ioctl::{FIFREEZE, FITHAW};
use rustix::fs::{Mode, OFlags, fstat, fsync, syncfs};
use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, ioctl};
use snafu::{ResultExt, Snafu, ensure};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A page cache full of dirty pages, written to a slow share. Writers go on meanwhile.
const FLUSH_LIMIT: Duration = Duration::from_secs(300);

/// Flushes before the freeze, at most. Each has less to write than the one before, as long as the share is faster
/// than the writers.
const MAX_FLUSHES: usize = 5;
/// A flush that took no longer leaves too little behind for another one to be worth while.
const SHORT_FLUSH: Duration = Duration::from_millis(15);

/// Why a filesystem was not frozen.
#[derive(Debug, Snafu)]
pub enum FreezeError {
    /// The mount point cannot be opened.
    #[snafu(display("failed to open {}: {source}", mount.display()))]
    Open {
        /// The mount point.
        mount: PathBuf,
        /// Cause.
        source: Errno,
    },
    /// The volume's device cannot be opened.
    #[snafu(display("failed to open {}: {source}", device.display()))]
    Device {
        /// The device node.
        device: PathBuf,
        /// Cause.
        source: Errno,
    },
    /// Another filesystem than the volume's is there: freezing it could stop the host.
    #[snafu(display("{} is on device {found}, not on the volume's {expected}: not frozen", mount.display()))]
    WrongFilesystem {
        /// The mount point.
        mount: PathBuf,
        /// What is there.
        found: DevNumber,
        /// The volume's device.
        expected: DevNumber,
    },
    /// syncfs or FIFREEZE failed.
    #[snafu(display("failed to {what} {}: {source}", mount.display()))]
    Kernel {
        /// The step.
        what: &'static str,
        /// The mount point.
        mount: PathBuf,
        /// Cause.
        source: Errno,
    },
    /// A step did not end within its time; a freeze that comes later is undone as it comes.
    #[snafu(display("failed to {what} {} within {} ms", mount.display(), limit.as_millis()))]
    TooSlow {
        /// The step.
        what: &'static str,
        /// The mount point.
        mount: PathBuf,
        /// The time it had.
        limit: Duration,
    },
}

/// How a freeze ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thawed {
    /// The filesystem was frozen until the call of [`FrozenFs::thaw`]; false when the watchdog, or
    /// somebody else, had thawed it before: what was cut meanwhile is crash-consistent only.
    pub held: bool,
    /// How long writers had to wait.
    pub pause: Duration,
}

/// A frozen filesystem. Dropping it thaws.
#[derive(Debug)]
pub struct FrozenFs {
    release: Option<Sender<()>>,
    worker: Option<JoinHandle<Thawed>>,
}

impl FrozenFs {
    /// Flushes the filesystem of the block device `device` at `mount`, then freezes it for at most `watchdog`.
    ///
    /// The flush comes first because it can take long and writers need not wait for it. Both run on a
    /// thread of their own rather than in a child process: they sleep uninterruptibly either way, and
    /// the thread that froze is then also the one that is sure to thaw.
    pub fn freeze(mount: &Path, device: &Path, watchdog: Duration) -> Result<FrozenFs, FreezeError> {
        let node = OFlags::RDONLY | OFlags::CLOEXEC;
        let block = rustix::fs::open(device, node, Mode::empty()).context(DeviceSnafu { device })?;
        let expected = fstat(&block).context(DeviceSnafu { device })?.st_rdev;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(mount, flags, Mode::empty()).context(OpenSnafu { mount })?;
        let found = fstat(&fd).context(KernelSnafu { what: "stat", mount })?.st_dev;
        let (found, expected) = (DevNumber::from_raw(found), DevNumber::from_raw(expected));
        ensure!(found == expected, WrongFilesystemSnafu { mount, found, expected });

        let (step, on_step) = channel();
        let (release, on_release) = channel();
        let worker = std::thread::spawn(move || hold(&fd, &block, watchdog, &step, &on_release));
        for (what, limit) in [("flush", FLUSH_LIMIT), ("freeze", watchdog)] {
            // When time is up, `on_step` and `release` go, and the worker leaves or thaws at once.
            match on_step.recv_timeout(limit) {
                Ok(done) => done.context(KernelSnafu { what, mount })?,
                Err(_) => return TooSlowSnafu { what, mount, limit }.fail(),
            }
        }
        Ok(FrozenFs { release: Some(release), worker: Some(worker) })
    }

    /// Thaws, and tells whether it had been frozen until now.
    pub fn thaw(mut self) -> Thawed {
        self.finish().unwrap_or(Thawed { held: false, pause: Duration::ZERO })
    }

    fn finish(&mut self) -> Option<Thawed> {
        drop(self.release.take());
        self.worker.take()?.join().ok()
    }
}

impl Drop for FrozenFs {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Thaws what a process that died had frozen: a freeze outlives its process. Not frozen: success.
pub fn thaw_leftover(mount: &Path, expected: DevNumber) -> Result<(), FreezeError> {
    // Opening the root of a frozen filesystem for reading does not wait for the thaw.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(mount, flags, Mode::empty()).context(OpenSnafu { mount })?;
    let found = DevNumber::from_raw(fstat(&fd).context(KernelSnafu { what: "stat", mount })?.st_dev);
    ensure!(found == expected, WrongFilesystemSnafu { mount, found, expected });
    // SAFETY: FITHAW ignores its argument.
    match unsafe { ioctl(&fd, IntegerSetter::<{ FITHAW }>::new_usize(0)) } {
        Err(Errno::INVAL) => Ok(()),
        thawed => thawed.context(KernelSnafu { what: "thaw", mount }),
    }
}

/// Leaves as little as possible for the freeze to write.
///
/// syncfs alone leaves most of it: it commits ext4's journal, and the freeze would then write each journaled block to
/// its own place. These blocks are dirty pages of the device by then, so its fsync writes them.
fn flush(fd: &OwnedFd, block: &OwnedFd) -> Result<(), Errno> {
    let mut before = Duration::MAX;
    for _ in 0..MAX_FLUSHES {
        let begun = Instant::now();
        syncfs(fd)?;
        fsync(block)?;
        let took = begun.elapsed();
        tracing::debug!(?took, "flushed before the freeze");
        if took <= SHORT_FLUSH || took > before / 4 * 3 {
            break;
        }
        before = took;
    }
    Ok(())
}

/// The worker: flushes, freezes, waits for the release or the deadline, thaws.
fn hold(
    fd: &OwnedFd,
    block: &OwnedFd,
    watchdog: Duration,
    step: &Sender<Result<(), Errno>>,
    release: &Receiver<()>,
) -> Thawed {
    let flushed = flush(fd, block);
    let goes_on = flushed.is_ok();
    if step.send(flushed).is_err() || !goes_on {
        return Thawed { held: false, pause: Duration::ZERO };
    }
    let begun = Instant::now();
    // SAFETY: FIFREEZE ignores its argument.
    let done = unsafe { ioctl(fd, IntegerSetter::<{ FIFREEZE }>::new_usize(0)) };
    let frozen = done.is_ok();
    let told = step.send(done).is_ok();
    if !frozen {
        return Thawed { held: false, pause: begun.elapsed() };
    }
    // An Ok never comes: the other side drops its end, which is the message.
    let waited = told.then(|| release.recv_timeout(watchdog.saturating_sub(begun.elapsed())));
    let in_time = !matches!(waited, Some(Err(RecvTimeoutError::Timeout)) | None);
    // SAFETY: FITHAW ignores its argument.
    let thawed = unsafe { ioctl(fd, IntegerSetter::<{ FITHAW }>::new_usize(0)) };
    // EINVAL: it was not frozen any more, so somebody else thawed it.
    Thawed { held: in_time && thawed.is_ok(), pause: begun.elapsed() }
}
