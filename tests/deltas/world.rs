//! A domain whose images are written by qemu-io or by a pod's block device, and what is asked of its snapshots.

use crate::support::domain::Domain;
use crate::support::{qemu_io, run};
use std::alloc::{Layout as Memory, alloc_zeroed, dealloc};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use strata::image::{ChainReader, Format};
use strata::volume::record::{Record, decode};
use strata::volume::*;

pub const CLUSTER: u64 = 64 << 10;
pub const GIB: u64 = 1 << 30;

pub fn record(domain: &Domain, volume: VolumeId) -> Record {
    decode(&std::fs::read(domain.volumes.layout().record(volume)).unwrap()).unwrap()
}

/// The image that takes a volume's writes.
pub fn active(domain: &Domain, volume: VolumeId) -> (PathBuf, Format) {
    let record = record(domain, volume);
    let layer = record.active_layer().unwrap();
    (domain.volumes.layout().image(volume, &layer.file), layer.format)
}

/// Commands of qemu-io on a volume that is not attached.
pub fn io(domain: &Domain, volume: VolumeId, commands: &[String]) {
    let (path, format) = active(domain, volume);
    let mut words = vec!["-d", "unmap", "-f", format.driver()];
    words.extend(commands.iter().flat_map(|command| ["-c", command.as_str()]));
    words.push(path.to_str().unwrap());
    let said = run(qemu_io().to_str().unwrap(), &words);
    assert!(!said.contains("rror") && !said.contains("failed"), "{commands:?}: {said}");
}

pub fn write(domain: &Domain, volume: VolumeId, offset: u64, length: u64, value: u8) {
    io(domain, volume, &[format!("write -P {value} {offset} {length}")]);
}

/// To a block device, past the page cache and without a flush: what is not on disk yet is the daemon's to keep.
pub fn write_through(device: &Path, offset: u64, length: u64, value: u8) {
    let file = std::fs::File::options().write(true).custom_flags(libc::O_DIRECT).open(device).unwrap();
    let memory = Memory::from_size_align(length as usize, 4096).unwrap();
    // SAFETY: a fresh allocation of that size, not of zero bytes, used and given back right here.
    unsafe {
        let start = alloc_zeroed(memory);
        assert!(!start.is_null());
        let bytes = std::slice::from_raw_parts_mut(start, length as usize);
        bytes.fill(value);
        file.write_all_at(bytes, offset).unwrap();
        dealloc(start, memory);
    }
}

/// Until nothing is left to do. A program that another test starts has, for a moment, the locks of this one.
pub fn tidy(domain: &Domain, volume: VolumeId) {
    for _ in 0..50 {
        match domain.volumes.tidy(volume) {
            Err(Error::Pending { .. } | Error::Busy { .. }) => std::thread::sleep(Duration::from_millis(100)),
            done => return done.unwrap(),
        }
    }
    panic!("{volume} is not tidied");
}

pub fn snapshot(domain: &Domain, volume: VolumeId, name: &str) -> (SnapshotHandle, StateId) {
    let handle = domain.volumes.snapshot(volume, name).unwrap().handle;
    let state = pin(domain, &handle).state();
    (handle, state)
}

pub fn delete(domain: &Domain, snapshot: &SnapshotHandle) {
    domain.volumes.delete_snapshot(snapshot.volume, snapshot.snapshot).unwrap();
    tidy(domain, snapshot.volume);
}

pub fn pin(domain: &Domain, snapshot: &SnapshotHandle) -> Pinned {
    domain.volumes.pin_snapshot(snapshot.volume, snapshot.snapshot, "a test").unwrap()
}

pub fn since(domain: &Domain, snapshot: &SnapshotHandle, earlier: StateId) -> Since {
    let pinned = pin(domain, snapshot);
    let size = ChainReader::open(&pinned.chain).unwrap().size();
    pinned.changed_since(earlier, size)
}

pub fn only(since: Since) -> Vec<Range<u64>> {
    match since {
        Since::Only(ranges) => ranges,
        Since::Unknown(reason) => panic!("unknown: {reason}"),
    }
}

pub fn unknown(since: Since) -> String {
    match since {
        Since::Unknown(reason) => reason,
        Since::Only(ranges) => panic!("{ranges:?}"),
    }
}

/// Clusters as bytes.
pub fn clusters(range: Range<u64>) -> Range<u64> {
    range.start * CLUSTER..range.end * CLUSTER
}
