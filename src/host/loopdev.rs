//! Loop devices: a block device on a file.
//!
//! Nobody has to hold a descriptor between attaching and using one: a device is made without
//! autoclear, carries its backing file's name as a tag that stays readable when the file itself
//! does not (a dead FUSE mount), and is found by that tag after a crash. Autoclear is armed later,
//! once a mount holds the device open, so that it goes with the mount whatever happens to us.

use super::deadline::within;
use linux_raw_sys::loop_device as sys;
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, NoArg, Setter, Updater, ioctl};
use sha2::{Digest, Sha256};
use snafu::{ResultExt, Snafu, ensure};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How a loop device is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopOptions {
    /// The device refuses writes.
    pub read_only: bool,
    /// Past the page cache of the backing file: without it a FUSE export is cached twice.
    pub direct_io: bool,
}

/// A loop device of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoopDevice {
    /// `/dev/loopN`.
    pub path: PathBuf,
}

/// Why a loop device could not be made, changed or released.
#[derive(Debug, Snafu)]
pub enum LoopError {
    /// The file behind it cannot be opened.
    #[snafu(display("failed to open {}: {source}", file.display()))]
    Backing {
        /// The file.
        file: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// `/dev/loop-control` or the device node.
    #[snafu(display(
        "failed to open {}: {source}; the loop module and /dev must be there for the driver",
        node.display()
    ))]
    Node {
        /// The device node.
        node: PathBuf,
        /// Cause.
        source: Errno,
    },
    /// The kernel refused.
    #[snafu(display("failed to {what} {}: {source}", device.display()))]
    Kernel {
        /// What was asked for.
        what: &'static str,
        /// The device node.
        device: PathBuf,
        /// Cause.
        source: Errno,
    },
    /// All devices that were free when asked for were taken by somebody else.
    #[snafu(display("no free loop device for {} after {tries} tries", file.display()))]
    NoneFree {
        /// The file.
        file: PathBuf,
        /// How many were tried.
        tries: u32,
    },
    /// Somebody has it open: it goes when that one closes it.
    #[snafu(display("{} is still open somewhere; its release will happen at the last close", device.display()))]
    Busy {
        /// The device node.
        device: PathBuf,
    },
    /// /sys/block cannot be listed.
    #[snafu(display("failed to list loop devices in /sys/block: {source}"))]
    Listing {
        /// Cause.
        source: std::io::Error,
    },
}

/// What the rest of the driver asks of loop devices.
pub trait LoopDevices: Send + Sync {
    /// Makes a device on `file` (absolute path). It stays until detached, whoever ends before.
    fn attach(&self, file: &Path, options: LoopOptions) -> Result<LoopDevice, LoopError>;
    /// From now on the device goes when its last opener (a mount) lets go of it.
    fn arm_autoclear(&self, device: &LoopDevice) -> Result<(), LoopError>;
    /// Every device that was made on `file`.
    fn find_by_backing(&self, file: &Path) -> Result<Vec<LoopDevice>, LoopError>;
    /// Releases every device on `file`. None there: success. Still open somewhere: `Busy`.
    fn detach(&self, file: &Path) -> Result<(), LoopError>;
    /// Takes on the size that the backing file has now; answers the device's, in bytes.
    fn refresh_size(&self, device: &LoopDevice) -> Result<u64, LoopError>;
}

/// The kernel's loop devices.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelLoops;

/// Each try loses only to somebody else who got the same free device: losing 64 times in a row
/// means that the answer of the kernel is wrong, not that we were unlucky.
const MAX_TRIES: u32 = 64;
/// A device whose file is there answers at once.
const ANSWER: Duration = Duration::from_secs(2);
/// udev probes a device whenever it is closed after writing: that takes milliseconds.
const RELEASE_WAIT: Duration = Duration::from_secs(5);

