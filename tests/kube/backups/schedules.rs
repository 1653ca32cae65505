//! Snapshots at times, and which backups stay: over simulated days.

use super::world::{LIMIT, MIB, World, patch_status};
use futures::stream::{self, BoxStream, StreamExt};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strata::kube::crd::backup::{Phase, VolumeBackup};
use strata::kube::crd::schedule::BackupSchedule;
use strata::kube::crd::snapshot::VolumeSnapshot;
use strata::kube::{Clock, Error, SetClock, names, serve};
use strata::volume::VolumeId;

/// A claim that is bound to a volume, as the provisioner leaves it.
pub async fn claim(world: &World, name: &str, driver: &str, volume: VolumeId, labels: serde_json::Value) {
    let persistent = format!("pv-{name}-{}", world.namespace);
    let handle = world.domain.volumes.handle(volume).to_string();
    let capacity = json!({"storage": "1Gi"});
    let modes = json!(["ReadWriteOnce"]);
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": persistent},
        "spec": {"capacity": capacity, "accessModes": modes, "storageClassName": "strata",
            "csi": {"driver": driver, "volumeHandle": handle, "fsType": "xfs"}},
    });
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": world.namespace, "labels": labels},
        "spec": {"accessModes": modes, "storageClassName": "strata", "volumeName": persistent,
            "resources": {"requests": capacity}},
    });
    world.server.apply(&format!("{volume}\n---\n{claim}")).await;
    let claims: Api<PersistentVolumeClaim> = world.api();
    patch_status(&claims, name, json!({"status": {"phase": "Bound"}})).await;
    let volumes: Api<PersistentVolume> = Api::all(world.client.clone());
    assert!(volumes.get(&persistent).await.is_ok());
}

/// What the sidecars do with the snapshots that are new: the names of all that there are.
pub async fn play_sidecars(world: &World, volume: VolumeId) -> BTreeSet<String> {
    let all = world.api::<VolumeSnapshot>().list(&ListParams::default()).await.unwrap();
    for snapshot in all.items.iter().filter(|snapshot| snapshot.status.is_none()) {
        let cut = world.domain.volumes.snapshot(volume, &snapshot.name_any()).unwrap();
        world.make_ready(snapshot, &cut).await;
    }
    all.items.iter().map(|snapshot| snapshot.name_any()).collect()
}

