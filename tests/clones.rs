//! Clones: of volumes in use, of snapshots, of clones, to other sizes; each reads its own bytes, whoever is deleted
//! first (K4, invariants 1 and 2).

mod support;

use strata::volume::*;
use support::domain::{Domain, write_at};

const BLOCK: usize = 64 << 10;
const LENGTH: usize = 16 * BLOCK;
const GIB: u64 = 1 << 30;

fn of(domain: &Domain, volume: VolumeId) -> Option<VolumeSource> {
    Some(VolumeSource::Volume(domain.volumes.handle(volume)))
}

fn layers(domain: &Domain, volume: VolumeId) -> usize {
    domain.volumes.inspect(volume).unwrap().layers.len()
}

fn nothing_left(domain: &Domain) {
    let left: Vec<_> = std::fs::read_dir(domain.volumes.layout().volumes()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A live volume is cloned by a cut that no snapshot names; both go on by themselves.
#[test]
fn a_volume_in_use_is_cloned() {
    let domain = Domain::new();
    let source = domain.create("pvc-source", VolumeKind::RawSparse);
    let device = domain.attach(source, Access::Block);
    write_at(&device, 0, &vec![1; LENGTH]);
    let clone = domain.create_from("pvc-clone", VolumeKind::Qcow2, of(&domain, source));
    write_at(&device, 0, &vec![2; BLOCK]);
    let clone_device = domain.attach(clone, Access::Block);
    write_at(&clone_device, BLOCK as u64, &vec![3; BLOCK]);
    let mut expected = vec![1; LENGTH];
    expected[BLOCK..2 * BLOCK].fill(3);
    assert!(support::domain::read_start(&clone_device, LENGTH) == expected);
    // Asked again, as a sidecar does: the same volume, and no further cut.
    let cuts = layers(&domain, source);
    assert_eq!(domain.create_from("pvc-clone", VolumeKind::Qcow2, of(&domain, source)), clone);
    assert_eq!(layers(&domain, source), cuts);
    domain.detach(clone);
    domain.detach(source);
    domain.volumes.delete(source).unwrap();
    domain.volumes.tidy(source).unwrap();
    assert!(domain.read(clone, LENGTH) == expected);
    assert_eq!(domain.volumes.get(clone).unwrap().source, of(&domain, source));
    domain.volumes.delete(clone).unwrap();
    domain.volumes.tidy(source).unwrap();
    nothing_left(&domain);
}

/// A golden image that nobody writes to: its chain does not grow with the number of its clones, nor does that of
/// clones of clones that were never written to.
#[test]
fn clones_of_what_was_not_written_to_share_one_boundary() {
    let domain = Domain::new();
    let source = domain.create("pvc-golden", VolumeKind::Qcow2);
    write_at(&domain.attach(source, Access::Block), 0, &vec![7; LENGTH]);
    domain.detach(source);
    let mut last = source;
    let mut clones = Vec::new();
    for index in 0..4 {
        let clone = domain.create_from(&format!("of-golden-{index}"), VolumeKind::Qcow2, of(&domain, source));
        let second = domain.create_from(&format!("of-clone-{index}"), VolumeKind::Qcow2, of(&domain, last));
        assert_eq!(layers(&domain, clone), 2, "the clone and the frozen base");
        assert_eq!(layers(&domain, second), 2, "a clone of a clone stands on what that one stands on");
        clones.extend([clone, second]);
        last = clone;
    }
    assert_eq!(layers(&domain, source), 2, "base and active");
    for clone in &clones {
        assert!(domain.read(*clone, LENGTH) == vec![7; LENGTH]);
    }
    // Written to, it is no longer what its clones stand on.
    write_at(&domain.attach(source, Access::Block), 0, &vec![8; BLOCK]);
    domain.detach(source);
    let newer = domain.create_from("newer", VolumeKind::Qcow2, of(&domain, source));
    assert!(domain.read(newer, BLOCK) == vec![8; BLOCK]);
    domain.volumes.delete(source).unwrap();
    for clone in clones.iter().rev() {
        domain.volumes.delete(*clone).unwrap();
    }
    domain.volumes.tidy(source).unwrap();
    assert!(domain.read(newer, BLOCK) == vec![8; BLOCK]);
    domain.volumes.delete(newer).unwrap();
    domain.volumes.tidy(source).unwrap();
    nothing_left(&domain);
}

/// To a larger size; a smaller one is refused, and a source that is not there is named.
#[test]
fn a_clone_may_be_larger_and_not_smaller() {
    let domain = Domain::new();
    let source = domain.create("pvc-source", VolumeKind::Qcow2);
    let ask = |name: &str, required: u64, source: Option<VolumeSource>| {
        domain.volumes.create(&CreateVolume {
            name: name.into(),
            required: Some(required),
            limit: None,
            kind: VolumeKind::Qcow2,
            source,
            parameters: Default::default(),
        })
    };
    let large = ask("large", 3 * GIB, of(&domain, source)).unwrap();
    assert_eq!(large.capacity, 3 * GIB);
    let device = domain.attach(large.handle.volume, Access::Block);
    let length = std::fs::File::open(&device)
        .map(|mut file| std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)));
    assert_eq!(length.unwrap().unwrap(), 3 * GIB);
    domain.detach(large.handle.volume);
    let smaller = ask("smaller", GIB, of(&domain, large.handle.volume));
    assert!(matches!(smaller, Err(Error::OutOfRange { .. })), "{smaller:?}");
    let other = ask("large", 3 * GIB, None);
    assert!(matches!(other, Err(Error::NameTaken { .. })), "{other:?}");
    let absent = ask("of-nothing", GIB, of(&domain, VolumeId::from_name("absent")));
    assert!(matches!(absent, Err(Error::VolumeNotFound { .. })), "{absent:?}");
    assert!(matches!(
        domain.volumes.get(VolumeId::from_name("of-nothing")),
        Err(Error::VolumeNotFound { .. })
    ));
}

