//! Proves on a scratch image that the data path of this node keeps what is written to it.
//!
//! The version gate knows which QEMU was sound on somebody's machine; this looks at this one, with
//! its kernel: several threads write small and large blocks in scattered order past every cache,
//! then everything is read back. An unsound FUSE export fails it within seconds.

use super::{Access, AttachError, Backend};
use crate::host::fsio;
use crate::image::qemu_img::{Create, Preallocation, QemuImgError};
use crate::image::{Format, ImageRef, QemuImg};
use crate::qsd::command::{self, CommandError, Open};
use crate::qsd::qmp::{Client, QmpError};
use crate::qsd::{Daemon, DaemonError, DaemonHost, DaemonName};
use rustix::fs::{Mode, OFlags};
use snafu::{ResultExt, Snafu, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Large enough for requests to overlap for a while, small enough for a start-up.
const SIZE: u64 = 64 << 20;
const THREADS: u64 = 6;
/// Larger writes than the qcow2 cluster, smaller ones than a page of metadata.
const SLOT: u64 = 128 << 10;
const LIMIT: Duration = Duration::from_secs(30);
/// What O_DIRECT asks of addresses and sizes, on any device.
const ALIGN: usize = 4096;

/// What was done.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Written and read back.
    pub bytes: u64,
    /// With starting and ending the daemon.
    pub took: Duration,
}

/// Why the data path cannot be trusted.
#[derive(Debug, Snafu)]
pub enum SelfTestError {
    /// Bytes came back wrong.
    #[snafu(display(
        "this machine's data path loses writes: at offset {offset} of a scratch device, other bytes were read than \
         written. Its QEMU's FUSE export or its loop driver is unsound: no volume will be attached here"
    ))]
    Corrupted {
        /// Where first.
        offset: u64,
    },
    /// Input or output on the scratch device failed.
    #[snafu(display("the self-test failed to {what} {}: {source}", path.display()))]
    Io {
        /// The step.
        what: &'static str,
        /// The device or file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The scratch image.
    #[snafu(display("the self-test got no scratch image: {source}"))]
    Image {
        /// Cause.
        source: QemuImgError,
    },
    /// The scratch daemon.
    #[snafu(display("the self-test got no storage daemon: {source}"))]
    Start {
        /// Cause.
        source: DaemonError,
    },
    /// Its QMP socket.
    #[snafu(display("the self-test lost its storage daemon: {source}"))]
    Reach {
        /// Cause.
        source: QmpError,
    },
    /// One of its commands.
    #[snafu(display("the self-test could not open its image: {source}"))]
    Command {
        /// Cause.
        source: CommandError,
    },
    /// The scratch device.
    #[snafu(display("the self-test got no device: {source}"))]
    Attach {
        /// Cause.
        source: AttachError,
    },
}

/// Runs the self-test in `scratch`, a folder of this node's own that is made and removed again.
pub fn run(
    daemons: &dyn DaemonHost,
    backend: &dyn Backend,
    qemu_img: &QemuImg,
    scratch: &Path,
) -> Result<Report, SelfTestError> {
    let begun = Instant::now();
    let name: DaemonName = "selftest".parse().unwrap_or_else(|_| unreachable!("a valid name"));
    // What a broken-off run left.
    clean(daemons, backend, &name, scratch)?;
    std::fs::create_dir_all(scratch).context(IoSnafu { what: "make", path: scratch })?;
    let outcome = on_device(daemons, backend, qemu_img, &name, scratch);
    let cleaned = clean(daemons, backend, &name, scratch);
    let bytes = outcome?;
    cleaned?;
    Ok(Report { bytes, took: begun.elapsed() })
}

fn clean(
    daemons: &dyn DaemonHost,
    backend: &dyn Backend,
    name: &DaemonName,
    scratch: &Path,
) -> Result<(), SelfTestError> {
    let daemon = daemons.find(name).context(StartSnafu)?;
    backend.detach(daemon.as_ref(), scratch).context(AttachSnafu)?;
    daemons.stop(name).context(StartSnafu)?;
    match std::fs::remove_dir_all(scratch) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(IoSnafu { what: "remove", path: scratch })
        }
        _ => Ok(()),
    }
}

fn on_device(
    daemons: &dyn DaemonHost,
    backend: &dyn Backend,
    qemu_img: &QemuImg,
    name: &DaemonName,
    scratch: &Path,
) -> Result<u64, SelfTestError> {
    let path = scratch.join("scratch.qcow2");
    let create =
        Create { format: Format::Qcow2, size: SIZE, preallocation: Preallocation::Off, backing: None };
    qemu_img.create(&path, &create, LIMIT).context(ImageSnafu)?;
    // So that a crash cannot leave a folder whose image is not in it.
    let _ = fsio::sync_dir(scratch);
    let daemon: Daemon = daemons.start(name).context(StartSnafu)?;
    let mut client = Client::connect(&daemon.qmp_socket, LIMIT).context(ReachSnafu)?;
    let chain = [ImageRef { path, format: Format::Qcow2 }];
    let node = command::add_chain(&mut client, "selftest", &chain, Open::ReadWrite).context(CommandSnafu)?;
    drop(client);
    let device = backend.attach(&daemon, &node, scratch, Access { readonly: false }).context(AttachSnafu)?;
    write_and_verify(&device.path, SIZE)
}

