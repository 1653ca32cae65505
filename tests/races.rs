//! Operations that meet: whoever comes first, nothing is written under a frozen layer, and nothing is lost
//! (invariants 1 to 4, G14).

#[path = "support/driver.rs"]
#[allow(dead_code)]
mod driver;
mod support;

use driver::{Driver, Use, from_snapshot, new_volume};
use rstest::rstest;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use strata::image::lock::{ImageLock, LockError};
use strata::volume::*;
use support::domain::{Domain, read_start, write_at};

const BLOCK: usize = 64 << 10;
const LENGTH: usize = 16 * BLOCK;

/// As a sidecar: what is busy is asked for again.
fn patiently<T>(mut call: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match call() {
            Err(Error::Busy { .. } | Error::Pending { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            answer => return answer,
        }
    }
}

/// Both at once, the second one later by `lag`; or the first one, when `lag` is negative.
fn meet<A: Send, B: Send>(
    lag: i64,
    one: impl FnOnce() -> A + Send,
    other: impl FnOnce() -> B + Send,
) -> (A, B) {
    let start = Barrier::new(2);
    let wait = |millis: i64| {
        start.wait();
        std::thread::sleep(Duration::from_millis(u64::try_from(millis).unwrap_or(0)));
    };
    std::thread::scope(|scope| {
        let one = scope.spawn(|| {
            wait(-lag);
            one()
        });
        let other = scope.spawn(|| {
            wait(lag);
            other()
        });
        (one.join().unwrap(), other.join().unwrap())
    })
}

/// A cut of a detached volume meets its attachment: what is written through the device is in the volume, and
/// not in the snapshot. QEMU locks a raw image only when an export can write to it, so both formats.
#[rstest]
fn a_detached_cut_meets_a_stage(
    #[values(VolumeKind::Qcow2, VolumeKind::RawSparse)] kind: VolumeKind,
    // Raw is raw for one cut only: then an overlay takes the writes. So volumes are new, or in use.
    #[values(true, false)] fresh: bool,
) {
    let domain = Domain::new();
    let mut volume = domain.create("pvc-race", kind);
    let mut now = vec![0; LENGTH];
    let mut taken = Vec::new();
    for (round, lag) in [0, 5, -5, 15, -15, 40, -40, 90, -90, 200].into_iter().enumerate() {
        if fresh {
            volume = domain.create(&format!("pvc-race-{round}"), kind);
            now.fill(0);
        }
        let name = format!("round-{round}");
        let before = now.clone();
        let (snapshot, device) = meet(
            lag,
            || patiently(|| domain.volumes.snapshot(volume, &name)),
            || patiently(|| domain.try_attach(volume, Access::Block)),
        );
        let (snapshot, device) = (snapshot.unwrap(), device.unwrap());
        now[round * BLOCK..][..BLOCK].fill(round as u8 + 1);
        write_at(&device, (round * BLOCK) as u64, &now[round * BLOCK..][..BLOCK]);
        domain.detach(volume);
        assert!(
            domain.read_snapshot(&snapshot, LENGTH) == before,
            "round {round}: written under the snapshot"
        );
        assert!(domain.read(volume, LENGTH) == now, "round {round}: a write is lost");
        domain.check(volume);
        taken.push((snapshot, before));
    }
    for (snapshot, bytes) in &taken {
        assert!(domain.read_snapshot(snapshot, LENGTH) == *bytes, "{} has changed", snapshot.name);
    }
}

/// Two calls for one snapshot get one; two for two get both.
#[rstest]
fn two_cuts_at_once(#[values(true, false)] attached: bool) {
    let domain = Domain::new();
    let volume = domain.create("pvc-race", VolumeKind::Qcow2);
    let bytes = vec![7; LENGTH];
    let device = domain.attach(volume, Access::Block);
    write_at(&device, 0, &bytes);
    if !attached {
        domain.detach(volume);
    }
    for round in 0..4 {
        let take = |name: String| patiently(|| domain.volumes.snapshot(volume, &name)).unwrap();
        let (one, other) = meet(0, || take(format!("same-{round}")), || take(format!("same-{round}")));
        assert_eq!(one, other);
        let (one, other) = meet(0, || take(format!("a-{round}")), || take(format!("b-{round}")));
        for snapshot in [&one, &other] {
            assert!(
                domain.read_snapshot(snapshot, LENGTH) == bytes,
                "{} is not what was written",
                snapshot.name
            );
        }
    }
    if attached {
        domain.detach(volume);
    }
    assert_eq!(domain.volumes.list_snapshots(Some(volume)).unwrap().len(), 12);
    assert!(domain.read(volume, LENGTH) == bytes);
    domain.check(volume);
}

/// A snapshot is taken while another goes, and while the volume itself goes.
#[test]
fn a_cut_meets_a_deletion() {
    let domain = Domain::new();
    for (round, lag) in [0, 10, -10, 40, -40].into_iter().enumerate() {
        let volume = domain.create(&format!("pvc-{round}"), VolumeKind::Qcow2);
        let bytes = vec![round as u8 + 1; LENGTH];
        write_at(&domain.attach(volume, Access::Block), 0, &bytes);
        domain.detach(volume);
        let first = domain.volumes.snapshot(volume, &format!("first-{round}")).unwrap();
        let (second, gone) = meet(
            lag,
            || patiently(|| domain.volumes.snapshot(volume, &format!("second-{round}"))),
            || patiently(|| domain.volumes.delete_snapshot(volume, first.handle.snapshot)),
        );
        gone.unwrap();
        assert!(domain.read_snapshot(&second.unwrap(), LENGTH) == bytes);
        let (third, gone) = meet(
            lag,
            || patiently(|| domain.volumes.snapshot(volume, &format!("third-{round}"))),
            || patiently(|| domain.volumes.delete(volume)),
        );
        gone.unwrap();
        match third {
            Ok(third) => assert!(domain.read_snapshot(&third, LENGTH) == bytes),
            Err(error) => assert!(matches!(error, Error::VolumeNotFound { .. }), "{error}"),
        }
        patiently(|| domain.volumes.tidy(volume)).unwrap();
        for snapshot in domain.volumes.list_snapshots(Some(volume)).unwrap() {
            assert!(domain.read_snapshot(&snapshot, LENGTH) == bytes, "{} has changed", snapshot.name);
        }
    }
}

/// A clone is made, and opened, while the layers under it become one: it finds them wherever they are then.
#[rstest]
fn a_clone_meets_a_merge(#[values(true, false)] down: bool) {
    let domain = Domain::new();
    for (round, lag) in [0, 60, 120, 180, 240, 300, 360, 420].into_iter().enumerate() {
        let volume = domain.create(&format!("pvc-{round}"), VolumeKind::Qcow2);
        let device = domain.attach(volume, Access::Block);
        let mut now = vec![0; LENGTH];
        let mut snapshots = Vec::new();
        // A smaller layer goes down into a larger one, a smaller one under a larger one goes up.
        let blocks = if down { [0..12, 3..5, 1..2] } else { [3..5, 0..12, 1..2] };
        for (number, blocks) in blocks.into_iter().enumerate() {
            now[blocks.start * BLOCK..blocks.end * BLOCK].fill(number as u8 + 1);
            write_at(&device, 0, &now);
            snapshots
                .push((domain.volumes.snapshot(volume, &format!("{round}-{number}")).unwrap(), now.clone()));
        }
        domain.detach(volume);
        domain.volumes.delete_snapshot(volume, snapshots[0].0.handle.snapshot).unwrap();
        let (snapshot, expected) = &snapshots[1];
        let (clone, tidied) = meet(
            -lag,
            || {
                let request = CreateVolume {
                    name: format!("clone-{round}"),
                    required: None,
                    limit: None,
                    kind: VolumeKind::Qcow2,
                    source: Some(VolumeSource::Snapshot(snapshot.handle.clone())),
                    parameters: Default::default(),
                };
                let clone = patiently(|| domain.volumes.create(&request)).unwrap().handle.volume;
                let device = patiently(|| domain.try_attach(clone, Access::Block)).unwrap();
                assert!(read_start(&device, LENGTH) == *expected, "round {round}: the clone");
                domain.detach(clone);
                clone
            },
            || patiently(|| domain.volumes.tidy(volume)),
        );
        tidied.unwrap();
        patiently(|| domain.volumes.tidy(volume)).unwrap();
        assert!(domain.read(clone, LENGTH) == *expected, "round {round}: the clone after the merge");
        for (snapshot, bytes) in &snapshots[1..] {
            assert!(domain.read_snapshot(snapshot, LENGTH) == *bytes, "{} has changed", snapshot.name);
        }
        assert!(domain.read(volume, LENGTH) == now);
        domain.check(volume);
    }
}

/// The same through the socket: a sidecar's CreateSnapshot meets the kubelet's NodeStageVolume.
#[rstest]
fn a_cut_meets_a_stage_over_the_socket(#[values("qcow2", "raw")] format: &str) {
    support::need_root();
    let dir = support::scratch();
    let root = dir.path().join("share");
    std::fs::create_dir(&root).unwrap();
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_strata"));
    let source = format!("dir:{}", root.display());
    let mut driver = Driver::prepare(program, &dir.path().join("d"), &[&source], "race-node");
    let (img, daemon) = (support::qemu_img(), support::qemu_storage_daemon());
    driver.set_environment(&[
        ("STRATA_QEMU_IMG", img.to_str().unwrap()),
        ("STRATA_QEMU_STORAGE_DAEMON", daemon.to_str().unwrap()),
    ]);
    driver.launch();
    let read = |id: &str| {
        let place = dir.path().join("look");
        let bytes = read_start(&driver.attach(id, &place, Use::Block).unwrap(), LENGTH);
        driver.detach(id, &place).unwrap();
        bytes
    };
    for (round, lag) in [0, 20, -20, 60, -60].into_iter().enumerate() {
        let request = new_volume(&format!("pvc-{round}"), 1 << 30, Use::Block, &[("format", format)]);
        let id = driver.create(request).unwrap().volume_id;
        let place = dir.path().join(format!("pod-{round}"));
        let (snapshot, device) = meet(
            lag,
            || driver.snapshot(&id, &format!("snap-{round}")),
            || driver.attach(&id, &place, Use::Block),
        );
        let snapshot = snapshot.unwrap();
        write_at(&device.unwrap(), 0, &[9; LENGTH]);
        driver.detach(&id, &place).unwrap();
        let clone = driver.create(from_snapshot(&format!("clone-{round}"), &snapshot, Use::Block)).unwrap();
        assert!(read(&clone.volume_id) == [0; LENGTH], "round {round}: written under the snapshot");
        assert!(read(&id) == [9; LENGTH], "round {round}: a write is lost");
    }
}

/// A node that answers late switches between the looks at the two images: the layer is held before the overlay is looked at,
/// so that there is no time between them.
#[test]
fn a_layer_is_held_before_its_overlay_is_looked_at() {
    let domain = Domain::new();
    let volume = domain.create("pvc", VolumeKind::Qcow2);
    let folder = domain.volumes.layout().volume(volume);
    let held = std::rc::Rc::new(std::cell::RefCell::new(None));
    let seen = held.clone();
    steps::meanwhile(steps::Step::CutLayerHeld, move || {
        let layer = folder.join(format!("volume-{volume}"));
        assert!(matches!(ImageLock::write(&layer), Err(LockError::Held { .. })), "a writer can have it");
        let overlay = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let name = format!("volume-{volume}.");
        let mut overlay =
            overlay.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&name));
        *seen.borrow_mut() = Some(ImageLock::write(&overlay.next().unwrap()).unwrap());
    });
    let refused = domain.volumes.snapshot(volume, "s1").unwrap_err();
    assert!(matches!(refused, Error::ImageLock { .. } | Error::ImageInUse { .. }), "{refused}");
    held.borrow_mut().take().expect("the step was reached");
    domain.volumes.snapshot(volume, "s1").unwrap();
}

