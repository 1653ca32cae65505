//! Growth of volumes, from the record down to image, device and filesystem, on real parts (G11, K3, invariant 1).

mod support;

use rstest::rstest;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use strata::host::mount::FsType;
use strata::image::{QemuImg, raw};
use strata::volume::*;
use support::domain::{Domain, On, write_at};
use support::small_share::SmallShare;

const GIB: u64 = 1 << 30;

fn filesystem(fs: FsType) -> Access {
    Access::Mount { fs, flags: Vec::new() }
}

fn device_size(device: &Path) -> u64 {
    use std::io::Seek;
    std::fs::File::open(device).unwrap().seek(std::io::SeekFrom::End(0)).unwrap()
}

/// Bytes, less what the filesystem keeps to itself.
fn filesystem_size(mounted: &Path) -> u64 {
    let stat = rustix::fs::statvfs(mounted).unwrap();
    stat.f_blocks * stat.f_frsize
}

fn record(domain: &Domain, volume: VolumeId) -> record::Record {
    record::decode(&std::fs::read(domain.volumes.layout().record(volume)).unwrap()).unwrap()
}

fn active_file(domain: &Domain, volume: VolumeId) -> PathBuf {
    let record = record(domain, volume);
    domain.volumes.layout().image(volume, &record.active_layer().unwrap().file)
}

fn grow(domain: &Domain, volume: VolumeId, gib: u64) -> u64 {
    domain.volumes.expand(volume, Some(gib * GIB), None).unwrap()
}

/// What stands in four KiB at an offset, all of it one value.
fn value_at(device: &Path, offset: u64) -> u8 {
    let mut found = [0; 4096];
    std::fs::File::open(device).unwrap().read_exact_at(&mut found, offset).unwrap();
    assert!(found.iter().all(|byte| *byte == found[0]), "mixed bytes at {offset}");
    found[0]
}

/// Detached and attached, each kind of image, with a snapshot under it and without: the old bytes stay, the new ones
/// are zeros that can be written, and the snapshot keeps its size.
#[rstest]
#[case(VolumeKind::Qcow2, false)]
#[case(VolumeKind::Qcow2, true)]
#[case(VolumeKind::RawSparse, false)]
#[case(VolumeKind::RawSparse, true)]
#[case(VolumeKind::RawFull, false)]
fn a_raw_device_grows(
    #[case] kind: VolumeKind,
    #[case] with_snapshot: bool,
    #[values(false, true)] attached: bool,
) {
    device_grows(On::Folder, kind, with_snapshot, attached);
}

#[rstest]
#[case(VolumeKind::Qcow2, true, true)]
#[case(VolumeKind::Qcow2, false, false)]
#[case(VolumeKind::RawSparse, false, true)]
fn a_raw_device_grows_on_glusterfs(
    #[case] kind: VolumeKind,
    #[case] with_snapshot: bool,
    #[case] attached: bool,
) {
    device_grows(On::Gluster, kind, with_snapshot, attached);
}

fn device_grows(on: On, kind: VolumeKind, with_snapshot: bool, attached: bool) {
    let domain = Domain::of(on, Policy::default());
    let volume = domain.create("pvc-grows", kind);
    let device = domain.attach(volume, Access::Block);
    write_at(&device, 0, &[1; 4096]);
    write_at(&device, GIB - 4096, &[2; 4096]);
    let snapshot = with_snapshot.then(|| domain.volumes.snapshot(volume, &domain.name("s1")).unwrap());
    if !attached {
        domain.detach(volume);
    }
    assert_eq!(grow(&domain, volume, 3), 3 * GIB);
    assert_eq!(grow(&domain, volume, 3), 3 * GIB, "again");
    assert_eq!(grow(&domain, volume, 2), 3 * GIB, "as much is had already");
    if !attached {
        domain.attach(volume, Access::Block);
    }
    assert_eq!(device_size(&device), 3 * GIB);
    let ends = [GIB, 3 * GIB - 4096];
    for at in ends {
        assert_eq!(value_at(&device, at), 0, "at {at}");
        write_at(&device, at, &[7; 4096]);
    }
    domain.detach(volume);
    domain.attach(volume, Access::Block);
    assert_eq!(ends.map(|at| value_at(&device, at)), [7, 7]);
    assert_eq!([0, GIB - 4096].map(|at| value_at(&device, at)), [1, 2]);
    domain.detach(volume);
    let found = record(&domain, volume);
    assert_eq!((found.capacity, found.active_layer().unwrap().size), (3 * GIB, 3 * GIB));
    if kind == VolumeKind::RawFull && !with_snapshot {
        let allocated = std::fs::metadata(active_file(&domain, volume)).unwrap().blocks() * 512;
        assert!(allocated >= 3 * GIB, "{allocated} bytes are allocated");
    }
    if let Some(snapshot) = snapshot {
        assert_eq!(snapshot.size, GIB);
        assert_eq!(domain.read_snapshot(&snapshot, 4096), [1; 4096]);
    }
    domain.check(volume);
}

