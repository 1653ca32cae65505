//! What the scenario's operator writes.

use crate::cluster::{RELEASE_NAMESPACE, Store};
use serde_json::{Value, json};

/// The StorageClass and the VolumeSnapshotClass.
pub const CLASS: &str = "strata-e2e";
pub const REPOSITORY: &str = "strata-e2e";
pub const KEYS: &str = "strata-e2e-keys";

/// What the chart is told in every cluster.
pub fn values(share: &str) -> Value {
    json!({
        "shares": [{"source": share}],
        "log": {"format": "text"},
        "storageClass": {"name": CLASS},
        "volumeSnapshotClass": {"name": CLASS, "parameters": {"strata.dev/repository": REPOSITORY}},
        "backup": {"secrets": [KEYS]},
        "crds": {"keep": false},
    })
}

pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

pub fn keys(store: &Store) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": KEYS, "namespace": RELEASE_NAMESPACE},
        "stringData": {"AWS_ACCESS_KEY_ID": store.access_key, "AWS_SECRET_ACCESS_KEY": store.secret_key},
    })
}

pub fn repository(store: &Store, namespace: &str) -> Value {
    json!({
        "apiVersion": "strata.dev/v1alpha1",
        "kind": "BackupRepository",
        "metadata": {"name": REPOSITORY},
        "spec": {
            "s3": {
                "endpoint": store.endpoint,
                "bucket": store.bucket,
                "prefix": namespace,
                "region": "us-east-1",
                "secretRef": {"name": KEYS},
            },
            "allowedNamespaces": [namespace],
        },
    })
}

/// A claim of some GiB, of what a source says if there is one: `kind/name`.
pub fn claim(name: &str, gib: u32, source: Option<(&str, &str)>) -> Value {
    let mut claim = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "labels": {"app": "e2e"}},
        "spec": {
            "storageClassName": CLASS,
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": format!("{gib}Gi")}},
        },
    });
    if let Some((kind, source)) = source {
        claim["spec"]["dataSource"] = json!({"kind": kind, "name": source});
        if kind == "VolumeSnapshot" {
            claim["spec"]["dataSource"]["apiGroup"] = "snapshot.storage.k8s.io".into();
        }
    }
    claim
}

pub fn snapshot(name: &str, claim: &str) -> Value {
    json!({
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": {"name": name},
        "spec": {"volumeSnapshotClassName": CLASS, "source": {"persistentVolumeClaimName": claim}},
    })
}

/// The content and the snapshot that stand for a backup.
pub fn of_backup(name: &str, namespace: &str, driver: &str, handle: &str) -> [Value; 2] {
    let content = json!({
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshotContent",
        "metadata": {"name": format!("{namespace}-{name}")},
        "spec": {
            // It must not count: no deletion of such an object removes a backup.
            "deletionPolicy": "Delete",
            "driver": driver,
            "source": {"snapshotHandle": handle},
            "sourceVolumeMode": "Filesystem",
            "volumeSnapshotRef": {"namespace": namespace, "name": name},
        },
    });
    let snapshot = json!({
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": {"name": name},
        "spec": {"source": {"volumeSnapshotContentName": format!("{namespace}-{name}")}},
    });
    [content, snapshot]
}
