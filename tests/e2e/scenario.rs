//! The scenario: what an operator and the users of a cluster do with Strata, from its installation to its removal.

use crate::cluster::{Cluster, RELEASE_NAMESPACE};
use crate::kubectl::{Kubectl, eventually};
use crate::objects::{self, CLASS, REPOSITORY};
use crate::steps::Steps;
use crate::workload;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

const RELEASE: &str = "strata";
/// Rounds of the writer that must have been done before, between and after what may disturb it.
const ROUNDS: u64 = 20;

pub fn run(cluster: &mut dyn Cluster) -> Result<()> {
    let mut steps = Steps::new();
    let kubectl = cluster.kubectl().clone();
    println!("{}", cluster.describe());

    steps.run("install the chart with Helm", || install(cluster))?;
    steps.run("a BackupRepository that is reachable", || repository(cluster, &kubectl))?;
    steps.run("a claim is bound", || bound_claim(&kubectl, "data", 1, None))?;
    steps.run("a pod mounts it and writes", || {
        cluster.start_pod("writer", "data")?;
        cluster.exec("writer", &workload::fill(1, 40)).map(drop)
    })?;
    let first = cluster.exec("writer", workload::SUMS)?;
    steps.run("a snapshot in use", || snapshot(&kubectl, "first", "data"))?;
    let full = steps.run("its backup completes", || backed_up(&kubectl, "first"))?;
    steps.note(&figures(&full));
    steps.run("the pod writes on", || cluster.exec("writer", &workload::fill(31, 50)))?;
    let second = cluster.exec("writer", workload::SUMS)?;
    steps.run("a second snapshot", || snapshot(&kubectl, "second", "data"))?;
    let increment = steps.run("its backup is incremental", || backed_up(&kubectl, "second"))?;
    steps.note(&figures(&increment));
    ensure!(
        increment["status"]["parentId"] == full["status"]["backupId"],
        "not made on the first: {increment}"
    );
    show(&mut steps, &kubectl)?;
    steps.run("the pod writes on", || cluster.exec("writer", &workload::fill(1, 10)))?;
    let third = cluster.exec("writer", workload::SUMS)?;

    steps.run("a claim of the first snapshot has its files", || {
        bound_claim(&kubectl, "of-snapshot", 1, Some(("VolumeSnapshot", "first")))?;
        holds(cluster, "of-snapshot", &first)
    })?;
    steps.run("a claim of the second backup's handle has its files", || {
        of_backup(&kubectl, &increment)?;
        bound_claim(&kubectl, "of-backup", 1, Some(("VolumeSnapshot", "from-the-bucket")))?;
        holds(cluster, "of-backup", &second)
    })?;
    steps.run("a clone has the present files", || {
        bound_claim(&kubectl, "clone", 1, Some(("PersistentVolumeClaim", "data")))?;
        holds(cluster, "clone", &third)
    })?;
    steps.run("the claim grows to 2 GiB under its pod", || expand(cluster, &kubectl))?;
    let rounds = steps.run("an upgrade under load", || upgrade(cluster))?;
    steps.note(&format!("{rounds} writes of 256 KiB, each flushed and read back from the device"));
    steps.run("mounted anew, every file is there", || {
        cluster.end_pod("writer")?;
        cluster.start_pod("reader", "data")?;
        ensure!(cluster.exec("reader", workload::SUMS)? == third, "the files are not those of before");
        cluster.exec("reader", workload::CHECK_WRITTEN)?;
        cluster.end_pod("reader")
    })?;
    steps.run("everything is deleted; share and bucket are empty", || delete(cluster, &kubectl))?;
    steps.run("the chart is removed", || uninstall(cluster, &kubectl))?;
    println!("{}", steps.summary());
    Ok(())
}

/// `install` or `upgrade` with the cluster's values and some more.
fn helm(cluster: &dyn Cluster, verb: &str, more: &[&str]) -> Result<String> {
    let values = tempfile::NamedTempFile::new()?;
    std::fs::write(values.path(), cluster.values().to_string())?;
    let (chart, file) = (cluster.chart(), values.path().display().to_string());
    let arguments = [verb, RELEASE, &chart, "-n", RELEASE_NAMESPACE, "-f", &file];
    cluster.helm(&[&arguments[..], more].concat())
}

