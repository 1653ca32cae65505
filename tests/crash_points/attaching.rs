//! The calls around staging: a volume is given to a node, appears at a pod's path, and the way back.

use crate::driver::Use;
use crate::support::domain::read_start;
use crate::world::{LENGTH, World, patiently};
use strata::volume::steps::Step;

pub fn publish(step: Step) {
    let mut world = World::new();
    world.arm(step);
    let mut disk = world.disk("pvc", "qcow2");
    world.dies(|driver| driver.publish(&disk.id, Use::Block));
    world.calm();
    world.write(&mut disk, 0..4, 1);
    world.verify_disk(&disk);
    world.end(&[disk.volume()]);
}

pub fn unpublish(step: Step) {
    let mut world = World::new();
    world.arm(step);
    let mut disk = world.disk("pvc", "qcow2");
    let device = world.attach(&disk.id, Use::Block);
    world.write_to(&mut disk, &device, 0..4, 1);
    let place = world.place(&disk.id);
    patiently(|| world.driver.node_unpublish(&disk.id, &place.join("target")));
    patiently(|| world.driver.unstage(&disk.id, &place.join("staging")));
    world.dies(|driver| driver.unpublish(&disk.id));
    world.calm();
    patiently(|| world.driver.unpublish(&disk.id));
    patiently(|| world.driver.delete(&disk.id));
    world.end(&[]);
}

/// The kubelet asks again; or the pod is gone by then.
pub fn appear(step: Step) {
    let mut world = World::new();
    world.arm(step);
    let mut disk = world.disk("pvc", "qcow2");
    let place = world.place(&disk.id);
    let (staging, target) = (place.join("staging"), place.join("target"));
    patiently(|| world.driver.publish(&disk.id, Use::Block));
    patiently(|| world.driver.stage(&disk.id, &staging, Use::Block));
    world.dies(|driver| driver.node_publish(&disk.id, &staging, &target, Use::Block));
    world.calm();
    if step == Step::TargetMade {
        patiently(|| world.driver.node_unpublish(&disk.id, &target));
        assert!(!target.exists());
    }
    world.write(&mut disk, 0..4, 1);
    assert!(!target.exists());
    world.verify_disk(&disk);
    world.end(&[disk.volume()]);
}

/// The kubelet asks again; or the next pod comes first.
pub fn vanish(step: Step) {
    let mut world = World::new();
    world.arm(step);
    let mut disk = world.disk("pvc", "qcow2");
    let target = world.attach(&disk.id, Use::Block);
    world.write_to(&mut disk, &target, 0..4, 1);
    world.dies(|driver| driver.node_unpublish(&disk.id, &target));
    world.calm();
    if step == Step::TargetRemoved {
        assert!(read_start(&world.attach(&disk.id, Use::Block), LENGTH) == disk.now);
    }
    world.detach(&disk.id);
    assert!(!target.exists());
    world.verify_disk(&disk);
    world.end(&[disk.volume()]);
}
