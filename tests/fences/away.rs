//! Shares that go away, come back and hang, beside one that is well.

use crate::cutoff::volume_is_sound;
use crate::driver::{Driver, Use, new_volume};
use crate::eventually;
use crate::partition::{create, unpublish_from};
use crate::space::signal;
use crate::support::writer::{Writer, verify_files};
use crate::world::{Node, World};
use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};
use strata::data::{DataClient, DataError};
use strata::rpc::csi::controller_client::ControllerClient;
use strata::rpc::csi::node_client::NodeClient;
use strata::rpc::csi::*;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

/// What a sidecar waits for here; the answer comes a little earlier.
const PATIENCE: Duration = Duration::from_secs(4);
const LIMIT: Duration = Duration::from_secs(40);

/// The process behind a node's mount.
const CLIENT: &[&str] = &["glusterfs", "--process-name fuse", "/d/data/mnt/"];

/// Asks a node's data plane for a share.
fn look_at(node: &Node, share: &str) -> Result<(), DataError> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let data = DataClient::new(&node.driver.dir.join("data.sock")).unwrap();
        data.mount_share(&share.parse().unwrap(), &[]).await.map(drop)
    })
}

fn waiting<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

/// A call that cannot succeed now ends in time, and says that it may be asked again.
fn is_put_off<T, F>(driver: &Driver, what: &str, call: impl Fn(Channel) -> F)
where
    T: std::fmt::Debug,
    F: Future<Output = Result<Response<T>, Status>>,
{
    let begun = Instant::now();
    let status = driver.once(&call).expect_err(what);
    assert!(matches!(status.code(), Code::Aborted | Code::Unavailable), "{what}: {status:?}");
    assert!(begun.elapsed() < PATIENCE, "{what}: {:?}, {status:?}", begun.elapsed());
}

fn create_request(name: &str, share: &str) -> CreateVolumeRequest {
    new_volume(name, 1 << 30, Use::Ext4, &[("share", share)])
}

fn is_created_later(driver: &Driver, name: &str, share: &str) {
    is_put_off(driver, "CreateVolume", |channel| {
        let request = waiting(create_request(name, share));
        async move { ControllerClient::new(channel).create_volume(request).await }
    });
}

/// A whole life on the directory beside the share, each call of which takes no longer than ever.
fn the_other_share_is_well(world: &World, node: &Node, name: &str) {
    let begun = Instant::now();
    let other = format!("dir:{}", world.dir.path().join("other").display());
    let volume = node.driver.create(create_request(name, &other)).unwrap().volume_id;
    let target = node.space.path(&node.driver.attach(&volume, &node.place(name), Use::Ext4).unwrap());
    std::fs::write(target.join("file"), "kept").unwrap();
    node.driver.snapshot(&volume, name).unwrap();
    node.driver.detach(&volume, &node.place(name)).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(8), "{name}: {:?}", begun.elapsed());
}

/// Every server is gone: calls end, a node can let go, nothing is half done; then the servers come back.
pub fn a_share_goes_away_and_comes_back(world: &World) {
    let [_, two] = &world.nodes[..] else { panic!("two nodes") };
    let (driver, share) = (&two.driver, world.share.as_str());
    let volume = create(world, driver, "orphaned", Use::Ext4);
    let target = two.space.path(&driver.attach(&volume, &two.place("orphaned"), Use::Ext4).unwrap());
    let writer = Writer::start(&target);
    eventually("writes", LIMIT, || writer.written() > 20);
    let client = two.space.process(CLIENT);
    world.servers.iter().for_each(|server| server.space.cut());

    is_created_later(driver, "later", share);
    the_other_share_is_well(world, two, "beside-dead");
    is_put_off(driver, "CreateSnapshot", |channel| {
        let request = CreateSnapshotRequest {
            source_volume_id: volume.clone(),
            name: "later".to_owned(),
            ..Default::default()
        };
        async move { ControllerClient::new(channel).create_snapshot(waiting(request)).await }
    });
    is_put_off(driver, "DeleteVolume", |channel| {
        let request = DeleteVolumeRequest { volume_id: volume.clone(), ..Default::default() };
        async move { ControllerClient::new(channel).delete_volume(waiting(request)).await }
    });
    // A pod ends before its volume is taken away.
    eventually("the pod's error", LIMIT, || writer.has_ended());
    // With the share dead, from what the node knows alone.
    driver.node_unpublish(&volume, &two.place("orphaned").join("target")).unwrap();
    driver.unstage(&volume, &two.place("orphaned").join("staging")).unwrap();
    let written = writer.written();
    // What the roles do every half minute. Daemons have files of that mount open.
    let said = look_at(two, share).expect_err("no server is there");
    assert_eq!(two.space.process(CLIENT), client, "{said}");
    two.mount_of(share);

    world.servers.iter().for_each(|server| server.space.join());
    two.sees(share);
    let patiently = |what: &str, call: &dyn Fn() -> Result<(), Status>| {
        eventually(what, LIMIT, || match call() {
            Ok(()) => true,
            Err(status) => {
                assert!(matches!(status.code(), Code::Aborted | Code::Unavailable), "{what}: {status:?}");
                false
            }
        });
    };
    patiently("CreateVolume", &|| driver.create(create_request("later", share)).map(drop));
    patiently("CreateSnapshot", &|| driver.snapshot(&volume, "later").map(drop));
    patiently("ControllerUnpublishVolume", &|| unpublish_from(driver, &volume, "n2"));
    let target = two.space.path(&driver.attach(&volume, &two.place("again"), Use::Ext4).unwrap());
    verify_files(&target, written);
    driver.detach(&volume, &two.place("again")).unwrap();
    volume_is_sound(world, two, &volume);
}