/// A chain at its limit: the call is refused and says what to do; nothing is begun.
#[test]
fn a_chain_has_a_limit() {
    let domain = Domain::with(Policy { soft_depth: 3, hard_depth: 4, ..Policy::default() });
    let volume = domain.create("pvc", VolumeKind::Qcow2);
    for name in ["one", "two", "three"] {
        domain.volumes.snapshot(volume, name).unwrap();
    }
    let fourth = domain.volumes.snapshot(volume, "four").unwrap_err();
    assert!(matches!(fourth, Error::TooDeep { depth: 5, limit: 4, .. }), "{fourth}");
    assert!(fourth.to_string().contains("delete snapshots"), "{fourth}");
    assert_eq!(layers(&domain, volume), 4);
    // Room again.
    let one = SnapshotId::from_name("one");
    domain.volumes.delete_snapshot(volume, one).unwrap();
    domain.volumes.tidy(volume).unwrap();
    domain.volumes.snapshot(volume, "four").unwrap();
}

/// What was never used is cloned as such: the copy gets its filesystem at its own first use.
#[test]
fn a_copy_of_an_unused_volume_is_as_new() {
    use strata::host::mount::FsType;
    let domain = Domain::new();
    let source = domain.create("pvc-unused", VolumeKind::Qcow2);
    let snapshot = domain.volumes.snapshot(source, "snap").unwrap();
    let from = Some(VolumeSource::Snapshot(snapshot.handle));
    let restored = domain.create_from("restored", VolumeKind::Qcow2, from);
    let clone = domain.create_from("clone", VolumeKind::Qcow2, of(&domain, source));
    for volume in [restored, clone] {
        let access = Access::Mount { fs: FsType::Ext4, flags: Vec::new() };
        std::fs::write(domain.attach(volume, access).join("file"), b"text").unwrap();
        domain.detach(volume);
    }
}

/// Growth is a change: what is exported of a volume that only grew has its new size.
#[test]
fn a_volume_that_grew_and_was_not_written_to_is_no_copy_of_what_is_below() {
    let domain = Domain::new();
    let volume = domain.create("pvc", VolumeKind::Qcow2);
    domain.volumes.snapshot(volume, "s").unwrap();
    domain.volumes.expand(volume, Some(2 * GIB), None).unwrap();
    assert_eq!(domain.volumes.pin_volume(volume, "a test").unwrap().size, 2 * GIB);
}

/// A source that somebody works on while its last clone goes is not forgotten: the background hears of it.
#[test]
fn what_a_deleted_clone_stood_on_is_freed_even_if_it_was_busy() {
    let domain = Domain::new();
    let source = domain.create("pvc-source", VolumeKind::Qcow2);
    let clone = domain.create_from("pvc-clone", VolumeKind::Qcow2, of(&domain, source));
    domain.volumes.delete(source).unwrap();
    domain.volumes.take_due();
    let lock = std::fs::File::open(domain.volumes.layout().lock(source)).unwrap();
    lock.lock().unwrap();
    domain.volumes.delete(clone).unwrap();
    drop(lock);
    assert!(domain.volumes.layout().volume(source).exists());
    assert!(domain.volumes.take_due().contains(&source), "nobody would look at it for a long time");
    domain.volumes.tidy(source).unwrap();
    nothing_left(&domain);
}

/// A sidecar repeats a refused request for ever: the source must not get deeper each time, in use or not.
#[test]
fn a_refused_clone_leaves_its_source_as_it_was() {
    let domain = Domain::with(Policy { soft_depth: 3, hard_depth: 3, ..Policy::default() });
    let source = domain.create("pvc-source", VolumeKind::Qcow2);
    let smaller = CreateVolume {
        name: "smaller".into(),
        required: None,
        limit: Some(GIB - 1),
        kind: VolumeKind::Qcow2,
        source: of(&domain, source),
        parameters: Default::default(),
    };
    let too_large =
        CreateVolume { name: "large".into(), required: Some(1 << 60), limit: None, ..smaller.clone() };
    let refused = |request: &CreateVolume| {
        domain.volumes.create(request).unwrap_err();
        assert_eq!(layers(&domain, source), 1, "{}", request.name);
    };
    [&smaller, &too_large].into_iter().for_each(refused);
    domain.attach(source, Access::Block);
    [&smaller, &too_large].into_iter().for_each(refused);
    // And at its limit.
    domain.volumes.snapshot(source, "one").unwrap();
    domain.volumes.snapshot(source, "two").unwrap();
    let fine = CreateVolume { limit: None, ..smaller };
    let deep = domain.volumes.create(&fine).unwrap_err();
    assert!(matches!(deep, Error::TooDeep { .. }), "{deep}");
    assert_eq!(layers(&domain, source), 3);
    domain.detach(source);
}
