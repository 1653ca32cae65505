//! What starts a backup, and what comes of it.

use super::world::{MIB, World};
use kube::ResourceExt;
use kube::api::{ListParams, PostParams};
use serde_json::json;
use strata::kube::crd::backup::{Phase, VolumeBackup};
use strata::kube::crd::snapshot::VolumeSnapshot;
use strata::kube::names;
use strata::volume::{VolumeKind, VolumeSource};

/// K9: by class and by label; the label wins; `none` opts out; what is not ready waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_ready_snapshot_with_a_repository_gets_one_backup() {
    let world = World::new().await;
    world.directory(json!({})).await;
    world.class("backed-up", Some(&world.repository)).await;
    let _serving = world.serve();
    let volume = world.volume("v", 2 * MIB);
    let api = world.api::<VolumeBackup>();
    let plain = json!({});
    world.snapshot("by-nothing", volume, "plain", plain.clone()).await;
    world.snapshot("opted-out", volume, "backed-up", json!({names::REPOSITORY: "none"})).await;
    world.snapshot("by-class", volume, "backed-up", plain.clone()).await;
    world.snapshot("by-label", volume, "plain", world.to_here()).await;
    world.snapshot("label-wins", volume, "backed-up", json!({names::REPOSITORY: "elsewhere"})).await;
    for snapshot in ["by-class", "by-label"] {
        let status = world.until_complete(&world.backup_of(snapshot).await).await;
        assert_eq!((status.progress, status.bytes_total), (Some(100), Some(1 << 30)));
    }
    let elsewhere = world.backup_of("label-wins").await;
    let waits = world.until(&elsewhere, |status| status.phase == Phase::Failed).await;
    assert!(waits.message.as_deref().unwrap().contains("no BackupRepository elsewhere"), "{waits:?}");
    assert!(waits.retry_at.is_some());
    let all = api.list(&ListParams::default()).await.unwrap();
    let mut snapshots: Vec<_> =
        all.iter().map(|backup| backup.spec.volume_snapshot.clone().unwrap().name).collect();
    snapshots.sort();
    assert_eq!(snapshots, ["by-class", "by-label", "label-wins"]);
    // Not ready: nothing yet.
    let late = json!({
        "metadata": {"name": "late", "labels": world.to_here()},
        "spec": {"source": {"persistentVolumeClaimName": "c"}},
    });
    let mut object = json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot"});
    object.as_object_mut().unwrap().extend(late.as_object().unwrap().clone());
    let late: VolumeSnapshot = serde_json::from_value(object).unwrap();
    let made = world.api::<VolumeSnapshot>().create(&PostParams::default(), &late).await.unwrap();
    let cut = world.domain.volumes.snapshot(volume, "late").unwrap();
    assert!(world.api::<VolumeSnapshot>().get("late").await.unwrap().annotations().is_empty());
    world.make_ready(&made, &cut).await;
    world.until_complete(&world.backup_of("late").await).await;
}

/// K10: each is made on the last complete one of its own volume, holds what its snapshot held, and is told of.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_backup_is_made_on_the_last_one_of_its_volume() {
    let world = World::new().await;
    world.directory(json!({"chunkSize": "1Mi", "verifyPercent": 100})).await;
    let _serving = world.serve();
    let (volume, other) = (world.volume("v", 4 * MIB), world.volume("other", MIB));
    let first_content = world.content(volume, 6 * MIB);
    world.snapshot("first", volume, "plain", world.to_here()).await;
    let first = world.until_complete(&world.backup_of("first").await).await;
    assert_eq!(first.parent_id, None);
    assert_eq!(first.full_because.as_deref(), Some("the volume has no earlier backup"));
    assert!(first.verification.as_ref().unwrap().good);
    world.snapshot("of-another", other, "plain", world.to_here()).await;
    let of_another = world.until_complete(&world.backup_of("of-another").await).await;
    assert_eq!(of_another.parent_id, None);
    world.write(volume, 5 * MIB, MIB);
    let second_content = world.content(volume, 6 * MIB);
    world.snapshot("second", volume, "plain", world.to_here()).await;
    let name = world.backup_of("second").await;
    let second = world.until_complete(&name).await;
    assert_eq!(second.parent_id, first.backup_id);
    assert_eq!((second.bytes_read, second.read_all_because.clone()), (Some(MIB), None), "{second:#?}");
    world.assert_restores(first.backup_id.unwrap(), &first_content).await;
    world.assert_restores(second.backup_id.unwrap(), &second_content).await;
    let handle = format!("bak://{}/{volume}/{}", world.repository, second.backup_id.unwrap());
    assert_eq!(second.handle.as_deref(), Some(handle.as_str()));
    let snapshot = world.api::<VolumeSnapshot>().get("second").await.unwrap();
    assert_eq!(snapshot.annotations()[names::BACKUP_PHASE], "Completed");
    assert_eq!(snapshot.annotations()[names::BACKUP_HANDLE], handle);
    let said = world.events_of("VolumeSnapshot", "second").await;
    let reasons: Vec<&str> = said.iter().map(|(reason, _)| reason.as_str()).collect();
    assert_eq!(reasons, ["BackupStarted", "BackupCompleted"]);
    let found = world.until_reachable(true).await;
    assert_eq!(found.metadata.name.as_deref(), Some(world.repository.as_str()));
}