/// One server's process stands still, and does not even close its connections: writers wait for a moment.
pub fn a_brick_hangs(world: &World) {
    let [_, two] = &world.nodes[..] else { panic!("two nodes") };
    let volume = create(world, &two.driver, "hung-brick", Use::Ext4);
    let target = two.space.path(&two.driver.attach(&volume, &two.place("hung-brick"), Use::Ext4).unwrap());
    let writer = Writer::start(&target);
    eventually("writes", LIMIT, || writer.written() > 20);
    let brick = world.servers[2].brick("images");
    signal(brick, libc::SIGSTOP);
    writer.goes_on();
    two.driver.snapshot(&volume, "with-two-copies").unwrap();
    writer.goes_on();
    signal(brick, libc::SIGCONT);
    writer.goes_on();
    let total = writer.stop();
    verify_files(&target, total);
    two.driver.detach(&volume, &two.place("hung-brick")).unwrap();
}

fn unstage_request(volume: &str, staging: &Path) -> NodeUnstageVolumeRequest {
    NodeUnstageVolumeRequest {
        volume_id: volume.to_owned(),
        staging_target_path: staging.to_str().unwrap().to_owned(),
    }
}

/// The share's own client stands still: nothing that touches the share ever returns. More calls than there are
/// threads for them change nothing for other shares, nor for what a node does by itself.
pub fn a_mount_hangs(world: &World) {
    let [_, two] = &world.nodes[..] else { panic!("two nodes") };
    let (driver, share) = (&two.driver, world.share.as_str());
    let volume = create(world, driver, "hung-mount", Use::Ext4);
    let target = two.space.path(&driver.attach(&volume, &two.place("hung-mount"), Use::Ext4).unwrap());
    let writer = Writer::start(&target);
    eventually("writes", LIMIT, || writer.written() > 20);
    writer.stop();
    // Nothing waits for it to be written: that, too, is left to the unmounting.
    std::fs::write(target.join("dirty"), "not on the share yet").unwrap();
    let client = two.space.process(CLIENT);
    signal(client, libc::SIGSTOP);

    is_created_later(driver, "much-later", share);
    let flood = flood(driver, &volume);
    assert!(flood.contains(&Code::Unavailable) && flood.contains(&Code::Aborted), "{flood:?}");
    the_other_share_is_well(world, two, "beside-hung");
    // Not told which share: the one that answers.
    let anywhere = new_volume("anywhere", 1 << 30, Use::Ext4, &[]);
    let placed = driver.create(anywhere).unwrap().volume_id;
    assert_ne!(placed.split('/').next(), volume.split('/').next());

    driver.node_unpublish(&volume, &two.place("hung-mount").join("target")).unwrap();
    let staging = two.place("hung-mount").join("staging");
    is_put_off(driver, "NodeUnstageVolume", |channel| {
        let request = waiting(unstage_request(&volume, &staging));
        async move { NodeClient::new(channel).node_unstage_volume(request).await }
    });
    signal(client, libc::SIGCONT);
    driver.unstage(&volume, &staging).unwrap();
    eventually("the volume is free", LIMIT, || unpublish_from(driver, &volume, "n2").is_ok());
    let target = two.space.path(&driver.attach(&volume, &two.place("hung-mount"), Use::Ext4).unwrap());
    assert_eq!(std::fs::read(target.join("dirty")).unwrap(), b"not on the share yet");
    driver.detach(&volume, &two.place("hung-mount")).unwrap();
}

/// Many calls that all need the share that hangs; the codes of their answers.
fn flood(driver: &Driver, volume: &str) -> Vec<Code> {
    const CALLS: usize = 700;
    let begun = Instant::now();
    let codes = driver.many(CALLS, |channel| async move {
        let request = ListSnapshotsRequest { source_volume_id: volume.to_owned(), ..Default::default() };
        ControllerClient::new(channel).list_snapshots(waiting(request)).await
    });
    assert!(begun.elapsed() < 3 * PATIENCE, "{CALLS} calls took {:?}", begun.elapsed());
    codes.into_iter().map(|answer| answer.expect_err("nothing answers").code()).collect()
}