/// While it is mounted: the device at once, XFS by the node's call. A mounted ext4 needs a privilege that not
/// every machine gives, and says so; then it grows when it is staged next.
#[rstest]
#[case(On::Folder, FsType::Ext4)]
#[case(On::Folder, FsType::Xfs)]
#[case(On::Gluster, FsType::Xfs)]
fn a_mounted_filesystem_grows(#[case] on: On, #[case] fs: FsType) {
    let domain = Domain::of(on, Policy::default());
    let volume = domain.create("pvc-mounted", VolumeKind::Qcow2);
    let target = domain.attach(volume, filesystem(fs));
    std::fs::write(target.join("kept"), "before").unwrap();
    let before = filesystem_size(&target);
    grow(&domain, volume, 3);
    let handle = domain.volumes.handle(volume);
    let expand = || domain.staging.expand(&handle, &target, Some(3 * GIB));
    match expand() {
        Ok(size) => assert_eq!(size, 3 * GIB),
        Err(Error::Grow { source }) if fs == FsType::Ext4 => {
            assert!(source.to_string().contains("CAP_SYS_RESOURCE"), "{source}");
            assert_eq!(filesystem_size(&target), before);
            domain.detach(volume);
            domain.attach(volume, filesystem(fs));
        }
        Err(error) => panic!("{error}"),
    }
    assert_eq!(expand().unwrap(), 3 * GIB, "again");
    let grown = filesystem_size(&target);
    assert!(grown > before + 2 * GIB - GIB / 8, "{before} to {grown}");
    assert_eq!(std::fs::read_to_string(target.join("kept")).unwrap(), "before");
    let beyond = domain.staging.expand(&handle, &target, Some(9 * GIB));
    assert!(matches!(beyond, Err(Error::OutOfRange { .. })), "{beyond:?}");
    let elsewhere = domain.staging.expand(&handle, Path::new("/elsewhere"), None);
    assert!(matches!(elsewhere, Err(Error::NotStaged { .. })), "{elsewhere:?}");
    domain.detach(volume);
    let unstaged = domain.staging.expand(&handle, &target, None);
    assert!(matches!(unstaged, Err(Error::NotStaged { .. })), "{unstaged:?}");
}

/// A volume that grew while nobody had it, and a larger copy of a snapshot that was taken under a writer.
#[rstest]
#[case(On::Folder, FsType::Ext4, false)]
#[case(On::Folder, FsType::Ext4, true)]
#[case(On::Folder, FsType::Xfs, false)]
#[case(On::Folder, FsType::Xfs, true)]
#[case(On::Gluster, FsType::Ext4, true)]
fn a_filesystem_smaller_than_its_device_grows_when_it_is_staged(
    #[case] on: On,
    #[case] fs: FsType,
    #[case] copy: bool,
) {
    let domain = Domain::of(on, Policy::default());
    let volume = domain.create("pvc-small", VolumeKind::Qcow2);
    let target = domain.attach(volume, filesystem(fs));
    std::fs::write(target.join("kept"), "before").unwrap();
    let before = filesystem_size(&target);
    let volume = if copy {
        let snapshot = domain.volumes.snapshot(volume, &domain.name("s1")).unwrap();
        domain.detach(volume);
        let request = CreateVolume {
            name: domain.name("pvc-copy"),
            required: Some(3 * GIB),
            limit: None,
            kind: VolumeKind::Qcow2,
            source: Some(VolumeSource::Snapshot(snapshot.handle)),
            parameters: Default::default(),
        };
        domain.volumes.create(&request).unwrap().handle.volume
    } else {
        domain.detach(volume);
        grow(&domain, volume, 3);
        volume
    };
    let target = domain.attach(volume, filesystem(fs));
    let grown = filesystem_size(&target);
    assert!(grown > before + 2 * GIB - GIB / 8, "{before} to {grown}");
    assert_eq!(std::fs::read_to_string(target.join("kept")).unwrap(), "before");
    domain.detach(volume);
}

