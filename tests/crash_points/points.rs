//! Operations on points in time: cuts of volumes in use and not, deletions, merges.

use crate::driver::{Use, from_snapshot, new_volume};
use crate::share::volume_of;
use crate::support::domain::read_start;
use crate::support::writer::{Writer, verify_files};
use crate::world::{Disk, LENGTH, World, eventually, patiently};
use std::time::Duration;
use strata::rpc::csi::Snapshot;
use strata::volume::record::{Consistency, Intent};
use strata::volume::steps::Step;
use tonic::Code;

/// A disk with one snapshot after each round of writing, and a last round that no snapshot has.
pub fn history(
    world: &mut World,
    format: &str,
    rounds: &[std::ops::Range<usize>],
    last: std::ops::Range<usize>,
) -> (Disk, Vec<Snapshot>) {
    let mut disk = world.disk("pvc-history", format);
    let mut snapshots = Vec::new();
    let device = world.attach(&disk.id, Use::Block);
    for (number, blocks) in rounds.iter().enumerate() {
        world.write_to(&mut disk, &device, blocks.clone(), number as u8 + 1);
        snapshots.push(world.snapshot(&disk, &format!("s{}", number + 1)));
    }
    world.write_to(&mut disk, &device, last, 99);
    world.detach(&disk.id);
    (disk, snapshots)
}

/// G6: the cut of a volume that nobody has open.
pub fn cut_detached(step: Step) {
    let mut world = World::new();
    world.calm();
    let (mut disk, _) = history(&mut world, "raw", &[0..8, 4..12], 2..6);
    world.arm(step);
    world.dies(|driver| driver.snapshot(&disk.id, "s3"));
    world.calm();
    world.snapshot(&disk, "s3");
    world.write(&mut disk, 0..3, 4);
    world.verify_disk(&disk);
    world.end(&[disk.volume()]);
}

/// A name that was claimed for a snapshot which nobody asks for again is free for another volume's.
pub fn claim(step: Step) {
    let mut world = World::new();
    world.arm(step);
    let (first, second) = (world.disk("pvc-1", "qcow2"), world.disk("pvc-2", "qcow2"));
    world.dies(|driver| driver.snapshot(&first.id, "s1"));
    world.calm();
    world.snapshot(&second, "s1");
    assert_eq!(world.driver.snapshot(&first.id, "s1").unwrap_err().code(), Code::AlreadyExists);
    world.end(&[first.volume(), second.volume()]);
}

pub fn cut_attached(step: Step) {
    cut_under_a_writer(step, Use::Ext4);
}

pub fn cut_attached_xfs(step: Step) {
    cut_under_a_writer(step, Use::Xfs);
}

/// G7: the cut of a mounted filesystem. Its writer waits at most, and never sees an error.
fn cut_under_a_writer(step: Step, usage: Use) {
    let on_node = matches!(step, Step::CutFrozen | Step::CutSwitched);
    let mut world = World::new();
    world.calm();
    let id = patiently(|| world.driver.create(new_volume("pvc-cut", 1 << 30, usage, &[]))).volume_id;
    let target = world.attach(&id, usage);
    let writer = Writer::start(&target);
    eventually("some files", || writer.written() > 20);
    let first = patiently(|| world.driver.snapshot(&id, "s1"));
    world.keep(&first);
    world.arm(step);
    let before = writer.written();
    let told = world.dies(|driver| driver.snapshot(&id, "s2"));
    if on_node {
        // What the node did is unknown: it may be at work.
        assert_eq!(told.expect("no answer").code(), Code::Unavailable);
        assert!(writer.stands_still(Duration::from_millis(500)), "the filesystem is not frozen");
    } else {
        writer.goes_on();
    }
    world.calm();
    writer.goes_on();
    // The first call's point stands only when it was in the record; else it is cut again.
    let at = if step == Step::CutRecorded { before } else { writer.written() };
    let second = patiently(|| world.driver.snapshot(&id, "s2"));
    world.keep(&second);
    let record = world.share.record(volume_of(&id));
    let consistencies: Vec<_> = record.snapshots.iter().map(|snapshot| snapshot.consistency).collect();
    assert_eq!(consistencies, [Consistency::Filesystem; 2]);
    writer.goes_on();
    let total = writer.stop();
    verify_files(&target, total);
    world.detach(&id);

    let clone = from_snapshot("pvc-clone", &second, usage);
    let clone = patiently(|| world.driver.create(clone.clone())).volume_id;
    verify_files(&world.attach(&clone, usage), at);
    world.detach(&clone);
    patiently(|| world.driver.delete(&clone));

    let volume = volume_of(&id);
    world.until_tidy(volume);
    world.verify_points();
    world.share.folder_agrees(volume);
    world.share.check(volume);
    verify_files(&world.attach(&id, usage), total);
    world.detach(&id);
    world.end(&[volume]);
}