type Pass = fn(&File, u64, u64) -> Result<(), SelfTestError>;

/// Fills a device of `size` bytes from several threads and reads it back.
pub fn write_and_verify(device: &Path, size: u64) -> Result<u64, SelfTestError> {
    for pass in [write_share as Pass, verify_share] {
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    scope.spawn(move || {
                        let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
                        let file = rustix::fs::open(device, flags, Mode::empty());
                        let file = file
                            .map_err(std::io::Error::from)
                            .context(IoSnafu { what: "open", path: device })?;
                        pass(&File::from(file), thread, size / SLOT)
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
    }
    Ok(size / SLOT * SLOT)
}

/// The slots of one thread, scattered over the device and interleaved with those of the others.
fn slots_of(thread: u64, slots: u64) -> impl Iterator<Item = u64> {
    // 7919 is a prime: multiplied with it, every slot comes once unless it divides their number.
    (0..slots).filter(move |slot| slot % THREADS == thread).map(move |slot| slot * 7919 % slots)
}

/// Half of a slot in blocks of 4 KiB, the other half as one block of 64 KiB.
fn blocks_of(slot: u64) -> impl Iterator<Item = (u64, usize)> {
    let start = slot * SLOT;
    let small = (0..16).map(move |block| (start + block * 4096, 4096));
    small.chain(std::iter::once((start + (64 << 10), 64 << 10)))
}

/// An aligned buffer, as O_DIRECT demands.
struct Aligned(Vec<u8>, usize);

impl Aligned {
    fn new() -> Self {
        let bytes = vec![0u8; (64 << 10) + ALIGN];
        let start = bytes.as_ptr().align_offset(ALIGN);
        Aligned(bytes, start)
    }

    fn of(&mut self, length: usize) -> &mut [u8] {
        &mut self.0[self.1..self.1 + length]
    }
}

/// What stands at an offset: each word depends on its own address.
fn pattern(offset: u64, into: &mut [u8]) {
    for (index, word) in into.chunks_exact_mut(8).enumerate() {
        let address = offset + index as u64 * 8;
        let mixed = (address ^ 0x5354_5241_5441).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        word.copy_from_slice(&(mixed ^ (mixed >> 29)).to_le_bytes());
    }
}

fn write_share(file: &File, thread: u64, slots: u64) -> Result<(), SelfTestError> {
    let mut buffer = Aligned::new();
    for (offset, length) in slots_of(thread, slots).flat_map(blocks_of) {
        let block = buffer.of(length);
        pattern(offset, block);
        file.write_all_at(block, offset).context(IoSnafu { what: "write to", path: "the scratch device" })?;
    }
    file.sync_all().context(IoSnafu { what: "flush", path: "the scratch device" })
}

fn verify_share(file: &File, thread: u64, slots: u64) -> Result<(), SelfTestError> {
    let (mut buffer, mut expected) = (Aligned::new(), vec![0; 64 << 10]);
    // Another thread's share than the one that it wrote.
    for (offset, length) in slots_of((thread + 1) % THREADS, slots).flat_map(blocks_of) {
        let block = buffer.of(length);
        file.read_exact_at(block, offset)
            .context(IoSnafu { what: "read from", path: "the scratch device" })?;
        pattern(offset, &mut expected[..length]);
        ensure!(block == &expected[..length], CorruptedSnafu { offset });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_threads_shares_cover_every_slot_once() {
        let slots = SIZE / SLOT;
        let all: Vec<u64> = (0..THREADS).flat_map(|thread| slots_of(thread, slots)).collect();
        let distinct: BTreeSet<u64> = all.iter().copied().collect();
        assert_eq!((all.len() as u64, distinct.len() as u64), (slots, slots));
    }

    #[test]
    fn one_wrong_byte_is_found_where_it_is() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("disk");
        let file = File::create(&path).unwrap();
        file.set_len(4 << 20).unwrap();
        write_and_verify(&path, 4 << 20).unwrap();
        let writable = File::options().write(true).open(&path).unwrap();
        writable.write_all_at(b"!!!!", (1 << 20) + 4096 + 17).unwrap();
        let file = File::open(&path).unwrap();
        let found = (0..THREADS).find_map(|thread| verify_share(&file, thread, 32).err());
        assert!(matches!(found, Some(SelfTestError::Corrupted { offset }) if offset == (1 << 20) + 4096));
    }
}