/// A node that is away: what it has open cannot grow, and nothing is changed.
#[test]
fn a_volume_on_a_node_that_does_not_answer_does_not_grow() {
    let domain = Domain::new();
    let volume = domain.create("pvc-away", VolumeKind::RawFull);
    let device = domain.attach(volume, Access::Block);
    domain.unplug_agent(true);
    let before = record(&domain, volume);
    let refused = domain.volumes.expand(volume, Some(2 * GIB), None);
    assert!(matches!(refused, Err(Error::NodeUnreachable { .. })), "{refused:?}");
    assert_eq!(record(&domain, volume), before);
    let meta = std::fs::metadata(active_file(&domain, volume)).unwrap();
    assert!(meta.len() == GIB && meta.blocks() * 512 < 2 * GIB);
    assert_eq!(device_size(&device), GIB);
    domain.unplug_agent(false);
    grow(&domain, volume, 2);
    assert_eq!(device_size(&device), 2 * GIB);
    domain.detach(volume);
}

/// The image has its new size and nobody heard of it: the same wish finishes it, so does a smaller one, and a snapshot
/// in between keeps every byte that was written past the old end.
#[rstest]
fn a_growth_that_was_broken_off_is_finished(#[values(3, 2)] retried: u64) {
    let domain = Domain::new();
    let volume = domain.create("pvc-half", VolumeKind::Qcow2);
    let image =
        strata::image::ImageRef { path: active_file(&domain, volume), format: strata::image::Format::Qcow2 };
    QemuImg::new(support::qemu_img()).grow(&[image], 3 * GIB).unwrap();
    let device = domain.attach(volume, Access::Block);
    write_at(&device, 2 * GIB, &[5; 4096]);
    assert_eq!(domain.volumes.get(volume).unwrap().capacity, GIB);
    let snapshot = domain.volumes.snapshot(volume, &domain.name("s1")).unwrap();
    assert_eq!((snapshot.size, value_at(&device, 2 * GIB)), (3 * GIB, 5));
    let short = domain.volumes.expand(volume, Some(2 * GIB), Some(2 * GIB));
    assert!(matches!(short, Err(Error::OutOfRange { .. })), "{short:?}");
    assert_eq!(grow(&domain, volume, retried), 3 * GIB);
    assert_eq!((device_size(&device), value_at(&device, 2 * GIB)), (3 * GIB, 5));
    domain.detach(volume);
    domain.check(volume);
}

/// The image has its new size and the caller gives up: he settles for the size of before. What was written past it
/// meanwhile, by a filesystem that followed its device, is in every snapshot and clone, which have the image's size.
#[rstest]
fn a_growth_that_was_broken_off_is_taken_back(#[values(false, true)] attached: bool) {
    let domain = Domain::new();
    let volume = domain.create("pvc-back", VolumeKind::Qcow2);
    let image =
        strata::image::ImageRef { path: active_file(&domain, volume), format: strata::image::Format::Qcow2 };
    QemuImg::new(support::qemu_img()).grow(&[image], 3 * GIB).unwrap();
    let target = domain.attach(volume, filesystem(FsType::Ext4));
    assert!(filesystem_size(&target) > 2 * GIB, "it follows the device");
    std::fs::write(target.join("kept"), "before").unwrap();
    if !attached {
        domain.detach(volume);
    }
    for limit in [None, Some(GIB), Some(2 * GIB)] {
        assert_eq!(domain.volumes.expand(volume, Some(GIB), limit).unwrap(), GIB, "{limit:?}");
    }
    assert_eq!(domain.volumes.get(volume).unwrap().capacity, GIB);
    let clone = |name: &str, source, gib: u64| {
        let (required, kind, parameters) = (Some(gib * GIB), VolumeKind::Qcow2, Default::default());
        let (name, source) = (name.into(), Some(source));
        domain.volumes.create(&CreateVolume { name, required, limit: None, kind, source, parameters })
    };
    let source = || VolumeSource::Volume(domain.volumes.handle(volume));
    let depth = || record(&domain, volume).layers.len();
    let before = depth();
    let small = clone("pvc-clone", source(), 1);
    assert!(
        matches!(&small, Err(Error::OutOfRange { reason }) if reason.contains("3221225472")),
        "{small:?}"
    );
    assert_eq!(depth(), before, "what is refused changes nothing");
    let of_volume = clone("pvc-clone", source(), 3).unwrap();
    let snapshot = domain.volumes.snapshot(volume, &domain.name("s1")).unwrap();
    assert_eq!(snapshot.size, 3 * GIB);
    let of_snapshot = clone("pvc-restored", VolumeSource::Snapshot(snapshot.handle), 3).unwrap();
    for copy in [of_volume, of_snapshot] {
        assert_eq!(copy.capacity, 3 * GIB);
        let target = domain.attach(copy.handle.volume, filesystem(FsType::Ext4));
        assert_eq!(std::fs::read_to_string(target.join("kept")).unwrap(), "before");
        domain.detach(copy.handle.volume);
    }
    if attached {
        domain.detach(volume);
    }
    assert_eq!(grow(&domain, volume, 2), 3 * GIB, "it still can be finished");
    domain.check(volume);
}

