//! A controller is cut off in the middle of a change, with the volume's lock in its hand; another one takes the lock; the
//! first one goes on.

use crate::driver::{Driver, Use};
use crate::eventually;
use crate::partition::{active_file, check_image, create};
use crate::space::signal;
use crate::world::{Node, World};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use strata::rpc::csi::controller_client::ControllerClient;
use strata::rpc::csi::{CreateSnapshotRequest, CreateSnapshotResponse, ListSnapshotsRequest};
use tonic::{Code, Status};

fn record(world: &World, node: &Node, volume: &str) -> serde_json::Value {
    let id = volume.split('/').nth(1).unwrap();
    let path: PathBuf = node.mount_of(&world.share).join("volumes").join(id).join("volume.json");
    let file: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    file["record"].clone()
}

/// Once the background has merged what the broken-off cut left.
fn settled_record(world: &World, node: &Node, volume: &str) -> serde_json::Value {
    let (mut last, mut since) = (record(world, node, volume), Instant::now());
    eventually("the background is done", Duration::from_secs(30), || {
        let now = record(world, node, volume);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(2)
    });
    last
}

/// Asks once; the caller's own deadline is long.
fn snapshot_once(driver: &Driver, volume: &str, name: &str) -> Result<CreateSnapshotResponse, Status> {
    let request = CreateSnapshotRequest {
        source_volume_id: volume.to_owned(),
        name: name.to_owned(),
        ..Default::default()
    };
    driver.once(&|channel| {
        let request = request.clone();
        async move { ControllerClient::new(channel).create_snapshot(request).await }
    })
}

fn state(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or_default().trim().to_owned()
}

pub fn a_controller_that_lost_its_lock_writes_nothing(world: &World) {
    let [one, two] = &world.nodes[..] else { panic!("two nodes") };
    let volume = create(world, &two.driver, "contended", Use::Ext4);
    let controller = one.role("controller");
    std::thread::scope(|scope| {
        // It stands still with the lock held, the intent written and the overlay made (STRATA_STOP_AT).
        let first = scope.spawn(|| snapshot_once(&one.driver, &volume, "first"));
        eventually("the first controller stands still", Duration::from_secs(20), || {
            state(controller).starts_with('T')
        });
        one.space.cut();
        let taken = two.driver.snapshot(&volume, "second").unwrap();
        one.space.join();
        one.sees(&world.share);
        let won = settled_record(world, two, &volume);
        signal(controller, libc::SIGCONT);
        let lost = first.join().unwrap().expect_err("it lost its lock");
        assert_eq!(lost.code(), Code::Aborted, "{lost:?}");
        assert_eq!(record(world, two, &volume), won, "the record stays the winner's");

        // As the sidecar does: asked again, it is cut again.
        one.driver.snapshot(&volume, "first").unwrap();
        let all = two
            .driver
            .list_snapshots(ListSnapshotsRequest { source_volume_id: volume.clone(), ..Default::default() });
        let all: Vec<String> = all.unwrap().into_iter().map(|snapshot| snapshot.snapshot_id).collect();
        assert!(all.len() == 2 && all.contains(&taken.snapshot_id), "{all:?}");
    });
    check_image(&active_file(world, two, &volume));
    volume_is_sound(world, two, &volume);
}

/// `strata volume check` finds nothing wrong.
pub fn volume_is_sound(world: &World, node: &Node, volume: &str) {
    let mut command = node.space.command(env!("CARGO_BIN_EXE_strata"));
    let output = command.args(["volume", "check", "--share", &world.share, volume]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
