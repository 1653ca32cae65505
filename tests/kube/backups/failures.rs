//! What goes wrong, and heals.

use super::world::{MIB, World, secret};
use crate::apiserver::ApiServer;
use crate::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
use serde_json::json;
use std::sync::Arc;
use strata::kube::crd::backup::Phase;

const WRONG: &str = "wrong-secret-of-the-test";

async fn put_secret(world: &World, secret_key: &str) {
    let secret = secret(&format!("keys-of-{}", world.namespace), ACCESS_KEY, secret_key);
    world.server.apply(&secret.to_string()).await;
}

/// K10, K11: bad credentials are told without being shown, tried again with growing waits, and once they are right it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bad_credentials_fail_until_they_are_good() {
    let world = World::new().await;
    let s3 = S3Server::start();
    put_secret(&world, WRONG).await;
    let spec = json!({"s3": {"endpoint": s3.endpoint, "bucket": "backups", "prefix": "a/b", "region": "us-east-1",
        "secretRef": {"name": format!("keys-of-{}", world.namespace)}}});
    world.put_repository(spec.clone()).await;
    let _serving = world.serve();
    let volume = world.volume("v", MIB);
    world.snapshot("s", volume, "plain", world.to_here()).await;
    let name = world.backup_of("s").await;
    let first = world.until(&name, |status| status.failures >= Some(1)).await;
    let second = world.until(&name, |status| status.failures >= Some(2)).await;
    assert_eq!((first.phase, second.phase), (Phase::Failed, Phase::Failed));
    assert!(second.retry_at > first.retry_at);
    let message = second.message.clone().unwrap();
    assert!(message.contains("SignatureDoesNotMatch"), "{message}");
    let said = world.events_of("VolumeSnapshot", "s").await;
    assert!(said.iter().any(|(reason, note)| reason == "BackupFailed" && *note == message), "{said:?}");
    let repository = world.until_reachable(false).await;
    let shown = format!("{repository:?} {second:?} {said:?}");
    assert!(!shown.contains(WRONG), "{shown}");
    put_secret(&world, SECRET_KEY).await;
    let status = world.until_complete(&name).await;
    assert_eq!((status.failures, status.message), (None, None));
    // Looked at again at once when its object changes.
    let mut changed = spec;
    changed["concurrency"] = json!(2);
    world.put_repository(changed).await;
    let usage = world.until_reachable(true).await.status.unwrap().usage.unwrap();
    assert_eq!((usage.backups, usage.volumes), (1, 1));
}

/// K10: a repository for other namespaces is refused until it is for this one; no byte is written before.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_repository_is_for_whom_it_says() {
    let world = World::new().await;
    world.directory(json!({"allowedNamespaces": ["others"]})).await;
    let _serving = world.serve();
    let volume = world.volume("v", MIB);
    world.snapshot("s", volume, "plain", world.to_here()).await;
    let name = world.backup_of("s").await;
    let refused = world.until(&name, |status| status.phase == Phase::Failed).await;
    assert!(refused.message.unwrap().contains("is not for namespace"), "it says why");
    assert!(world.objects().is_empty());
    world.directory(json!({"allowedNamespaces": ["others", world.namespace]})).await;
    world.until_complete(&name).await;
}

/// K13: the API server goes away while a backup runs: the same backup is there in the end, and the watches are.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_outlives_a_restart_of_the_api_server() {
    let world = World::on(Arc::new(ApiServer::start().await)).await;
    world.directory(json!({"chunkSize": "1Mi", "bandwidth": "1Mi"})).await;
    let _serving = world.serve_always();
    let volume = world.volume("v", 16 * MIB);
    let content = world.content(volume, 16 * MIB);
    world.snapshot("s", volume, "plain", world.to_here()).await;
    let name = world.backup_of("s").await;
    let before = world.until(&name, |status| status.bytes_uploaded > Some(0)).await;
    world.server.restart().await;
    let status = world.until_complete(&name).await;
    assert_eq!(status.backup_id, before.backup_id);
    world.assert_restores(status.backup_id.unwrap(), &content).await;
    // The watches are there again.
    world.snapshot("after", volume, "plain", world.to_here()).await;
    world.until_complete(&world.backup_of("after").await).await;
}
