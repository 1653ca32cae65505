//! A backup on its way into a volume, with the controller killed at a step.

use crate::driver::{Use, capability, new_volume};
use crate::support::backups::{folder, write_repositories};
use crate::support::qemu_img;
use crate::world::{Disk, World, patiently};
use serde_json::Value;
use std::process::Command;
use strata::rpc::csi::volume_content_source::{SnapshotSource, Type};
use strata::rpc::csi::{CreateVolumeRequest, VolumeContentSource};
use strata::volume::steps::Step;

/// Invariant 5: into a qcow2 volume.
pub fn restore(step: Step) {
    bring_back(step, "qcow2", 1);
}

/// Into a raw one that is larger.
pub fn restore_larger(step: Step) {
    bring_back(step, "raw", 2);
}

fn bring_back(step: Step, format: &str, gib: u64) {
    let mut world = World::new();
    let (store, repositories) = (world.dir.path().join("store"), world.dir.path().join("repositories.json"));
    write_repositories(&repositories, &[("store", folder(&store))]);
    // Until the end of the process: settings are constants elsewhere.
    world.setting("STRATA_REPOSITORIES", repositories.to_str().unwrap().to_owned().leak());
    world.calm();
    let mut source = world.disk("pvc-source", "qcow2");
    world.write(&mut source, 0..10, 1);
    let snapshot = world.snapshot(&source, "s1");
    let then = source.now.clone();
    let handle = backup(&world, &snapshot.snapshot_id, source.volume().to_string());
    world.write(&mut source, 5..15, 2);
    let content = SnapshotSource { snapshot_id: handle };
    let request = CreateVolumeRequest {
        volume_content_source: Some(VolumeContentSource { r#type: Some(Type::Snapshot(content)) }),
        volume_capabilities: vec![capability(Use::Block)],
        ..new_volume("pvc-restored", gib << 30, Use::Block, &[("format", format)])
    };
    world.arm(step);
    world.dies(|driver| driver.create(request.clone()));
    world.calm();
    let id = patiently(|| world.driver.create(request.clone())).volume_id;
    let mut restored = Disk { id, now: then };
    world.verify_disk(&restored);
    assert!(!world.share.record(restored.volume()).new);
    world.write(&mut restored, 8..20, 3);
    world.verify_disk(&restored);
    world.verify_disk(&source);
    patiently(|| world.driver.delete(&restored.id));
    world.end(&[source.volume()]);
}

fn backup(world: &World, snapshot: &str, volume: String) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
    command.args(["backup", "create", "-o", "json", "--snapshot", snapshot, "--repository"]);
    command.arg(format!("file://{}", world.dir.path().join("store").display()));
    command.arg("--share").arg(format!("dir:{}", world.dir.path().join("share").display()));
    let output = command.env("STRATA_QEMU_IMG", qemu_img()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    format!("bak://store/{volume}/{}", made["backup_id"].as_str().unwrap())
}