/// Waits until the backups of the schedule are those of these days, all complete.
async fn until_days(world: &World, volume: VolumeId, expected: &[&str]) -> Vec<VolumeBackup> {
    let deadline = Instant::now() + LIMIT;
    loop {
        play_sidecars(world, volume).await;
        let all = world.api::<VolumeBackup>().list(&ListParams::default()).await.unwrap().items;
        let complete = all
            .iter()
            .all(|backup| backup.status.as_ref().is_some_and(|status| status.phase == Phase::Completed));
        let mut days: Vec<String> =
            all.iter().map(|backup| backup.annotations()[names::SCHEDULED_AT][..10].to_owned()).collect();
        days.sort();
        if complete && days == expected {
            return all;
        }
        assert!(Instant::now() < deadline, "{days:?} instead of {expected:?}: {all:#?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// K9, K11: each day at its time, of the selected claims of our driver; the rules keep what they say, and what stays can be
/// restored.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_schedule_takes_snapshots_and_keeps_what_its_rules_say() {
    let world = World::new().await;
    world.directory(json!({"chunkSize": "1Mi"})).await;
    let (volume, other) = (world.volume("v", MIB), world.volume("other", MIB));
    claim(&world, "data", &world.driver, volume, json!({"backup": "daily"})).await;
    claim(&world, "not-selected", &world.driver, other, json!({})).await;
    claim(&world, "not-ours", "csi.example.org", other, json!({"backup": "daily"})).await;
    let clock = SetClock::new("2026-03-01T00:00:00Z".parse().unwrap());
    let _serving = world.serve_by(Arc::new(clock.clone()));
    let schedule = json!({
        "apiVersion": "strata.dev/v1alpha1", "kind": "BackupSchedule",
        "metadata": {"name": "nightly", "namespace": world.namespace},
        "spec": {
            "schedule": "30 2 * * *",
            "selector": {"matchLabels": {"backup": "daily"}},
            "volumeSnapshotClassName": world.class_name("plain"),
            "repository": world.repository,
            "retention": {"keepLast": 2, "keepWeekly": 2},
            "keepSnapshots": 1,
        },
    });
    world.server.apply(&schedule.to_string()).await;
    let schedules = world.api::<BackupSchedule>();
    let next = |found: Option<&BackupSchedule>| {
        found.and_then(|found| found.status.as_ref()?.next_schedule_time).is_some()
    };
    let waited = kube::runtime::wait::await_condition(schedules.clone(), "nightly", next);
    let found = tokio::time::timeout(LIMIT, waited).await.unwrap().unwrap().unwrap();
    let first: Timestamp = "2026-03-01T02:30:00Z".parse().unwrap();
    assert_eq!(found.status.unwrap().next_schedule_time, Some(first));
    // 2026-03-01 is a Sunday: the last day of its week.
    let days: [(i64, &[&str]); 5] = [
        (0, &["2026-03-01"]),
        (1, &["2026-03-01", "2026-03-02"]),
        (2, &["2026-03-01", "2026-03-02", "2026-03-03"]),
        (3, &["2026-03-01", "2026-03-03", "2026-03-04"]),
        (5, &["2026-03-01", "2026-03-04", "2026-03-06"]),
    ];
    for (day, expected) in days {
        world.write(volume, (2 + day as u64) * MIB, MIB);
        clock.set(first + SignedDuration::from_hours(24 * day) + SignedDuration::from_mins(1));
        let left = until_days(&world, volume, expected).await;
        assert!(left.iter().all(|backup| backup.status.as_ref().unwrap().claim.as_deref() == Some("data")));
    }
    let content = world.content(volume, 8 * MIB);
    let listed = world.listed().await;
    assert_eq!(listed.len(), 3);
    assert!(listed.iter().all(|info| info.damage.is_none()), "{listed:#?}");
    world.assert_restores(listed.last().unwrap().backup_id, &content).await;
    let meta = world.engine().show(listed[0].backup_id).await.unwrap().volume_meta.unwrap();
    for told in ["kubernetes.claim", "kubernetes.label.backup", "kubernetes.fs-type", "\"xfs\""] {
        assert!(meta.contains(told), "{meta}");
    }
    // The snapshots that were backed up are gone, but for the newest; the backups need them no more.
    let deadline = Instant::now() + LIMIT;
    while play_sidecars(&world, volume).await.len() > 1 {
        assert!(Instant::now() < deadline, "snapshots stay");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let suspend = kube::api::Patch::Merge(json!({"spec": {"suspend": true}}));
    schedules.patch("nightly", &Default::default(), &suspend).await.unwrap();
    let suspended = |found: Option<&BackupSchedule>| {
        found
            .and_then(|found| found.status.as_ref())
            .is_some_and(|status| status.next_schedule_time.is_none())
    };
    let waited = kube::runtime::wait::await_condition(schedules, "nightly", suspended);
    tokio::time::timeout(LIMIT, waited).await.unwrap().unwrap();
    clock.set(first + SignedDuration::from_hours(24 * 9));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(play_sidecars(&world, volume).await.len(), 1);
}

/// A clock that breaks whatever asks it.
struct NoClock;

impl Clock for NoClock {
    fn now(&self) -> Timestamp {
        panic!("this test has no time")
    }
    fn jumps(&self) -> BoxStream<'static, ()> {
        stream::pending().boxed()
    }
}

/// Who leads and does nothing would keep all others from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_part_that_breaks_off_ends_the_whole() {
    let world = World::new().await;
    let schedule = json!({
        "apiVersion": "strata.dev/v1alpha1", "kind": "BackupSchedule",
        "metadata": {"name": "s", "namespace": world.namespace},
        "spec": {"schedule": "@daily", "selector": {}, "repository": world.repository,
            "volumeSnapshotClassName": world.class_name("plain")},
    });
    world.server.apply(&schedule.to_string()).await;
    let ended = serve(world.parts("breaks", Arc::new(NoClock)), std::future::pending());
    let error = tokio::time::timeout(LIMIT, ended).await.expect("it ends").unwrap_err();
    assert!(matches!(error, Error::Broken { .. }), "{error}");
}