/// The node of a volume does not answer, and a cut of it was broken off: who stands on its snapshots or reads them needs no answer,
/// and who asks that node keeps no other volume of the share waiting.
#[test]
fn a_node_that_hangs_keeps_no_other_volume_waiting() {
    let domain = Domain::new();
    let volumes = &domain.volumes;
    let (source, other) =
        (domain.create("source", VolumeKind::Qcow2), domain.create("other", VolumeKind::Qcow2));
    let first = volumes.snapshot(source, "s1").unwrap().handle;
    let pinned = volumes.pin_snapshot(source, first.snapshot, "a test").unwrap();
    let of = Some(VolumeSource::Snapshot(first));
    let clone = domain.create_from("clone", VolumeKind::Qcow2, of.clone());
    domain.attach(source, Access::Block);
    domain.unplug_agent(true);
    volumes.snapshot(source, "s2").unwrap_err();
    domain.unplug_agent(false);
    domain.hang_agent(true);

    domain.create_from("second", VolumeKind::Qcow2, of);
    domain.attach(clone, Access::Block);
    drop(pinned);
    let record = record::decode(&std::fs::read(volumes.layout().record(source)).unwrap()).unwrap();
    assert!(record.intent.is_some() && record.pins.is_empty(), "{record:?}");
    assert!(!domain.hanging_agent_was_asked());
    std::thread::scope(|scope| {
        let growth = scope.spawn(|| volumes.expand(clone, Some(2 << 30), None));
        let deadline = Instant::now() + Duration::from_secs(20);
        while !domain.hanging_agent_was_asked() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let beside = volumes.tidy(other);
        domain.hang_agent(false);
        beside.unwrap();
        assert_eq!(growth.join().unwrap().unwrap(), 2 << 30);
    });
    volumes.snapshot(source, "s2").unwrap();
    domain.detach(clone);
    domain.detach(source);
}
