//! The whole path: snapshot, backup, content handle, claim, device.

use crate::calls::{GIB, block, create_request, mount};
use crate::s3_server::S3Server;
use crate::world::{World, from, once, s3};
use strata::rpc::csi::*;
use strata::volume::record::{Record, State, decode};
use tonic::Code;

fn record(world: &World, id: &str) -> Record {
    let folder = world.driver.share_root().join("volumes").join(crate::world::volume_of(id));
    decode(&std::fs::read(folder.join("volume.json")).unwrap()).unwrap()
}

/// K10 from a folder: every byte, on qcow2 and raw, larger too; frozen under an overlay; listed, deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_in_a_folder_becomes_a_volume() {
    let (world, _folder) = World::in_folder();
    let original = world.backed_up("source", 1, "qcow2").await;
    let found = world.driver.list_snapshots(of(&original.handle)).await.unwrap().entries;
    let snapshot = found[0].snapshot.clone().unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((snapshot.snapshot_id.as_str(), snapshot.size_bytes), (original.handle.as_str(), GIB));
    assert!(snapshot.ready_to_use && snapshot.creation_time.is_some());
    let get = GetSnapshotRequest { snapshot_id: original.handle.clone(), ..Default::default() };
    let got = world.driver.controller().get_snapshot(get).await.unwrap().into_inner().snapshot;
    assert_eq!(got, Some(snapshot));

    for (format, gib) in [("qcow2", 1), ("raw", 1), ("qcow2", 3), ("raw", 2)] {
        let name = format!("restored-{format}-{gib}");
        let request = CreateVolumeRequest {
            parameters: [("format".to_owned(), format.to_owned())].into(),
            ..from(&original.handle, &name, gib)
        };
        let volume = world.driver.create(request.clone()).await.unwrap();
        assert_eq!(volume.capacity_bytes, gib * GIB);
        assert_eq!(volume.content_source, request.volume_content_source, "it knows what it came from");
        assert_eq!(once(&world.driver, request.clone()).await.unwrap(), volume, "a retry finds it");
        let other = CreateVolumeRequest { volume_content_source: None, ..request };
        assert_eq!(once(&world.driver, other).await.unwrap_err().code(), Code::AlreadyExists);
        let record = record(&world, &volume.volume_id);
        assert!(record.state == State::Ready && !record.new && record.restore.is_none());
        let active = record.active_layer().unwrap();
        let base = record.layer(active.parent.unwrap().layer).unwrap();
        assert_eq!((record.layers.len(), base.parent, base.size), (2, None, (gib * GIB) as u64));
        if gib == 1 {
            world.verify(&volume.volume_id, &original.digest).await;
        } else {
            larger(&world, &volume.volume_id, gib).await;
        }
        world.driver.delete(&volume.volume_id).await.unwrap();
    }
    world.driver.delete_snapshot(&original.handle).await.unwrap();
    let still = world.driver.list_snapshots(of(&original.handle)).await.unwrap();
    assert_eq!(still.entries.len(), 1, "deleting the handle removes nothing");
}

fn of(handle: &str) -> ListSnapshotsRequest {
    ListSnapshotsRequest { snapshot_id: handle.to_owned(), ..Default::default() }
}

/// What lies past the backup's end is zeros, and can be written.
async fn larger(world: &World, id: &str, gib: i64) {
    use std::os::unix::fs::FileExt;
    let (staging, target) = world.driver.bring_up(id, &format!("larger-{gib}"), block()).await;
    let file = std::fs::File::options().read(true).write(true).open(&target).unwrap();
    let (mut start, mut end) = (vec![0; 4096], vec![1; 1 << 20]);
    file.read_exact_at(&mut start, 0).unwrap();
    file.read_exact_at(&mut end, (gib * GIB) as u64 - (1 << 20)).unwrap();
    assert!(start.iter().any(|byte| *byte != 0) && end.iter().all(|byte| *byte == 0));
    file.write_all_at(&end, (gib * GIB) as u64 - (1 << 20)).unwrap();
    file.sync_all().unwrap();
    drop(file);
    world.driver.bring_down(id, &staging, &target).await;
}

/// K10, B10 over S3: a filesystem with files comes back as that filesystem, and as nothing else; a volume of it is backed
/// up and restored again.
#[tokio::test(flavor = "multi_thread")]
async fn a_filesystem_comes_back_from_an_s3_server() {
    let server = S3Server::start();
    let world = World::new(s3(&server.endpoint));
    let driver = &world.driver;
    let with = |fs: &str, request: CreateVolumeRequest| CreateVolumeRequest {
        volume_capabilities: vec![mount(fs)],
        ..request
    };
    let id = driver.create(with("ext4", create_request("source"))).await.unwrap().volume_id;
    let (staging, target) = driver.bring_up(&id, "source", mount("ext4")).await;
    std::fs::write(target.join("kept"), vec![7; 3 << 20]).unwrap();
    driver.bring_down(&id, &staging, &target).await;
    let mut handle = world.backup(&driver.snapshot(&id, "first").await.unwrap().snapshot_id);
    for round in 1..=2 {
        let name = format!("restored-{round}");
        let wrong = once(driver, with("xfs", from(&handle, "wrong", 1))).await.unwrap_err();
        assert!(wrong.code() == Code::InvalidArgument && wrong.message().contains("ext4"), "{wrong}");
        let restored = driver.create(with("ext4", from(&handle, &name, 1))).await.unwrap().volume_id;
        let (staging, target) = driver.bring_up(&restored, &name, mount("ext4")).await;
        assert_eq!(std::fs::read(target.join("kept")).unwrap(), vec![7; 3 << 20]);
        std::fs::write(target.join(&name), name.as_bytes()).unwrap();
        driver.bring_down(&restored, &staging, &target).await;
        // The next one is a full one, for it is of another volume.
        handle = world.backup(&driver.snapshot(&restored, &name).await.unwrap().snapshot_id);
    }
    let last = driver.create(with("ext4", from(&handle, "last", 2))).await.unwrap().volume_id;
    let (staging, target) = driver.bring_up(&last, "last", mount("ext4")).await;
    assert_eq!(std::fs::read_to_string(target.join("restored-1")).unwrap(), "restored-1");
    assert_eq!(std::fs::read_to_string(target.join("restored-2")).unwrap(), "restored-2");
    driver.bring_down(&last, &staging, &target).await;
}

/// Only sizes that hold it all.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_never_smaller_than_its_backup() {
    let (world, _folder) = World::in_folder();
    let original = world.backed_up("source", 2, "qcow2").await;
    let small = once(&world.driver, from(&original.handle, "small", 1)).await.unwrap_err();
    assert_eq!(small.code(), Code::OutOfRange);
    let limited = CreateVolumeRequest {
        capacity_range: Some(CapacityRange { required_bytes: 0, limit_bytes: GIB }),
        ..from(&original.handle, "small", 1)
    };
    assert_eq!(once(&world.driver, limited).await.unwrap_err().code(), Code::OutOfRange);
    let free = CreateVolumeRequest { capacity_range: None, ..from(&original.handle, "as-it-was", 1) };
    let volume = world.driver.create(free).await.unwrap();
    assert_eq!(volume.capacity_bytes, 2 * GIB);
    world.verify(&volume.volume_id, &original.digest).await;
}
