//! What changed from one snapshot to the next: a crash around its making and its forgetting never hides a change.

use crate::driver::Use;
use crate::points::history;
use crate::share::volume_of;
use crate::support::domain::LocalAgent;
use crate::support::{qemu_img, qemu_storage_daemon};
use crate::world::{BLOCK, Disk, World, eventually};
use std::ops::Range;
use std::sync::Arc;
use strata::gluster::{self, Source};
use strata::qsd::LocalDaemons;
use strata::rpc::csi::Snapshot;
use strata::volume::steps::Step;
use strata::volume::{Policy, Since, StateId, Tools, VolumeId, Volumes};

/// The state that each snapshot holds.
fn states(world: &World, volume: VolumeId) -> Vec<StateId> {
    let record = world.share.record(volume);
    let layers = record.snapshots.iter().map(|snapshot| record.layer(snapshot.layer).unwrap());
    layers.map(|layer| StateId { incarnation: layer.incarnation, layer: layer.id.uuid() }).collect()
}

/// Every frozen layer that stands on another one has its delta.
fn until_recorded(world: &World, volume: VolumeId) {
    eventually("the deltas are made", || {
        let record = world.share.record(volume);
        let frozen = record.layers.iter().filter(|layer| record.active != Some(layer.id));
        let mut wanted = frozen.filter(|layer| layer.parent.is_some());
        wanted.all(|layer| world.share.layout.delta(volume, layer.id).exists())
    });
}

/// As a backup would ask.
fn since(world: &World, snapshot: &Snapshot, earlier: StateId) -> Vec<Range<u64>> {
    let folder = world.dir.path();
    let (share, _) = gluster::open(&Source::Dir(folder.join("share")), &[], folder).unwrap();
    let daemons =
        Arc::new(LocalDaemons::new(qemu_storage_daemon(), folder.join("d").join("daemons-of-the-test")));
    let agents = Arc::new(LocalAgent::default());
    let volumes =
        Volumes::new(share, Tools { qemu_img: qemu_img(), daemons, agents, policy: Policy::default() });
    let (volume, id) = (volume_of(&snapshot.snapshot_id), crate::share::snapshot_of(&snapshot.snapshot_id));
    let pinned = volumes.pin_snapshot(volume, id, "a test").unwrap();
    match pinned.changed_since(earlier, pinned.size) {
        Since::Only(ranges) => ranges,
        Since::Unknown(reason) => panic!("unknown: {reason}"),
    }
}

fn blocks(range: Range<usize>) -> Range<u64> {
    (range.start * BLOCK) as u64..(range.end * BLOCK) as u64
}

pub fn recorded(step: Step) {
    after_a_cut(step, false);
}

pub fn recorded_in_use(step: Step) {
    after_a_cut(step, true);
}

fn after_a_cut(step: Step, in_use: bool) {
    let mut world = World::new();
    world.calm();
    let (mut disk, snapshots) = history(&mut world, "qcow2", &[0..8, 4..12], 20..22);
    let volume = disk.volume();
    until_recorded(&world, volume);
    let before = states(&world, volume);
    world.arm(step);
    let device = in_use.then(|| world.attach(&disk.id, Use::Block));
    // The delta is made after the answer.
    world.dies(|driver| driver.snapshot(&disk.id, "s3"));
    world.calm();
    let third = world.snapshot(&disk, "s3");
    until_recorded(&world, volume);
    if let Some(device) = device {
        world.write_to(&mut disk, &device, 30..31, 70);
        world.detach(&disk.id);
    }
    assert_eq!(since(&world, &third, before[1]), [blocks(20..22)]);
    world.delete_snapshot(&snapshots[1].snapshot_id);
    world.verify_disk(&disk);
    assert_eq!(since(&world, &third, before[0]), [blocks(4..12), blocks(20..22)]);
    assert_eq!(since(&world, &third, before[1]), [blocks(20..22)]);
    end(world, &disk);
}

/// Of two deleted snapshots neither delta is to be kept: each goes into the next one.
pub fn folded(step: Step) {
    let mut world = World::new();
    world.setting("STRATA_TOMBSTONES", "0");
    world.arm(step);
    let (disk, snapshots) = history(&mut world, "qcow2", &[0..8, 4..10, 12..14, 20..24], 1..2);
    let volume = disk.volume();
    let before = states(&world, volume);
    world.dies(|driver| driver.delete_snapshot(&snapshots[1].snapshot_id));
    let fourth = &snapshots[3];
    let all = [blocks(4..10), blocks(12..14), blocks(20..24)];
    assert_eq!(since(&world, fourth, before[0]), all);
    world.calm();
    world.delete_snapshot(&snapshots[1].snapshot_id);
    world.verify_disk(&disk);
    world.delete_snapshot(&snapshots[2].snapshot_id);
    world.verify_disk(&disk);
    eventually("the deltas of deleted snapshots go", || {
        std::fs::read_dir(world.share.layout.deltas(volume)).unwrap().count() == 1
    });
    assert_eq!(since(&world, fourth, before[0]), all);
    end(world, &disk);
}

fn end(world: World, disk: &Disk) {
    world.end(&[disk.volume()]);
}
