//! K13: alerts and the dashboard ask for metrics that there are, and every alert has its section in the handbook.

use crate::helm::{chart, render, rendered};
use crate::manifest::Manifest;
use serde_json::{Value, from_value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use strata::kube::crd::backup::VolumeBackup;
use strata::kube::crd::repository::BackupRepository;
use strata::kube::crd::schedule::BackupSchedule;
use strata::kube::{Objects, figures};
use strata::metrics::{
    BackupCounts, Calls, Cuts, DaemonFigures, Metrics, Moved, Outcome, RestoreCounts, Sample, Samples,
    ShareFigures, ShareGauges, daemon_samples,
};

/// All that a process of any role can tell; each group has counted something.
fn told() -> BTreeSet<String> {
    let metrics = Metrics::new("controller");
    Calls::new(&metrics).begin("CreateVolume").end("OK");
    Cuts::new(&metrics).paused(Duration::from_millis(1), true);
    ShareGauges::new(&metrics).found("a:/v", &ShareFigures::default());
    let counts = BackupCounts::new(&metrics);
    counts.moving("r").has(Moved { read: 1, changed: 1, uploaded: 1 });
    counts.ended("r", Outcome::Completed, Duration::from_secs(1));
    counts.retry("r", "StoreError");
    RestoreCounts::new(&metrics).begin().end(Outcome::Completed);
    metrics.look(|| figures(&objects()));
    metrics.look(|| {
        daemon_samples(&[DaemonFigures { purpose: "volume".into(), volume: "v".into(), resident: 1 }])
    });
    metrics.look(|| {
        let sample = Sample { labels: vec![("share", "a:/v".to_owned())], value: 1.0 };
        vec![Samples { name: strata::metrics::SHARE_UP, help: "Up", samples: vec![sample] }]
    });
    let text = metrics.text();
    let series = text.lines().filter(|line| !line.starts_with('#'));
    series.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect()
}

/// One of each kind, of which something is told.
fn objects() -> Objects {
    let backup = |phase: &str| -> VolumeBackup {
        let status = json!({"phase": phase, "claim": "c", "completedAt": "2026-03-01T03:00:00Z"});
        from_value(json!({
            "metadata": {"name": phase, "namespace": "n"}, "spec": {"repository": "r"}, "status": status,
        }))
        .unwrap()
    };
    let usage = json!({"backups": 1, "volumes": 1, "bytes": 1});
    let repository = json!({
        "metadata": {"name": "r"}, "spec": {},
        "status": {"reachable": true, "lastChecked": "2026-03-01T03:00:00Z", "usage": usage},
    });
    let schedule = json!({
        "metadata": {"name": "s", "namespace": "n"},
        "spec": {"schedule": "@daily", "selector": {}, "repository": "r"},
    });
    let schedule: Arc<BackupSchedule> = Arc::new(from_value(schedule).unwrap());
    let repository: BackupRepository = from_value(repository).unwrap();
    let claim = from_value(json!({"metadata": {"name": "c"}})).unwrap();
    let objects = Objects {
        backups: vec![Arc::new(backup("Completed")), Arc::new(backup("Pending"))],
        repositories: vec![Arc::new(repository)],
        schedules: vec![Arc::clone(&schedule)],
        ..Objects::default()
    };
    objects.wanted.selects(&schedule, &[claim]);
    objects
}

/// The names in a text that are metrics of ours.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '_');
    words.filter(|word| word.starts_with("strata_")).map(str::to_owned).collect()
}

fn find(kind: &str, name: &str) -> Manifest {
    let found =
        rendered("everything").into_iter().find(|manifest| manifest.kind == kind && manifest.name == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn alerts() -> Vec<Value> {
    let groups = find("PrometheusRule", "strata").at("/spec/groups");
    groups.as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

#[test]
fn alerts_and_dashboard_ask_for_what_there_is() {
    let told = told();
    let alerts = alerts();
    assert!(alerts.len() > 5);
    let mut asked: BTreeSet<String> = BTreeSet::new();
    for alert in &alerts {
        let of_this = names(alert["expr"].as_str().unwrap());
        assert!(!of_this.is_empty(), "{alert}");
        asked.extend(of_this);
    }
    let dashboard = find("ConfigMap", "strata-dashboard").at("/data/strata.json");
    let dashboard: Value = serde_json::from_str(dashboard.as_str().unwrap()).expect("JSON");
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            asked.extend(names(target["expr"].as_str().unwrap()));
        }
    }
    let unknown: Vec<&String> = asked.difference(&told).collect();
    assert!(unknown.is_empty(), "nobody tells {unknown:?}; told are {told:?}");
}

#[test]
fn every_alert_has_its_section() {
    let handbook = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
    let handbook = std::fs::read_to_string(handbook).unwrap();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        assert!(handbook.contains(&format!("\n### {name}\n")), "docs/operations.md has no section {name}");
        let runbook = alert["annotations"]["runbook"].as_str().unwrap();
        assert_eq!(runbook, format!("docs/operations.md#{}", name.to_lowercase()));
    }
    let sections = handbook.lines().filter(|line| line.starts_with("### Strata")).count();
    assert_eq!(sections, alerts().len(), "a section is of an alert");
}

/// Those of backups are there where backups are made.
#[test]
fn without_backups_nobody_is_woken_for_them() {
    let files = [chart().join("ci/shares-values.yaml")];
    let rules =
        |more: &[&str]| render(&files, &[&["metrics.prometheusRule.create=true"], more].concat()).unwrap();
    let (with, without) = (rules(&[]), rules(&["backup.enabled=false"]));
    assert!(with.contains("strata_share_up") && with.contains("strata_backup_leads"));
    assert!(without.contains("strata_share_up") && !without.contains("strata_backup"));
}

/// Every process of ours sends its traces there, and no other container is told to.
#[test]
fn traces_come_from_every_process_or_from_none() {
    let files = [chart().join("ci/shares-values.yaml")];
    let told = |more: &[&str]| {
        let all = render(&files, more).unwrap();
        all.lines().filter(|line| line.contains("name: OTEL_EXPORTER_OTLP_ENDPOINT")).count()
    };
    assert_eq!(told(&[]), 0);
    assert_eq!(told(&["traces.endpoint=http://c:4318"]), 4, "controller, backup, node and data");
    for wrong in ["traces.endpoint=c:4318", "traces.endpoint=http://c/?x", "traces.sampleRatio=2"] {
        let error = render(&files, &[wrong]).unwrap_err();
        assert!(error.contains("values don't meet the specifications"), "{wrong}: {error}");
    }
}

/// What is told is in the handbook's table.
#[test]
fn every_metric_is_in_the_handbook() {
    let handbook = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
    let listed = names(&std::fs::read_to_string(handbook).unwrap());
    for name in told() {
        let base = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
        let base = base.unwrap_or(&name);
        assert!(listed.contains(base), "{base}");
    }
}