fn install(cluster: &mut dyn Cluster) -> Result<()> {
    let kubectl = cluster.kubectl();
    for namespace in [RELEASE_NAMESPACE, kubectl.namespace()] {
        kubectl.apply(&objects::namespace(namespace))?;
    }
    let label = "pod-security.kubernetes.io/enforce=privileged";
    kubectl.run(&["label", "--overwrite", "namespace", RELEASE_NAMESPACE, label])?;
    helm(cluster, "install", &[])?;
    cluster.settle()
}

fn repository(cluster: &dyn Cluster, kubectl: &Kubectl) -> Result<()> {
    kubectl.within(RELEASE_NAMESPACE).apply(&objects::keys(cluster.store()))?;
    kubectl.apply(&objects::repository(cluster.store(), kubectl.namespace()))?;
    kubectl.wait("backuprepository", REPOSITORY, "reachable", |found| {
        found["status"]["reachable"].as_bool()?.then_some(())
    })
}

fn bound_claim(kubectl: &Kubectl, name: &str, gib: u32, source: Option<(&str, &str)>) -> Result<()> {
    kubectl.apply(&objects::claim(name, gib, source))?;
    kubectl.wait("pvc", name, "bound", |claim| (claim["status"]["phase"] == "Bound").then_some(()))
}

fn snapshot(kubectl: &Kubectl, name: &str, claim: &str) -> Result<()> {
    kubectl.apply(&objects::snapshot(name, claim))?;
    ready(kubectl, name)
}

fn ready(kubectl: &Kubectl, snapshot: &str) -> Result<()> {
    kubectl.wait("volumesnapshot", snapshot, "ready", |found| {
        found["status"]["readyToUse"].as_bool()?.then_some(())
    })
}

/// Waits until the backup that the snapshot's class asks for is complete.
fn backed_up(kubectl: &Kubectl, snapshot: &str) -> Result<Value> {
    let backup = kubectl.wait("volumesnapshot", snapshot, "taken up", |found| {
        found["metadata"]["annotations"]["strata.dev/backup"].as_str().map(str::to_owned)
    })?;
    kubectl.wait("volumebackup", &backup, "complete", |found| {
        (found["status"]["phase"] == "Completed").then(|| found.clone())
    })
}

fn figures(backup: &Value) -> String {
    let mib = |name: &str| backup["status"][name].as_u64().unwrap_or_default() >> 20;
    let (read, changed, sent) = (mib("bytesRead"), mib("bytesChanged"), mib("bytesUploaded"));
    format!("{read} MiB read, {changed} MiB changed, {sent} MiB uploaded")
}

fn show(steps: &mut Steps, kubectl: &Kubectl) -> Result<()> {
    for line in kubectl.run(&["get", "volumesnapshots,volumebackups,pvc"])?.lines() {
        steps.note(line);
    }
    Ok(())
}

/// A pod of a claim finds the files that are expected, and nothing else.
fn holds(cluster: &mut dyn Cluster, claim: &str, files: &str) -> Result<()> {
    cluster.start_pod(claim, claim)?;
    let found = cluster.exec(claim, workload::SUMS)?;
    cluster.end_pod(claim)?;
    ensure!(found == files, "{claim} holds other files:\n{found}\ninstead of:\n{files}");
    Ok(())
}

fn of_backup(kubectl: &Kubectl, backup: &Value) -> Result<()> {
    let handle = backup["status"]["handle"].as_str().context("a complete backup has a handle")?;
    let class = kubectl.get("storageclass", CLASS)?;
    let driver = class["provisioner"].as_str().context("a class has a provisioner")?;
    for object in objects::of_backup("from-the-bucket", kubectl.namespace(), driver, handle) {
        kubectl.apply(&object)?;
    }
    ready(kubectl, "from-the-bucket")
}

fn expand(cluster: &mut dyn Cluster, kubectl: &Kubectl) -> Result<()> {
    kubectl.apply(&objects::claim("data", 2, None))?;
    cluster.grown("writer")?;
    kubectl.wait("pvc", "data", "grown", |claim| {
        (claim["status"]["capacity"]["storage"] == "2Gi").then_some(())
    })?;
    let size: u64 = cluster.exec("writer", workload::SIZE)?.trim().parse()?;
    ensure!(size > 1800 << 10, "the filesystem has {size} KiB");
    Ok(())
}

