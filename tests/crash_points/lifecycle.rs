//! Volumes come, are staged and unstaged, and go.

use crate::driver::{Driver, Use, from_snapshot, from_volume, new_volume};
use crate::share::volume_of;
use crate::support::domain::{read_start, write_at};
use crate::support::small_share::SmallShare;
use crate::world::{BLOCK, Disk, LENGTH, World, patiently};
use std::path::{Path, PathBuf};
use strata::volume::steps::Step;
use tonic::Status;

/// G5: a new volume. What was half made is finished, and is empty.
pub fn create(step: Step) {
    let mut world = World::new();
    world.arm(step);
    let format = if step == Step::CreateImageMade { "raw" } else { "qcow2" };
    let request = new_volume("pvc-new", 1 << 30, Use::Block, &[("format", format)]);
    world.dies(|driver| driver.create(request.clone()));
    world.calm();
    let mut disk = world.disk("pvc-new", format);
    world.verify_disk(&disk);
    world.write(&mut disk, 3..9, 5);
    world.verify_disk(&disk);
    patiently(|| world.driver.delete(&disk.id));
    world.end(&[]);
}

/// K4, K5: a volume from a snapshot, which outlives what it was made from.
pub fn clone(step: Step) {
    let mut world = World::new();
    world.calm();
    let mut source = world.disk("pvc-source", "qcow2");
    world.write(&mut source, 0..10, 1);
    let snapshot = world.snapshot(&source, "s1");
    let then = source.now.clone();
    world.write(&mut source, 5..15, 2);
    let request = from_snapshot("pvc-clone", &snapshot, Use::Block);
    world.arm(step);
    world.dies(|driver| driver.create(request.clone()));
    world.calm();
    let id = patiently(|| world.driver.create(request.clone())).volume_id;
    let mut clone = Disk { id, now: then };
    world.verify_disk(&clone);
    world.write(&mut clone, 8..20, 3);
    world.verify_disk(&source);
    world.delete_snapshot(&snapshot.snapshot_id);
    patiently(|| world.driver.delete(&source.id));
    world.verify_disk(&clone);
    world.share.folder_agrees(source.volume());
    patiently(|| world.driver.delete(&clone.id));
    world.end(&[]);
}

/// K4: a volume from one in use, whose present is frozen and pinned for it.
pub fn clone_in_use(step: Step) {
    let mut world = World::new();
    world.arm(step);
    let mut source = world.disk("pvc-source", "qcow2");
    let device = world.attach(&source.id, Use::Block);
    world.write_to(&mut source, &device, 0..8, 1);
    let request = from_volume("pvc-clone", &source.id, Use::Block);
    world.dies(|driver| driver.create(request.clone()));
    world.calm();
    let id = patiently(|| world.driver.create(request.clone())).volume_id;
    let mut clone = Disk { id, now: source.now.clone() };
    world.write_to(&mut source, &device, 4..12, 2);
    world.write(&mut clone, 6..9, 3);
    world.verify_disk(&clone);
    assert!(read_start(&device, LENGTH) == source.now);
    world.detach(&source.id);
    world.end(&[source.volume(), clone.volume()]);
}

/// A volume that nothing stands on: all of it goes.
pub fn delete(step: Step) {
    let mut world = World::new();
    // Nothing before the call comes to the step.
    world.arm(step);
    let mut disk = world.disk("pvc-gone", "qcow2");
    world.write(&mut disk, 0..4, 1);
    world.dies(|driver| driver.delete(&disk.id));
    world.calm();
    patiently(|| world.driver.delete(&disk.id));
    world.end(&[]);
}

/// Where not one byte is free a volume can still be deleted, and so makes room.
pub fn delete_on_full_share(step: Step) {
    let mut world = World::on_small_share();
    // Nothing before the call comes to the step.
    world.arm(step);
    let mut disk = world.disk("pvc-gone", "qcow2");
    world.write(&mut disk, 0..20, 1);
    let root = world.dir.path().join("share");
    SmallShare::fill_up(&root);
    world.dies(|driver| driver.delete(&disk.id));
    world.calm();
    patiently(|| world.driver.delete(&disk.id));
    std::fs::remove_file(root.join("filler")).unwrap();
    world.end(&[]);
}