/// A share without the room: nothing of it is taken, and a smaller wish is granted.
#[test]
fn a_fully_allocated_image_grows_whole_or_not_at_all() {
    let domain = Domain::on(Policy::default(), |at| SmallShare::mount(at, 6));
    let volume = domain.create("pvc-full", VolumeKind::RawFull);
    let file = active_file(&domain, volume);
    let allocated = || std::fs::metadata(&file).unwrap().blocks() * 512;
    let before = allocated();
    let refused = domain.volumes.expand(volume, Some(8 * GIB), None);
    assert!(matches!(refused, Err(Error::NoRoom { .. })), "{refused:?}");
    // What the look at the free space did not foresee.
    let full = raw::reserve(&file, 8 * GIB).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    assert!(allocated() >= 2 * GIB, "it fails half-way");
    raw::give_back(&file).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().len(), GIB);
    // The filesystem counts a block of its own map as the file's, and may keep it.
    assert!(allocated() < before + (1 << 20), "{} where there were {before}", allocated());
    grow(&domain, volume, 2);
    assert!(allocated() >= 2 * GIB);
}

/// A node that failed may have an earlier call in its queue, which grows the image in the very next moment: what was reserved
/// is not taken from under it. The next try uses it.
#[test]
fn room_that_was_reserved_for_an_attached_image_stays() {
    let domain = Domain::on(Policy::default(), |at| SmallShare::mount(at, 6));
    let volume = domain.create("pvc-queued", VolumeKind::RawFull);
    let device = domain.attach(volume, Access::Block);
    let file = active_file(&domain, volume);
    let seen = || std::fs::metadata(&file).map(|meta| (meta.len(), meta.blocks() * 512)).unwrap();
    domain.fail_growth(true);
    let refused = domain.volumes.expand(volume, Some(2 * GIB), None);
    assert!(matches!(refused, Err(Error::NodeFailed { .. })), "{refused:?}");
    assert!(seen().0 == GIB && seen().1 >= 2 * GIB, "{:?}", seen());
    domain.fail_growth(false);
    grow(&domain, volume, 2);
    assert_eq!(device_size(&device), 2 * GIB);
    // The same when the room is gone half-way, by what somebody else writes.
    SmallShare::fill(&domain.volumes.share().root, 2 * GIB + (64 << 20));
    let refused = domain.volumes.expand(volume, Some(4 * GIB), None);
    assert!(matches!(refused, Err(Error::NoRoom { .. })), "{refused:?}");
    assert!(seen().0 == 2 * GIB && seen().1 >= 3 * GIB, "{:?}", seen());
    // Detached nobody can be growing it: it is given back.
    domain.detach(volume);
    let refused = domain.volumes.expand(volume, Some(4 * GIB), None);
    assert!(matches!(refused, Err(Error::NoRoom { .. })), "{refused:?}");
    assert!(seen().0 == 2 * GIB && seen().1 < 3 * GIB, "{:?}", seen());
}
