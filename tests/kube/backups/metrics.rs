//! K13: what whoever backs up tells Prometheus of what it really did.

use super::world::{LIMIT, MIB, World};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strata::kube::crd::backup::Phase;
use strata::kube::{Parts, SystemClock, serve};
use strata::metrics::Metrics;

async fn until(metrics: &Metrics, fits: impl Fn(&str) -> bool, what: &str) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let text = metrics.text();
        if fits(&text) {
            return;
        }
        assert!(Instant::now() < deadline, "{what} is not in\n{text}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn until_told(metrics: &Metrics, series: &str, value: &str) {
    let line = format!("\n{series} {value}\n");
    until(metrics, |text| text.contains(&line), &line).await;
}

/// A backup fails until its repository is for its namespace, then it is made: all of that is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_that_fails_and_one_that_is_made_are_told() {
    let world = World::new().await;
    world.directory(json!({"allowedNamespaces": ["others"]})).await;
    let metrics = Metrics::new("backup");
    let parts = world.parts("the-one", Arc::new(SystemClock));
    let parts = Parts { metrics: metrics.clone(), ..parts };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(serve(parts, async move { drop(stopped.await) }));
    until_told(&metrics, "strata_backup_leads", "1").await;
    let volume = world.volume("v", 3 * MIB);
    world.snapshot("s", volume, "plain", world.to_here()).await;
    let name = world.backup_of("s").await;
    world.until(&name, |status| status.phase == Phase::Failed).await;
    let of = format!("repository=\"{}\"", world.repository);
    let of_claim =
        format!("namespace=\"{}\",persistentvolumeclaim=\"claim-of-{volume}\",{of}", world.namespace);
    until_told(&metrics, &format!("strata_backup_failing_claims{{{of}}}"), "1.0").await;
    until_told(&metrics, &format!("strata_backup_repository_up{{{of}}}"), "1.0").await;
    let text = metrics.text();
    assert!(
        text.contains(&format!("strata_backup_retries_total{{{of},reason=\"RepositoryNotAllowed\"}}")),
        "{text}"
    );
    // Other tests have claims in the same cluster.
    let last = format!("strata_backup_last_success_timestamp_seconds{{{of_claim}}}");
    assert!(!text.contains(&last), "{text}");
    world.directory(json!({"allowedNamespaces": ["others", world.namespace]})).await;
    let status = world.until_complete(&name).await;
    until_told(&metrics, &format!("strata_backup_failing_claims{{{of}}}"), "0.0").await;
    let done = status.completed_at.unwrap().as_second();
    until_told(&metrics, &last, &format!("{done}.0")).await;
    let ended = format!("strata_backup_duration_seconds_count{{{of},outcome=\"completed\"}}");
    until_told(&metrics, &ended, "1").await;
    let uploaded = format!("strata_backup_uploaded_bytes_total{{{of}}}");
    until_told(&metrics, &uploaded, &status.bytes_uploaded.unwrap().to_string()).await;
    until_told(&metrics, &format!("strata_backups{{{of},phase=\"Completed\"}}"), "1.0").await;
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
    assert!(metrics.text().contains("\nstrata_backup_leads 0\n"));
}