/// K5: its snapshot stays, and is as good as before.
pub fn delete_with_snapshot(step: Step) {
    let mut world = World::new();
    // Nothing before the call comes to the step.
    world.arm(step);
    let mut disk = world.disk("pvc-gone", "qcow2");
    world.write(&mut disk, 0..10, 1);
    let snapshot = world.snapshot(&disk, "s1");
    let then = disk.now.clone();
    world.write(&mut disk, 4..6, 2);
    world.dies(|driver| driver.delete(&disk.id));
    world.calm();
    patiently(|| world.driver.delete(&disk.id));
    world.verify_points();
    world.share.folder_agrees(disk.volume());
    let request = from_snapshot("pvc-clone", &snapshot, Use::Block);
    let id = patiently(|| world.driver.create(request.clone())).volume_id;
    let mut clone = Disk { id, now: then };
    world.write(&mut clone, 9..11, 3);
    world.verify_disk(&clone);
    patiently(|| world.driver.delete(&clone.id));
    world.delete_snapshot(&snapshot.snapshot_id);
    world.end(&[]);
}

fn stage(driver: &Driver, id: &str, place: &Path, usage: Use) -> Result<(), Status> {
    driver.stage(id, &place.join("staging"), usage)
}

/// A volume with a past. The kubelet asks again; or gives up; or is gone, and only the controller asks.
pub fn stage_block(step: Step) {
    let mut world = World::new();
    world.calm();
    let mut disk = world.disk("pvc-block", "raw");
    world.write(&mut disk, 0..10, 1);
    world.snapshot(&disk, "s1");
    let place = world.place(&disk.id);
    world.arm(step);
    patiently(|| world.driver.publish(&disk.id, Use::Block));
    world.dies(|driver| stage(driver, &disk.id, &place, Use::Block));
    world.calm();
    if step == Step::StageOpened {
        patiently(|| world.driver.unstage(&disk.id, &place.join("staging")));
    }
    if step != Step::StageDaemonStarted {
        patiently(|| world.driver.unpublish(&disk.id));
    }
    world.write(&mut disk, 8..20, 2);
    world.snapshot(&disk, "s2");
    world.verify_disk(&disk);
    world.end(&[disk.volume()]);
}

pub fn stage_new(step: Step) {
    stage_and_format(step, Use::Ext4);
}

pub fn stage_new_xfs(step: Step) {
    stage_and_format(step, Use::Xfs);
}

/// K3: a half-made filesystem is made again, one that a pod has seen never is.
fn stage_and_format(step: Step, usage: Use) {
    let mut world = World::new();
    world.arm(step);
    let id = patiently(|| world.driver.create(new_volume("pvc-fs", 1 << 30, usage, &[]))).volume_id;
    let place = world.place(&id);
    patiently(|| world.driver.publish(&id, usage));
    world.dies(|driver| stage(driver, &id, &place, usage));
    world.calm();
    for round in 0..2 {
        let target = world.attach(&id, usage);
        let file = target.join("file");
        if round == 0 {
            std::fs::File::create(&file).unwrap();
            write_at(&file, 0, &[7; BLOCK]);
        }
        assert_eq!(std::fs::read(&file).unwrap(), [7; BLOCK]);
        world.detach(&id);
    }
    let volume = volume_of(&id);
    assert!(!world.share.record(volume).new);
    world.share.folder_agrees(volume);
    world.share.check(volume);
    world.end(&[volume]);
}

/// What was acknowledged before the unstaging is there after it.
pub fn unstage_block(step: Step) {
    let mut world = World::new();
    world.arm(step);
    let mut disk = world.disk("pvc-block", "qcow2");
    let device = world.attach(&disk.id, Use::Block);
    world.write_to(&mut disk, &device, 0..32, 1);
    world.snapshot(&disk, "s1");
    world.write_to(&mut disk, &device, 3..17, 2);
    unstage_twice(&mut world, &disk.id);
    assert_eq!(disk.now.len(), LENGTH);
    world.verify_disk(&disk);
    world.end(&[disk.volume()]);
}

