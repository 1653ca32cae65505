//! Strata installed twice in a cluster, under two drivers' names: each deals with what is its own.

use super::world::{LIMIT, MIB, World, patch_status};
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strata::kube::SystemClock;
use strata::kube::crd::backup::VolumeBackup;
use strata::kube::crd::repository::BackupRepository;
use strata::kube::names;

/// K9, K10: also of a VolumeBackup that somebody made by hand, and that names no driver.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_anothers_is_left_alone() {
    let world = World::new().await;
    world.directory(json!({"driver": world.driver})).await;
    let volume = world.volume("v", MIB);
    world.snapshot("s", volume, "plain", json!({})).await;
    let backups = world.api::<VolumeBackup>();
    let by_hand = json!({
        "apiVersion": "strata.dev/v1alpha1", "kind": "VolumeBackup", "metadata": {"name": "by-hand"},
        "spec": {"repository": world.repository, "volumeSnapshot": {"name": "s"}},
    });
    backups.create(&PostParams::default(), &serde_json::from_value(by_hand).unwrap()).await.unwrap();

    let mut parts = world.parts("other", Arc::new(SystemClock));
    parts.settings.driver = format!("other-{}", world.driver);
    parts.lease.name = "other".to_owned();
    let other = world.serve_with(parts);
    let deadline = Instant::now() + LIMIT;
    loop {
        let said = world.events_of("VolumeBackup", "by-hand").await;
        if said.iter().any(|(reason, note)| reason == "LeftAlone" && note.contains(&world.driver)) {
            break;
        }
        assert!(Instant::now() < deadline, "{said:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let untouched = backups.get("by-hand").await.unwrap();
    assert_eq!(
        (&untouched.status, &untouched.metadata.finalizers, &untouched.spec.driver),
        (&None, &None, &None)
    );
    let repositories: Api<BackupRepository> = Api::all(world.client.clone());
    assert_eq!(repositories.get(&world.repository).await.unwrap().status, None);

    let _own = world.serve();
    world.until_complete("by-hand").await;
    assert_eq!(backups.get("by-hand").await.unwrap().spec.driver, Some(world.driver.clone()));
    world.until_reachable(true).await;
    other.stop().await.unwrap();

    // What goes has those looked at that may wait for it: of a third installation's the status stays.
    let theirs = json!({
        "apiVersion": "strata.dev/v1alpha1", "kind": "VolumeBackup",
        "metadata": {"name": "theirs", "finalizers": [names::FINALIZER]},
        "spec": {"repository": world.repository, "driver": "third.strata.dev"},
    });
    backups.create(&PostParams::default(), &serde_json::from_value(theirs).unwrap()).await.unwrap();
    patch_status(&backups, "theirs", json!({"status": {"phase": "Deleting", "message": "it waits"}})).await;
    for name in ["theirs", "by-hand"] {
        backups.delete(name, &DeleteParams::default()).await.unwrap();
    }
    world.until_gone("by-hand").await;
    let status = backups.get("theirs").await.unwrap().status.unwrap();
    assert_eq!(status.message.as_deref(), Some("it waits"));
}
