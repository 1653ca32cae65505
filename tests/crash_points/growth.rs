//! Volumes grow, detached and attached, and their filesystems after them.

use crate::driver::{Use, new_volume};
use crate::share::volume_of;
use crate::world::{BLOCK, Disk, LENGTH, World, patiently};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use strata::volume::steps::Step;

const GIB: u64 = 1 << 30;

fn device_size(device: &Path) -> u64 {
    use std::io::Seek;
    std::fs::File::open(device).unwrap().seek(std::io::SeekFrom::End(0)).unwrap()
}

pub fn detached(step: Step) {
    grow(step, &[], false);
}

pub fn attached(step: Step) {
    grow(step, &[], true);
}

pub fn detached_full(step: Step) {
    grow(step, &[("format", "raw"), ("preallocation", "full")], false);
}

pub fn attached_full(step: Step) {
    grow(step, &[("format", "raw"), ("preallocation", "full")], true);
}

/// G11: a growth that was broken off is finished by the same wish; a snapshot in between loses nothing, not even what
/// a pod has written past the old end.
fn grow(step: Step, parameters: &[(&str, &str)], attached: bool) {
    let mut world = World::new();
    world.arm(step);
    let request = new_volume("pvc-grows", GIB, Use::Block, parameters);
    let id = patiently(|| world.driver.create(request.clone())).volume_id;
    let mut disk = Disk { id, now: vec![0; LENGTH] };
    let device = world.attach(&disk.id, Use::Block);
    world.write_to(&mut disk, &device, 0..9, 1);
    if !attached {
        world.detach(&disk.id);
    }
    world.dies(|driver| driver.expand(&disk.id, 3 * GIB));
    world.calm();
    assert_eq!(world.share.record(disk.volume()).capacity, GIB);
    let device = world.attach(&disk.id, Use::Block);
    let end = device_size(&device) - BLOCK as u64;
    let file = std::fs::File::options().read(true).write(true).open(&device).unwrap();
    file.write_all_at(&[9; BLOCK], end).unwrap();
    file.sync_all().unwrap();
    if parameters.is_empty() {
        world.snapshot(&disk, "s1");
        world.write_to(&mut disk, &device, 5..12, 2);
    }
    assert_eq!(patiently(|| world.driver.expand(&disk.id, 3 * GIB)), 3 * GIB);
    assert_eq!(device_size(&device), 3 * GIB);
    let mut found = [0; BLOCK];
    file.read_exact_at(&mut found, end).unwrap();
    assert!(found == [9; BLOCK], "what was written past the old end is gone");
    drop(file);
    world.detach(&disk.id);
    let record = world.share.record(disk.volume());
    assert_eq!((record.capacity, record.active_layer().unwrap().size), (3 * GIB, 3 * GIB));
    if !parameters.is_empty() {
        let image = world.share.active_chain(disk.volume()).remove(0).path;
        assert!(std::fs::metadata(image).unwrap().blocks() * 512 >= 3 * GIB, "it is not allocated");
    }
    world.verify_disk(&disk);
    world.end(&[disk.volume()]);
}

pub fn stage_ext4(step: Step) {
    stage(step, Use::Ext4);
}

pub fn stage_xfs(step: Step) {
    stage(step, Use::Xfs);
}

/// The volume grew while it was detached: its filesystem follows when it is staged.
fn stage(step: Step, usage: Use) {
    let mut world = World::new();
    world.arm(step);
    let (id, before) = filesystem(&world, usage);
    world.detach(&id);
    patiently(|| world.driver.expand(&id, 3 * GIB));
    let place = world.place(&id);
    patiently(|| world.driver.publish(&id, usage));
    world.dies(|driver| driver.stage(&id, &place.join("staging"), usage));
    world.calm();
    finish(world, &id, usage, before);
}

/// It is mounted while it grows.
pub fn mounted(step: Step) {
    let mut world = World::new();
    world.arm(step);
    let (id, before) = filesystem(&world, Use::Xfs);
    patiently(|| world.driver.expand(&id, 3 * GIB));
    let target = world.place(&id).join("target");
    world.dies(|driver| driver.node_expand(&id, &target, 3 * GIB));
    world.calm();
    assert_eq!(patiently(|| world.driver.node_expand(&id, &target, 3 * GIB)), 3 * GIB);
    finish(world, &id, Use::Xfs, before);
}

fn filesystem(world: &World, usage: Use) -> (String, u64) {
    let id = patiently(|| world.driver.create(new_volume("pvc-fs", GIB, usage, &[]))).volume_id;
    let target = world.attach(&id, usage);
    std::fs::write(target.join("file"), [3; BLOCK]).unwrap();
    (id, size(&target))
}

fn size(mounted: &Path) -> u64 {
    let stat = rustix::fs::statvfs(mounted).unwrap();
    stat.f_blocks * stat.f_frsize
}

fn finish(world: World, id: &str, usage: Use, before: u64) {
    let target = world.attach(id, usage);
    let grown = size(&target);
    assert!(grown > before + 2 * GIB - GIB / 8, "{before} to {grown}");
    assert_eq!(std::fs::read(target.join("file")).unwrap(), [3; BLOCK]);
    world.detach(id);
    let volume = volume_of(id);
    world.share.folder_agrees(volume);
    world.share.check(volume);
    world.end(&[volume]);
}
