//! What cannot be restored is said so, and is no volume.

use crate::support::backups::{chunks, flip};
use crate::world::{World, from, once, volume_of};
use jiff::{SignedDuration, Timestamp};
use strata::rpc::csi::*;
use strata::volume::VolumeId;
use strata::volume::record::{FailureKind, decode, encode};
use tonic::Code;

async fn listed(world: &World) -> Vec<String> {
    let listed = world.driver.controller().list_volumes(ListVolumesRequest::default()).await.unwrap();
    let entries = listed.into_inner().entries.into_iter();
    entries.map(|entry| volume_of(&entry.volume.unwrap().volume_id)).collect()
}

/// Repeats a call until its answer is final.
async fn finally(world: &World, request: &CreateVolumeRequest) -> Result<Volume, tonic::Status> {
    world.driver.create(request.clone()).await
}

/// Invariant 5: one changed byte, and there is no volume; that is answered again without a look at the store, and after the
/// cool-off a store that was put right gives the volume.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_backup_is_no_volume() {
    let (world, folder) = World::in_folder();
    let original = world.backed_up("source", 1, "qcow2").await;
    let source = listed(&world).await;
    let victim = chunks(folder.path()).into_iter().nth(2).unwrap();
    flip(&victim);
    let request = from(&original.handle, "restored", 1);
    let lost = finally(&world, &request).await.unwrap_err();
    assert_eq!(lost.code(), Code::DataLoss);
    assert!(lost.message().contains("damaged"), "{lost}");
    assert_eq!(listed(&world).await, source);
    let id = VolumeId::from_name("restored");
    let home = world.driver.share_root().join("volumes").join(id.to_string());
    let files = || -> Vec<String> {
        let entries = std::fs::read_dir(&home).unwrap().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    };
    assert!(files().iter().all(|name| name == "volume.json" || name == "volume.info"), "{:?}", files());
    // Without a new try: the store is well again, and the answer the same.
    flip(&victim);
    let before = std::fs::read(home.join("volume.json")).unwrap();
    assert_eq!(once(&world.driver, request.clone()).await.unwrap_err().message(), lost.message());
    assert_eq!(std::fs::read(home.join("volume.json")).unwrap(), before);
    let mut record = decode(&before).unwrap();
    let failure = record.restore.as_mut().unwrap().failure.as_mut().unwrap();
    assert_eq!(failure.kind, FailureKind::DataLoss);
    failure.at = Timestamp::now() - SignedDuration::from_mins(61);
    std::fs::write(home.join("volume.json"), encode(&record)).unwrap();
    let volume = finally(&world, &request).await.unwrap();
    world.verify(&volume.volume_id, &original.digest).await;
}

/// A chunk that is missing is found before anything is begun.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_without_one_of_its_objects_is_no_volume() {
    let (world, folder) = World::in_folder();
    let original = world.backed_up("source", 1, "qcow2").await;
    let source = listed(&world).await;
    let victim = chunks(folder.path()).pop().unwrap();
    std::fs::remove_file(victim).unwrap();
    let lost = once(&world.driver, from(&original.handle, "restored", 1)).await.unwrap_err();
    assert_eq!(lost.code(), Code::DataLoss);
    let found = world
        .driver
        .list_snapshots(ListSnapshotsRequest { snapshot_id: original.handle.clone(), ..Default::default() });
    assert_eq!(found.await.unwrap_err().code(), Code::DataLoss);
    let entries = std::fs::read_dir(world.driver.share_root().join("volumes")).unwrap();
    assert_eq!(entries.count(), source.len(), "nothing was begun");
}

/// A store that is away has lost nothing: never an empty list, never "not found". It is away in the middle, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_waited_for() {
    let (world, folder) = World::in_folder();
    let original = world.backed_up("source", 1, "qcow2").await;
    let hidden = folder.path().with_extension("hidden");
    std::fs::rename(folder.path(), &hidden).unwrap();
    let unavailable = |code: Code| assert_eq!(code, Code::Unavailable);
    let of = ListSnapshotsRequest { snapshot_id: original.handle.clone(), ..Default::default() };
    unavailable(world.driver.list_snapshots(of.clone()).await.unwrap_err().code());
    let get = GetSnapshotRequest { snapshot_id: original.handle.clone(), ..Default::default() };
    unavailable(world.driver.controller().get_snapshot(get).await.unwrap_err().code());
    let request = from(&original.handle, "restored", 1);
    unavailable(once(&world.driver, request.clone()).await.unwrap_err().code());
    world.driver.delete_snapshot(&original.handle).await.unwrap();
    std::fs::rename(&hidden, folder.path()).unwrap();
    assert_eq!(world.driver.list_snapshots(of).await.unwrap().entries.len(), 1);
    let volume = finally(&world, &request).await.unwrap();
    world.verify(&volume.volume_id, &original.digest).await;
}