/// The share says neither that the overlay is there nor that it is not (a split brain, a brick that is away): the cut, and
/// what was acknowledged since, is not forgotten.
pub fn cut_out_of_sight(step: Step) {
    let mut world = World::new();
    world.calm();
    let mut disk = world.disk("pvc-cut", "qcow2");
    let device = world.attach(&disk.id, Use::Block);
    world.write_to(&mut disk, &device, 0..8, 1);
    world.arm(step);
    world.dies(|driver| driver.snapshot(&disk.id, "s1"));
    world.write_to(&mut disk, &device, 2..6, 2);
    let Some(Intent::Cut { file, .. }) = world.share.record(disk.volume()).intent else {
        panic!("no cut was begun")
    };
    let overlay = world.share.image(disk.volume(), &file);
    let aside = world.dir.path().join("aside");
    std::fs::rename(&overlay, &aside).unwrap();
    std::os::unix::fs::symlink(&overlay, &overlay).unwrap();
    world.calm();
    let refused = world.driver.snapshot(&disk.id, "s1").unwrap_err();
    assert!(refused.message().contains("look for"), "{refused}");
    assert!(world.share.record(disk.volume()).intent.is_some(), "it was forgotten");
    std::fs::rename(&aside, &overlay).unwrap();
    world.snapshot(&disk, "s1");
    world.write_to(&mut disk, &device, 5..7, 3);
    world.detach(&disk.id);
    world.verify_disk(&disk);
    world.end(&[disk.volume()]);
}

/// Nobody starts the driver again after its node died in the middle of a cut: it is taken down.
pub fn teardown_of_a_frozen_filesystem(step: Step) {
    let mut world = World::new();
    world.arm(step);
    let id = patiently(|| world.driver.create(new_volume("pvc-cut", 1 << 30, Use::Xfs, &[]))).volume_id;
    let target = world.attach(&id, Use::Xfs);
    let writer = Writer::start(&target);
    eventually("some files", || writer.written() > 20);
    world.dies(|driver| driver.snapshot(&id, "s1"));
    assert!(writer.stands_still(Duration::from_millis(500)), "the filesystem is not frozen");
    let at = writer.written();
    // The pod is killed; its last write ends with the thaw.
    let ending = std::thread::spawn(move || drop(writer));
    world.pause();
    ending.join().unwrap();
    world.calm();
    verify_files(&world.attach(&id, Use::Xfs), at);
    let snapshot = patiently(|| world.driver.snapshot(&id, "s1"));
    world.keep(&snapshot);
    world.detach(&id);
    let volume = volume_of(&id);
    world.until_tidy(volume);
    world.verify_points();
    world.share.folder_agrees(volume);
    world.share.check(volume);
    world.end(&[volume]);
}

/// G8: the middle one of three.
pub fn delete(step: Step) {
    let mut world = World::new();
    // Nothing before the call comes to the step.
    world.arm(step);
    let (disk, snapshots) = history(&mut world, "qcow2", &[0..8, 4..12, 10..20], 1..3);
    world.dies(|driver| driver.delete_snapshot(&snapshots[1].snapshot_id));
    world.calm();
    world.delete_snapshot(&snapshots[1].snapshot_id);
    world.verify_disk(&disk);
    world.end(&[disk.volume()]);
}

/// A small layer above a large one: its clusters go down.
pub fn merge_down(step: Step) {
    merge(step, &[0..24, 4..10, 8..12], true);
}

/// A large layer above a small one: the small one's clusters go up.
pub fn merge_up(step: Step) {
    merge(step, &[0..3, 2..26, 8..12], false);
}

/// The oldest of three goes, and its layer becomes one with the next.
fn merge(step: Step, rounds: &[std::ops::Range<usize>], down: bool) {
    let mut world = World::new();
    // Nothing before the call comes to the step.
    world.arm(step);
    let (mut disk, snapshots) = history(&mut world, "qcow2", rounds, 1..3);
    // The merge begins after the answer.
    world.dies(|driver| driver.delete_snapshot(&snapshots[0].snapshot_id));
    world.calm();
    world.delete_snapshot(&snapshots[0].snapshot_id);
    world.verify_disk(&disk);
    let record = world.share.record(disk.volume());
    assert_eq!(record.uses_file(&format!("volume-{}", disk.volume())), down, "it was merged the other way");
    // What is left can be merged on.
    world.delete_snapshot(&snapshots[1].snapshot_id);
    world.write(&mut disk, 5..7, 77);
    world.verify_disk(&disk);
    world.end(&[disk.volume()]);
}