/// A claim made from a snapshot: of its first backup the store copies what the source's has, and the rest is read. Neither
/// needs the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_first_backup_of_a_clone_takes_over_its_sources() {
    let world = World::new().await;
    world.directory(json!({"chunkSize": "1Mi", "verifyPercent": 100})).await;
    let _serving = world.serve();
    let volume = world.volume("v", 6 * MIB);
    let cut = world.snapshot("source", volume, "plain", world.to_here()).await;
    let source = world.until_complete(&world.backup_of("source").await).await;
    assert_eq!((source.copied_from, source.bytes_copied), (None, None));
    let from = Some(VolumeSource::Snapshot(cut.handle.clone()));
    let clone = world.domain.create_from("clone", VolumeKind::Qcow2, from);
    world.write(clone, 2 * MIB, MIB / 2);
    let content = world.content(clone, 6 * MIB);
    world.snapshot("of-clone", clone, "plain", world.to_here()).await;
    let made = world.until_complete(&world.backup_of("of-clone").await).await;
    assert_eq!((made.parent_id, made.copied_from), (None, source.backup_id), "{made:#?}");
    assert_eq!((made.bytes_read, made.read_all_because.clone()), (Some(MIB), None), "{made:#?}");
    assert_eq!(made.full_because.as_deref(), Some("the volume has no earlier backup"));
    assert!(made.bytes_copied > Some(5 * MIB), "{made:#?}");
    world.engine().delete(source.backup_id.unwrap()).await.unwrap();
    world.assert_restores(made.backup_id.unwrap(), &content).await;
    world.write(clone, 0, MIB);
    world.snapshot("next", clone, "plain", world.to_here()).await;
    let next = world.until_complete(&world.backup_of("next").await).await;
    assert_eq!((next.parent_id, next.bytes_read, next.copied_from), (made.backup_id, Some(MIB), None));
}

/// K11: so many backups of the volumes of one node; volumes that no node uses are none of its.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn volumes_of_one_node_are_backed_up_as_many_at_a_time_as_it_bears() {
    let world = World::new().await;
    world.directory(json!({"chunkSize": "1Mi", "bandwidth": "2Mi"})).await;
    let volumes = ["one", "two", "free"].map(|name| (name, world.volume(name, 6 * MIB)));
    for (name, volume) in &volumes {
        if *name != "free" {
            world.domain.attach(*volume, strata::volume::Access::Block);
        }
        world.snapshot(name, *volume, "plain", world.to_here()).await;
    }
    let mut parts = world.parts("bounded", std::sync::Arc::new(strata::kube::SystemClock));
    parts.settings.per_node = Some(1);
    let _serving = world.serve_with(parts);
    let mut started = Vec::new();
    for (name, _) in &volumes {
        started.push(world.until_complete(&world.backup_of(name).await).await.started_at.unwrap());
    }
    let apart = started[0].duration_since(started[1]).abs().as_secs_f64();
    // One of them takes three seconds; the first MiB goes at once.
    assert!(apart > 2.0, "{apart} s");
}
