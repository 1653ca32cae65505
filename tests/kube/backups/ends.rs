//! Deletions: of a backup that runs, of one that others need, of the snapshot that is read.

use super::world::{MIB, World};
use kube::api::DeleteParams;
use serde_json::json;
use strata::kube::crd::backup::{Phase, VolumeBackup};
use strata::kube::names::FINALIZER;

/// K9, B9, B12: deleting a running backup stops it, and nothing of it stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_running_backup_that_is_deleted_leaves_nothing() {
    let world = World::new().await;
    world.directory(json!({"chunkSize": "1Mi", "bandwidth": "1Mi"})).await;
    let _serving = world.serve();
    let volume = world.volume("v", 24 * MIB);
    world.snapshot("s", volume, "plain", world.to_here()).await;
    let name = world.backup_of("s").await;
    let seen =
        world.until(&name, |status| status.phase == Phase::Running && status.bytes_uploaded > Some(0)).await;
    assert!(seen.progress < Some(100) && seen.backup_id.is_some() && seen.bytes_total == Some(1 << 30));
    assert!(!world.objects().is_empty());
    let api = world.api::<VolumeBackup>();
    let object = api.get(&name).await.unwrap();
    assert_eq!(object.metadata.finalizers, Some(vec![FINALIZER.to_owned()]));
    api.delete(&name, &DeleteParams::default()).await.unwrap();
    world.until_gone(&name).await;
    assert_eq!(world.objects(), Vec::<std::path::PathBuf>::new());
    // Nor is it begun again for the snapshot that is still there.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(api.get_opt(&name).await.unwrap().is_none());
}

/// B12: a backup that another is made on says so and waits; Retain leaves the data.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_that_others_need_waits_for_them() {
    let world = World::new().await;
    world.directory(json!({"chunkSize": "1Mi"})).await;
    let _serving = world.serve();
    let volume = world.volume("v", 2 * MIB);
    let mut names = Vec::new();
    for snapshot in ["one", "two", "three"] {
        world.write(volume, 3 * MIB, MIB);
        world.snapshot(snapshot, volume, "plain", world.to_here()).await;
        names.push(world.backup_of(snapshot).await);
        world.until_complete(&names[names.len() - 1]).await;
    }
    let content = world.content(volume, 4 * MIB);
    let api = world.api::<VolumeBackup>();
    api.delete(&names[0], &DeleteParams::default()).await.unwrap();
    let waits = world.until(&names[0], |status| status.message.is_some()).await;
    assert_eq!(waits.phase, Phase::Deleting);
    assert!(waits.message.unwrap().contains("is the parent of"), "it says why");
    assert_eq!(world.listed().await.len(), 3);
    // The one in the middle goes with what is made on it made whole; then the first can go, for the same price.
    let rebase = kube::api::Patch::Merge(json!({"spec": {"dependents": "Rebase"}}));
    api.patch(&names[1], &Default::default(), &rebase).await.unwrap();
    api.delete(&names[1], &DeleteParams::default()).await.unwrap();
    world.until_gone(&names[1]).await;
    api.patch(&names[0], &Default::default(), &rebase).await.unwrap();
    world.until_gone(&names[0]).await;
    let left = world.listed().await;
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].parent_id, left[0].damage.clone()), (None, None));
    world.assert_restores(left[0].backup_id, &content).await;
    world.until(&names[2], |status| status.parent_id.is_none()).await;
    let retain = kube::api::Patch::Merge(json!({"spec": {"deletionPolicy": "Retain"}}));
    api.patch(&names[2], &Default::default(), &retain).await.unwrap();
    api.delete(&names[2], &DeleteParams::default()).await.unwrap();
    world.until_gone(&names[2]).await;
    assert_eq!(world.listed().await.len(), 1);
}

/// K10: what is read is pinned; not even a restart in between loses it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_snapshot_that_is_deleted_while_it_is_read_is_backed_up_whole() {
    let world = World::new().await;
    world.directory(json!({"chunkSize": "1Mi", "bandwidth": "1Mi"})).await;
    let serving = world.serve();
    let volume = world.volume("v", 12 * MIB);
    let content = world.content(volume, 12 * MIB);
    let cut = world.snapshot("s", volume, "plain", world.to_here()).await;
    let name = world.backup_of("s").await;
    world.until(&name, |status| status.bytes_uploaded > Some(0)).await;
    world.delete_snapshot("s", &cut).await;
    world.write(volume, 0, 12 * MIB);
    world.domain.volumes.tidy(volume).unwrap();
    serving.stop().await.unwrap();
    let left = world.objects().len();
    assert!(left > 0, "what was uploaded stays for whoever goes on");
    assert_eq!(world.listed().await.len(), 0);
    let _next = world.serve();
    let status = world.until_complete(&name).await;
    world.assert_restores(status.backup_id.unwrap(), &content).await;
    assert!(status.bytes_uploaded < Some(12 * MIB), "what was there was not uploaded again: {status:#?}");
}