fn incarnations(cluster: &dyn Cluster) -> Result<[String; 3]> {
    let of = |component| cluster.incarnation(component);
    Ok([of("controller")?, of("node")?, of("data")?])
}

fn upgrade(cluster: &mut dyn Cluster) -> Result<u64> {
    let writer = cluster.exec_in_background("writer", workload::WRITER)?;
    let before = incarnations(cluster)?;
    let begun = further(cluster, 0)?;
    helm(
        cluster,
        "upgrade",
        &["--set", "controller.podAnnotations.revision=two,node.podAnnotations.revision=two"],
    )?;
    cluster.settle()?;
    further(cluster, begun)?;
    cluster.exec("writer", workload::STOP)?;
    let rounds = crate::kubectl::said("the writer", writer.wait_with_output()?)?;
    let after = incarnations(cluster)?;
    ensure!(before[0] != after[0] && before[1] != after[1], "nothing was replaced: {after:?}");
    ensure!(before[2] == after[2], "the data plane was replaced: {before:?}, {after:?}");
    Ok(rounds.trim().parse()?)
}

/// Waits for more rounds of the writer.
fn further(cluster: &dyn Cluster, since: u64) -> Result<u64> {
    let mut rounds = since;
    eventually("the writer goes on", || {
        rounds = cluster.exec("writer", workload::ROUNDS)?.trim().parse().unwrap_or(rounds);
        Ok(rounds >= since + ROUNDS)
    })?;
    Ok(rounds)
}

fn delete(cluster: &dyn Cluster, kubectl: &Kubectl) -> Result<()> {
    for kind in ["pvc", "volumesnapshot", "volumebackup"] {
        // Together, for the first backup waits for the one that is made on it.
        kubectl.delete(kind, "--all")?;
    }
    let ours = |object: &Value| {
        let spec = &object["spec"];
        spec["claimRef"]["namespace"] == kubectl.namespace()
            || spec["volumeSnapshotRef"]["namespace"] == kubectl.namespace()
    };
    for kind in ["pv", "volumesnapshotcontent"] {
        eventually(&format!("no {kind} is left"), || Ok(!kubectl.list(kind)?.iter().any(ours)))?;
    }
    let store = format!("s3://{}/{}", cluster.store().bucket, kubectl.namespace());
    let endpoint = &cluster.store().endpoint;
    let backups =
        cluster.strata(&["backup", "list", "--repository", &store, "--endpoint", endpoint, "-o", "json"])?;
    ensure!(is_empty(&backups), "backups are left: {backups}");
    // What nothing refers to any more is removed in the background.
    eventually("the share is empty", || {
        Ok(is_empty(&cluster.strata(&[
            "volume",
            "list",
            "--all",
            "--share",
            cluster.share(),
            "-o",
            "json",
        ])?))
    })
}

/// A JSON document without a single entry in any list.
fn is_empty(document: &str) -> bool {
    fn entries(value: &Value) -> usize {
        match value {
            Value::Array(list) => list.len(),
            Value::Object(map) => map.values().map(entries).sum(),
            _ => 0,
        }
    }
    serde_json::from_str(document).is_ok_and(|value| entries(&value) == 0)
}

fn uninstall(cluster: &mut dyn Cluster, kubectl: &Kubectl) -> Result<()> {
    kubectl.delete("backuprepository", REPOSITORY)?;
    cluster.helm(&["uninstall", RELEASE, "-n", RELEASE_NAMESPACE])?;
    cluster.settle()?;
    for namespace in [kubectl.namespace(), RELEASE_NAMESPACE] {
        kubectl.delete("namespace", namespace)?;
    }
    let kinds = "volumebackups,backuprepositories,backupschedules";
    ensure!(kubectl.run(&["get", kinds]).is_err(), "the definitions of the chart are still there");
    let left =
        kubectl.run(&["get", "clusterroles,clusterrolebindings,csidrivers,storageclasses", "-o", "name"])?;
    ensure!(!left.contains("strata"), "left behind: {left}");
    cluster.finish()
}
