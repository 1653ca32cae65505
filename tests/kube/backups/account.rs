//! K13, K14: the chart's rights are what the whole job takes: nothing is denied, and nothing is granted that is not used.

use super::schedules::{claim, play_sidecars};
use super::world::{LIMIT, MIB, OWN_NAMESPACE, World, repository, secret, within};
use crate::apiserver::Asked;
use crate::helm::rendered;
use crate::rights::{ACCOUNT, apply_chart};
use crate::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use kube::runtime::wait::await_condition;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strata::kube::crd::backup::{Phase, VolumeBackup};
use strata::kube::crd::schedule::BackupSchedule;
use strata::kube::names;
use strata::kube::{Clock, SetClock};
use strata::volume::VolumeId;

/// What the chart lets backups do, in the words of the API's audit.
fn granted() -> BTreeSet<(String, String)> {
    let mut all = BTreeSet::new();
    let roles = rendered("shares").into_iter().filter(|manifest| manifest.name == "strata-backup");
    for rule in roles.flat_map(|role| role.at("/rules").as_array().cloned().unwrap_or_default()) {
        let words = |key: &str| rule[key].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
        for (group, resource) in words("apiGroups").flat_map(|g| words("resources").map(move |r| (g, r))) {
            all.extend(words("verbs").map(|verb| (verb.to_owned(), format!("{group}/{resource}"))));
        }
    }
    assert!(all.len() > 20, "{all:?}");
    all
}

/// Snapshots of a schedule come and go, with their backups.
async fn follow_schedule(world: &World, clock: &SetClock, first: Timestamp, volume: VolumeId) {
    let schedule = json!({
        "apiVersion": "strata.dev/v1alpha1", "kind": "BackupSchedule",
        "metadata": {"name": "nightly", "namespace": world.namespace},
        "spec": {
            "schedule": "30 2 * * *", "selector": {"matchLabels": {"backup": "daily"}}, "keepSnapshots": 1,
            "volumeSnapshotClassName": world.class_name("plain"), "repository": world.repository,
            "retention": {"keepLast": 1},
        },
    });
    world.server.apply(&schedule.to_string()).await;
    // A schedule begins when it is first looked at.
    let next = |found: Option<&BackupSchedule>| {
        found.and_then(|found| found.status.as_ref()?.next_schedule_time) == Some(first)
    };
    within(await_condition(world.api::<BackupSchedule>(), "nightly", next)).await;
    let backups = world.api::<VolumeBackup>();
    let of_schedule = ListParams::default().labels(&format!("{}=nightly", names::SCHEDULE));
    let deadline = Instant::now() + LIMIT;
    for day in 0..2 {
        // Into an empty folder each day: a full one, so that nothing rests on what is to go.
        let folder = world.domain.dir.path().join(format!("repository-{day}"));
        world.put_repository(json!({"directory": {"path": folder}})).await;
        clock.set(first + SignedDuration::from_hours(24 * day) + SignedDuration::from_mins(1));
        let today = clock.now().strftime("%Y-%m-%d").to_string();
        loop {
            let snapshots = play_sidecars(world, volume).await;
            let left = backups.list(&of_schedule).await.unwrap().items;
            let is_it = |backup: &VolumeBackup| {
                let phase = backup.status.as_ref().map(|status| status.phase).unwrap_or_default();
                backup.annotations()[names::SCHEDULED_AT].starts_with(&today) && phase == Phase::Completed
            };
            let taken = snapshots.iter().filter(|name| name.starts_with("nightly-")).count();
            if taken == 1 && left.len() == 1 && left.iter().all(is_it) {
                break;
            }
            assert!(Instant::now() < deadline, "day {day}: {snapshots:?} {left:#?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_whole_job_takes_the_charts_rights_and_all_of_them() {
    let world = World::new().await;
    apply_chart(&world.server, "shares").await;
    let s3 = S3Server::start();
    let name = format!("of-account-{}", world.namespace);
    world.server.apply(&secret(&name, ACCESS_KEY, SECRET_KEY).to_string()).await;
    let bucket = json!({"s3": {"endpoint": s3.endpoint, "bucket": "backups", "region": "us-east-1",
        "secretRef": {"name": name}}});
    let looked_at = repository(&format!("bucket-of-{}", &world.namespace), bucket);
    world.server.apply(&looked_at.to_string()).await;
    world.directory(json!({})).await;
    world.class("backed-up", Some(&world.repository)).await;
    let volume = world.volume("v", 2 * MIB);
    claim(&world, "data", &world.driver, volume, json!({"backup": "daily"})).await;
    let start: Timestamp = "2026-03-02T00:00:00Z".parse().unwrap();
    let clock = SetClock::new(start);
    let mut parts = world.parts("of-the-account", Arc::new(clock.clone()));
    parts.client = world.server.client_of(OWN_NAMESPACE, ACCOUNT).await;
    parts.lease.namespace = OWN_NAMESPACE.to_owned();
    let serving = world.serve_with(parts);

    let nowhere = json!({names::REPOSITORY: format!("none-of-{}", world.namespace)});
    world.snapshot("to-nowhere", volume, "plain", nowhere).await;
    let to_nowhere = world.backup_of("to-nowhere").await;
    world.snapshot("by-class", volume, "backed-up", json!({})).await;
    let by_class = world.backup_of("by-class").await;
    // The one to nowhere is the older snapshot of the same volume: it fails, and is not waited for.
    world.until_complete(&by_class).await;
    world.until_reachable(true).await;
    world.api::<VolumeBackup>().delete(&by_class, &DeleteParams::default()).await.unwrap();
    world.until_gone(&by_class).await;
    follow_schedule(&world, &clock, start + SignedDuration::from_mins(150), volume).await;
    // The same event twice is one object, which is patched.
    world.until(&to_nowhere, |status| status.failures >= Some(2)).await;
    serving.stop().await.unwrap();

    let granted = granted();
    let deadline = Instant::now() + LIMIT;
    loop {
        let asked = world.server.asked(OWN_NAMESPACE, ACCOUNT);
        let denied: Vec<&Asked> = asked.iter().filter(|asked| !asked.allowed).collect();
        assert!(denied.is_empty(), "denied: {denied:?}");
        let used: BTreeSet<_> = asked.into_iter().map(|asked| (asked.verb, asked.resource)).collect();
        if used == granted {
            break;
        }
        // It is written down after the answer.
        assert!(
            Instant::now() < deadline,
            "granted and not used: {:?}; used and not granted: {:?}",
            granted.difference(&used).collect::<Vec<_>>(),
            used.difference(&granted).collect::<Vec<_>>()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