/// `lo_file_name` of a device on `file`: 63 bytes that the kernel keeps for us and never interprets.
fn tag(file: &Path) -> [u8; 64] {
    let mut tag = [0; 64];
    let path = file.as_os_str().as_bytes();
    if path.len() < tag.len() {
        tag[..path.len()].copy_from_slice(path);
        return tag;
    }
    let digest = Sha256::digest(path);
    let text: String = digest.iter().take(24).map(|byte| format!("{byte:02x}")).collect();
    let text = format!("strata:{text}");
    tag[..text.len()].copy_from_slice(text.as_bytes());
    tag
}

fn open_node(node: &Path, flags: OFlags) -> Result<OwnedFd, LoopError> {
    rustix::fs::open(node, flags | OFlags::CLOEXEC, Mode::empty()).context(NodeSnafu { node })
}

/// None: nothing is bound to the device.
fn status(fd: &OwnedFd) -> Result<Option<sys::loop_info64>, Errno> {
    // SAFETY: loop_info64 is plain integers, for which all-zero is a value.
    let mut info: sys::loop_info64 = unsafe { std::mem::zeroed() };
    // SAFETY: LOOP_GET_STATUS64 fills exactly one loop_info64.
    let done = unsafe { ioctl(fd, Updater::<{ sys::LOOP_GET_STATUS64 }, _>::new(&mut info)) };
    match done {
        Ok(()) => Ok(Some(info)),
        Err(Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The devices that may stand on `file`, by what sysfs says. Asking a device itself makes the kernel ask the file under
/// it, which hangs for as long as that file's filesystem does: so no device is asked that is plainly another's.
fn candidates(file: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, LoopError> {
    let mut devices = Vec::new();
    for entry in std::fs::read_dir("/sys/block").context(ListingSnafu)? {
        let name = entry.context(ListingSnafu)?.file_name();
        if !name.as_bytes().starts_with(b"loop") {
            continue;
        }
        let backing = Path::new("/sys/block").join(&name).join("loop/backing_file");
        // No such file: nothing is bound to it.
        let Ok(backing) = std::fs::read(backing) else { continue };
        if may_be(&backing, file) {
            devices.push((Path::new("/dev").join(&name), backing));
        }
    }
    devices.sort();
    Ok(devices)
}

/// Nothing tells whose it is: the mount under it is gone.
fn lost_its_name(backing: &[u8]) -> bool {
    Path::new(OsStr::from_bytes(backing.trim_ascii_end())).file_name().is_none()
}

/// Of a device that may be anybody's. One whose filesystem hangs, such as what is left of a daemon that was killed with its
/// mounts, would keep every volume of the node waiting: it is taken for another's, and left alone until it has answered
/// whoever asked it before.
fn status_in_time(device: &Path, fd: &OwnedFd) -> Result<Option<sys::loop_info64>, Errno> {
    static SILENT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    // One insert or removal: nothing is half done after a panic.
    let silent = || SILENT.lock().unwrap_or_else(PoisonError::into_inner);
    if silent().contains(device) {
        return Err(Errno::TIMEDOUT);
    }
    let own = fd.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))?;
    let (name, answered) = (device.to_owned(), Arc::new(AtomicBool::new(false)));
    let tell = Arc::clone(&answered);
    let answer = within(ANSWER, "a loop device", move || {
        let answer = status(&own);
        let mut silent = silent();
        tell.store(true, Ordering::SeqCst);
        silent.remove(&name);
        answer
    });
    answer.unwrap_or_else(|_| {
        tracing::warn!(device = %device.display(), "this loop device does not answer, and is taken for another's");
        let mut silent = silent();
        // Unless it has answered just now: nobody would take it out again.
        if !answered.load(Ordering::SeqCst) {
            silent.insert(device.to_owned());
        }
        Err(Errno::TIMEDOUT)
    })
}

/// What sysfs says of the file under a device.
fn path_of(backing: &[u8]) -> &Path {
    let backing = backing.trim_ascii_end();
    Path::new(OsStr::from_bytes(backing.strip_suffix(b" (deleted)").unwrap_or(backing)))
}

/// Only the last two names are compared: another mount namespace sees another path, and a mount that is gone none.
fn may_be(backing: &[u8], file: &Path) -> bool {
    let backing = path_of(backing);
    let same = |one: Option<&OsStr>, other: Option<&OsStr>| one.is_none() || one == other;
    let folder = |path: &'_ Path| path.parent().and_then(Path::file_name).map(OsStr::to_os_string);
    same(backing.file_name(), file.file_name()) && same(folder(backing).as_deref(), folder(file).as_deref())
}

impl KernelLoops {
    fn configure(
        &self,
        fd: &OwnedFd,
        backing: &File,
        file: &Path,
        options: LoopOptions,
    ) -> Result<(), Errno> {
        // SAFETY: loop_config is plain integers, for which all-zero is a value.
        let mut config: sys::loop_config = unsafe { std::mem::zeroed() };
        config.fd = backing.as_raw_fd() as u32;
        // 512 keeps filesystems mountable that were made on a 512-byte disk (imports).
        config.block_size = 512;
        config.info.lo_file_name = tag(file);
        if options.read_only {
            config.info.lo_flags |= sys::LO_FLAGS_READ_ONLY as u32;
        }
        if options.direct_io {
            config.info.lo_flags |= sys::LO_FLAGS_DIRECT_IO as u32;
        }
        // SAFETY: LOOP_CONFIGURE reads exactly one loop_config.
        unsafe { ioctl(fd, Setter::<{ sys::LOOP_CONFIGURE }, _>::new(config)) }
    }

    /// The devices of `file`, each held open so that its number cannot pass to another file meanwhile.
    fn open_by_backing(&self, file: &Path) -> Result<Vec<(PathBuf, OwnedFd)>, LoopError> {
        let (wanted, resolved) = (tag(file), super::mount::resolved(file));
        let mut found = Vec::new();
        for (device, backing) in candidates(file)? {
            let Ok(fd) = open_node(&device, OFlags::RDONLY) else { continue };
            let asked = if lost_its_name(&backing) { status_in_time(&device, &fd) } else { status(&fd) };
            let is_on_it = match asked {
                Ok(Some(info)) => info.lo_file_name == wanted,
                Ok(None) => false,
                // The kernel asks the file, whose daemon is dead (ENOTCONN) or dies (ECONNABORTED): only the path is left, as
                // long as its mount is there.
                Err(_) => path_of(&backing) == resolved,
            };
            if is_on_it {
                found.push((device, fd));
            }
        }
        Ok(found)
    }
}

impl LoopDevices for KernelLoops {
    fn attach(&self, file: &Path, options: LoopOptions) -> Result<LoopDevice, LoopError> {
        let backing =
            File::options().read(true).write(!options.read_only).open(file).context(BackingSnafu { file })?;
        let control_path = Path::new("/dev/loop-control");
        let control = open_node(control_path, OFlags::RDWR)?;
        for _ in 0..MAX_TRIES {
            // SAFETY: LOOP_CTL_GET_FREE takes no argument.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), sys::LOOP_CTL_GET_FREE.into()) };
            if number < 0 {
                let source = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
                return Err(source)
                    .context(KernelSnafu { what: "get a free device from", device: control_path });
            }
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let flags = if options.read_only { OFlags::RDONLY } else { OFlags::RDWR };
            let fd = open_node(&path, flags)?;
            match self.configure(&fd, &backing, file, options) {
                Ok(()) => return Ok(LoopDevice { path }),
                // Somebody else was faster.
                Err(Errno::BUSY) => continue,
                Err(source) => return Err(source).context(KernelSnafu { what: "configure", device: path }),
            }
        }
        NoneFreeSnafu { file, tries: MAX_TRIES }.fail()
    }

    fn arm_autoclear(&self, device: &LoopDevice) -> Result<(), LoopError> {
        let fd = open_node(&device.path, OFlags::RDONLY)?;
        let failed =
            |source| LoopError::Kernel { what: "arm autoclear on", device: device.path.clone(), source };
        let mut info = status(&fd).and_then(|info| info.ok_or(Errno::NXIO)).map_err(failed)?;
        info.lo_flags |= sys::LO_FLAGS_AUTOCLEAR as u32;
        // SAFETY: LOOP_SET_STATUS64 reads exactly one loop_info64.
        unsafe { ioctl(&fd, Setter::<{ sys::LOOP_SET_STATUS64 }, _>::new(info)) }.map_err(failed)
    }

    fn find_by_backing(&self, file: &Path) -> Result<Vec<LoopDevice>, LoopError> {
        Ok(self.open_by_backing(file)?.into_iter().map(|(path, _)| LoopDevice { path }).collect())
    }

    fn detach(&self, file: &Path) -> Result<(), LoopError> {
        let deadline = Instant::now() + RELEASE_WAIT;
        loop {
            // Told at each look: a device that did not answer the one before was passed over.
            let left = self.open_by_backing(file)?;
            let Some((device, _)) = left.first() else { return Ok(()) };
            ensure!(Instant::now() < deadline, BusySnafu { device });
            for (path, fd) in &left {
                // SAFETY: LOOP_CLR_FD takes no argument.
                match unsafe { ioctl(fd, NoArg::<{ sys::LOOP_CLR_FD }>::new()) } {
                    // Released by somebody else between the look and the call.
                    Ok(()) | Err(Errno::NXIO) => {}
                    Err(source) => return Err(source).context(KernelSnafu { what: "release", device: path }),
                }
            }
            // The device goes when the last one closes it.
            drop(left);
            if self.open_by_backing(file)?.is_empty() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn refresh_size(&self, device: &LoopDevice) -> Result<u64, LoopError> {
        let fd = open_node(&device.path, OFlags::RDONLY)?;
        // SAFETY: LOOP_SET_CAPACITY ignores its argument.
        unsafe { ioctl(&fd, IntegerSetter::<{ sys::LOOP_SET_CAPACITY }>::new_usize(0)) }
            .context(KernelSnafu { what: "refresh the size of", device: &device.path })?;
        rustix::fs::seek(&fd, SeekFrom::End(0))
            .context(KernelSnafu { what: "ask the size of", device: &device.path })
    }
}

/// Whether `device` names a loop device node.
pub fn is_loop(device: &Path) -> bool {
    device.file_name().map(OsStr::as_bytes).is_some_and(|name| {
        name.strip_prefix(b"loop").is_some_and(|n| !n.is_empty() && n.iter().all(u8::is_ascii_digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_of_a_long_path_is_its_digest_and_fits() {
        let short = tag(Path::new("/state/a/image"));
        assert_eq!(&short[..15], b"/state/a/image\0");
        let long = format!("/{}", "x".repeat(100));
        let (one, other) = (tag(Path::new(&long)), tag(Path::new(&format!("{long}y"))));
        assert_ne!(one, other);
        assert!(one.starts_with(b"strata:") && one[63] == 0);
    }

    #[rstest::rstest]
    #[case("/state/volumes/a/image\n", true)]
    #[case("/elsewhere/a/image (deleted)\n", true)]
    #[case("/\n", true)]
    #[case("/state/volumes/b/image\n", false)]
    #[case("/mnt/nfs/other.img\n", false)]
    fn a_device_that_is_plainly_anothers_is_not_asked(#[case] backing: &str, #[case] asked: bool) {
        assert_eq!(may_be(backing.as_bytes(), Path::new("/state/volumes/a/image")), asked);
    }

    #[test]
    fn only_numbered_loop_nodes_are_loop_devices() {
        assert!(is_loop(Path::new("/dev/loop12")));
        assert!(!is_loop(Path::new("/dev/loop-control")));
        assert!(!is_loop(Path::new("/dev/loop")));
    }
}
