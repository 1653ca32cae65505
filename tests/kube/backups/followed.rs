//! Backups, restores and all that leads to them: found by their ids in the log, and as traces at a collector.

use super::elsewhere::{bucket, restore};
use super::processes::{Access, controller_with, data_plane, serve_with};
use super::world::{LIMIT, MIB, World, secret};
use crate::collector::{Collector, Received};
use crate::s3_server::{ACCESS_KEY, S3Server};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// Found nowhere else.
const HIDDEN: &str = "hunter2-of-the-repository";

async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} never came");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn lines(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// A job's line names its object and has an id of its own.
async fn logged(log: &Path, job: &str, object: &str, message: &str) {
    let is_it = |line: &Value| line["job"] == job && line["object"] == object && line["message"] == message;
    let line = until(&format!("{message:?} of {object}"), || lines(log).into_iter().find(is_it)).await;
    assert!(line["request_id"].as_str().is_some_and(|id| id.len() == 16), "{line}");
}

/// A trace of its own.
async fn begins(collector: &Collector, service: &str, name: &str) -> Received {
    let is_it = |span: &Received| span.service == service && span.name == name;
    let found = until(&format!("{service}'s {name}"), || collector.spans().into_iter().find(is_it)).await;
    assert_eq!(found.parent.trim_matches('0'), "", "{found:?}");
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn backups_and_restores_are_followed_and_no_secret_goes_along() {
    let world = World::new().await;
    let s3 = S3Server::with_keys([(ACCESS_KEY.to_owned(), HIDDEN.to_owned())]);
    let mut keys = secret("keys", ACCESS_KEY, HIDDEN);
    keys["metadata"]["namespace"] = json!(world.namespace);
    world.server.apply(&keys.to_string()).await;
    // Others on this server do not have that Secret.
    world.put_repository(json!({"s3": bucket(&s3, "keys"), "driver": world.driver})).await;
    let never = json!({
        "apiVersion": "strata.dev/v1alpha1", "kind": "BackupSchedule",
        "metadata": {"name": "never", "namespace": world.namespace},
        "spec": {"schedule": "nonsense", "selector": {}, "repository": world.repository,
            "volumeSnapshotClassName": world.class_name("plain")},
    });
    world.server.apply(&never.to_string()).await;

    let collector = Collector::start();
    let environment = [
        ("STRATA_LOG_FORMAT", "json"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "200"),
        // Of the machine that tests run on.
        ("OTEL_SERVICE_NAME", ""),
    ];
    let (_data, socket) = data_plane(&world);
    let access = Access { kubeconfig: world.server.kubeconfig(), namespace: world.namespace.clone() };
    let _serving = serve_with(&world, &socket, &access, "followed", &environment);
    let (_controller, csi) = controller_with(&world, &socket, &access, &environment);
    let volume = world.volume("v", MIB);
    world.snapshot("s", volume, "plain", world.to_here()).await;
    let backup = world.backup_of("s").await;
    let status = world.until_complete(&backup).await;
    let channel = strata::rpc::uds::channel(&csi).unwrap();
    restore(&channel, &status.handle.unwrap(), "followed").await;

    let log = world.domain.dir.path().join("followed.log");
    let namespace = &world.namespace;
    logged(&log, "backup", &format!("VolumeBackup {namespace}/{backup}"), "complete").await;
    logged(&log, "repository", &format!("BackupRepository {}", world.repository), "the repository answers")
        .await;
    logged(&log, "schedule", &format!("BackupSchedule {namespace}/never"), "the schedule is not kept").await;
    for job in ["trigger", "backup", "repository", "schedule"] {
        begins(&collector, "strata-backup", job).await;
    }
    let restore = begins(&collector, "strata-controller", "restore").await;
    let call = begins(&collector, "strata-controller", "csi.v1.Controller/CreateVolume").await;
    assert_ne!((&restore.trace, &restore.id), (&call.trace, &call.id), "it outlives the call");
    assert!(collector.holds("a restore has ended"), "lines go along as events");
    assert!(!collector.holds(HIDDEN), "a secret went along");
    for name in ["followed.log", "controller.log"] {
        let text = std::fs::read_to_string(world.domain.dir.path().join(name)).unwrap();
        assert!(!text.contains(HIDDEN), "{name}: {text}");
    }
}