/// The same inside the daemon of a volume that is in use.
pub fn merge_down_attached(step: Step) {
    merge_attached(step, &[0..24, 4..10, 8..12]);
}

/// Upwards, in use.
pub fn merge_up_attached(step: Step) {
    merge_attached(step, &[0..3, 2..26, 8..12]);
}

fn merge_attached(step: Step, rounds: &[std::ops::Range<usize>]) {
    let mut world = World::new();
    world.arm(step);
    let (mut disk, snapshots) = history(&mut world, "qcow2", rounds, 1..3);
    let device = world.attach(&disk.id, Use::Block);
    world.write_to(&mut disk, &device, 20..23, 70);
    world.dies(|driver| driver.delete_snapshot(&snapshots[0].snapshot_id));
    world.write_to(&mut disk, &device, 21..24, 71);
    world.calm();
    world.delete_snapshot(&snapshots[0].snapshot_id);
    let (volume, layers) = (disk.volume(), snapshots.len());
    eventually("the layers are merged while it is in use", || {
        let record = world.share.record(volume);
        record.merge.is_none() && record.layers.len() == layers
    });
    world.write_to(&mut disk, &device, 2..5, 72);
    world.verify_points();
    world.detach(&disk.id);
    world.verify_disk(&disk);
    world.end(&[volume]);
}

/// A clone whose chain is longer than allowed for gets a copy of its own.
pub fn flatten(step: Step) {
    let mut world = World::new();
    world.setting("STRATA_SOFT_DEPTH", "3");
    world.arm(step);
    let (disk, snapshots) = history(&mut world, "qcow2", &[0..8, 4..12, 10..20], 0..0);
    let request = from_snapshot("pvc-flat", snapshots.last().unwrap(), Use::Block);
    // Made; the copy begins after the answer.
    let mut clone = None;
    world.dies(|driver| {
        let made = driver.create(request.clone());
        clone = made.as_ref().ok().map(|volume| volume.volume_id.clone());
        made
    });
    world.calm();
    let id = clone.unwrap_or_else(|| patiently(|| world.driver.create(request.clone())).volume_id);
    let volume = volume_of(&id);
    eventually("the clone stands on its own feet", || {
        let record = world.share.record(volume);
        record.merge.is_none()
            && record.layers.iter().all(|layer| layer.parent.is_none_or(|p| p.volume == volume))
    });
    let copy = Disk { id, now: disk.now.clone() };
    world.verify_disk(&copy);
    world.verify_disk(&disk);
    world.end(&[disk.volume(), volume]);
}

/// The same of a clone in use, which a snapshot makes longer than it should be.
pub fn flatten_attached(step: Step) {
    let mut world = World::new();
    world.setting("STRATA_SOFT_DEPTH", "4");
    world.arm(step);
    let (disk, snapshots) = history(&mut world, "qcow2", &[0..8, 4..12, 10..20], 0..0);
    let request = from_snapshot("pvc-flat", snapshots.last().unwrap(), Use::Block);
    let id = patiently(|| world.driver.create(request.clone())).volume_id;
    let mut copy = Disk { id, now: disk.now.clone() };
    let device = world.attach(&copy.id, Use::Block);
    world.write_to(&mut copy, &device, 20..23, 70);
    world.dies(|driver| driver.snapshot(&copy.id, "of-the-clone"));
    world.calm();
    let snapshot = patiently(|| world.driver.snapshot(&copy.id, "of-the-clone"));
    let then = copy.now.clone();
    world.write_to(&mut copy, &device, 21..24, 71);
    let volume = copy.volume();
    eventually("the clone stands on its own feet", || {
        let record = world.share.record(volume);
        record.merge.is_none()
            && record.layers.iter().all(|layer| layer.parent.is_none_or(|p| p.volume == volume))
    });
    // Only now: while a layer is copied into, no other program reads it.
    let kept = world.keep(&snapshot);
    assert!(read_start(&kept.path, LENGTH) == then, "the snapshot is not what was acknowledged");
    world.write_to(&mut copy, &device, 2..5, 72);
    world.detach(&copy.id);
    world.verify_disk(&copy);
    world.verify_disk(&disk);
    world.end(&[disk.volume(), volume]);
}