pub fn unstage_mounted(step: Step) {
    let mut world = World::new();
    world.arm(step);
    let id = patiently(|| world.driver.create(new_volume("pvc-fs", 1 << 30, Use::Ext4, &[]))).volume_id;
    let target = world.attach(&id, Use::Ext4);
    // Not synced: unmounting writes it back.
    std::fs::write(target.join("file"), [9; BLOCK]).unwrap();
    unstage_twice(&mut world, &id);
    let target = world.attach(&id, Use::Ext4);
    assert_eq!(std::fs::read(target.join("file")).unwrap(), [9; BLOCK]);
    world.detach(&id);
    let volume = volume_of(&id);
    world.share.folder_agrees(volume);
    world.share.check(volume);
    world.end(&[volume]);
}

/// A pod comes back to a node where unstaging was broken off: it gets its volume, not the node's own disk, nor a loop device
/// that may be another volume's by now.
pub fn comes_back_block(step: Step) {
    let mut world = World::new();
    world.arm(step);
    let mut disk = world.disk("pvc-block", "qcow2");
    let device = world.attach(&disk.id, Use::Block);
    world.write_to(&mut disk, &device, 0..32, 1);
    let target = unstage_and_return(&mut world, &disk.id, Use::Block);
    world.write_to(&mut disk, &target, 5..9, 2);
    world.detach(&disk.id);
    world.verify_disk(&disk);
    world.end(&[disk.volume()]);
}

pub fn comes_back_mounted(step: Step) {
    let mut world = World::new();
    world.arm(step);
    let id = patiently(|| world.driver.create(new_volume("pvc-fs", 1 << 30, Use::Ext4, &[]))).volume_id;
    let target = world.attach(&id, Use::Ext4);
    std::fs::write(target.join("file"), [9; BLOCK]).unwrap();
    let target = unstage_and_return(&mut world, &id, Use::Ext4);
    assert_eq!(std::fs::read(target.join("file")).unwrap(), [9; BLOCK]);
    world.detach(&id);
    world.end(&[volume_of(&id)]);
}

fn unstage_and_return(world: &mut World, id: &str, usage: Use) -> PathBuf {
    let place = world.place(id);
    let (staging, target) = (place.join("staging"), place.join("target"));
    patiently(|| world.driver.node_unpublish(id, &target));
    world.dies(|driver| driver.unstage(id, &staging));
    world.calm();
    // A kubelet that believes it staged finds out, rather than give a pod something else.
    let early = world.driver.node_publish(id, &staging, &target, usage);
    assert_eq!(early.unwrap_err().code(), tonic::Code::FailedPrecondition);
    patiently(|| world.driver.stage(id, &staging, usage));
    patiently(|| world.driver.node_publish(id, &staging, &target, usage));
    target
}

fn unstage_twice(world: &mut World, id: &str) {
    let place = world.place(id);
    let (staging, target) = (place.join("staging"), place.join("target"));
    patiently(|| world.driver.node_unpublish(id, &target));
    world.dies(|driver| driver.unstage(id, &staging));
    world.calm();
    patiently(|| world.driver.unstage(id, &staging));
    patiently(|| world.driver.unpublish(id));
}

/// K2: a node that only reads makes its throw-away overlay anew, and leaves the volume as it was.
pub fn stage_reader(step: Step) {
    let mut world = World::new();
    world.arm(step);
    let id = patiently(|| world.driver.create(new_volume("pvc-fs", 1 << 30, Use::Ext4, &[]))).volume_id;
    let target = world.attach(&id, Use::Ext4);
    std::fs::write(target.join("file"), [9; BLOCK]).unwrap();
    let snapshot = patiently(|| world.driver.snapshot(&id, "s1"));
    world.keep(&snapshot);
    world.detach(&id);
    let place = world.place(&id);
    let (staging, target) = (place.join("staging"), place.join("target"));
    patiently(|| world.driver.publish_to_read(&id, Use::Ext4));
    world.dies(|driver| driver.stage(&id, &staging, Use::Ext4));
    world.calm();
    patiently(|| world.driver.stage(&id, &staging, Use::Ext4));
    patiently(|| world.driver.node_publish(&id, &staging, &target, Use::Ext4));
    assert_eq!(std::fs::read(target.join("file")).unwrap(), [9; BLOCK]);
    world.detach(&id);
    let volume = volume_of(&id);
    world.verify_points();
    world.share.folder_agrees(volume);
    world.share.check(volume);
    world.end(&[volume]);
}
