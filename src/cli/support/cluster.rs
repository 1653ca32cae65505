//! What Kubernetes' API tells, with the rights of whoever asks. Secrets and ConfigMaps are never asked for.

use crate::kube::list_all;
use ::kube::api::{Api, DynamicObject, ListParams, LogParams};
use ::kube::core::{ApiResource, GroupVersionKind};
use ::kube::{Client, ResourceExt};
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::timeout;

/// Bytes of one container's log.
const LOG: i64 = 4 << 20;

/// Whose objects, and where.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub driver: String,
    /// The namespace that Strata runs in.
    pub namespace: Option<String>,
    /// Lines of each container's log.
    pub lines: u32,
    /// For each request.
    pub limit: Duration,
}

/// One file of the bundle, or why there is none.
pub(super) enum Part {
    Json(String, Result<Value, String>),
    Text(String, Result<String, String>),
}

/// Which objects of a kind belong in.
type Keep = fn(&Value, &str, &Known) -> bool;

/// Objects that others are told by.
#[derive(Default)]
struct Known {
    /// `NAMESPACE/NAME` of claims.
    claims: BTreeSet<String>,
    classes: BTreeSet<String>,
    contents: BTreeSet<String>,
}

struct Kind {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    keep: Keep,
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn full_name(object: &Value) -> String {
    format!("{}/{}", text(object, "/metadata/namespace"), text(object, "/metadata/name"))
}

const fn kind(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    keep: Keep,
) -> Kind {
    Kind { group, version, kind, plural, keep }
}

/// In an order in which the ones that others are told by come first.
const KINDS: [Kind; 15] = [
    kind("strata.dev", "v1alpha1", "BackupRepository", "backuprepositories", |_, _, _| true),
    kind("strata.dev", "v1alpha1", "VolumeBackup", "volumebackups", |_, _, _| true),
    kind("strata.dev", "v1alpha1", "BackupSchedule", "backupschedules", |_, _, _| true),
    kind("storage.k8s.io", "v1", "CSIDriver", "csidrivers", |o, driver, _| {
        text(o, "/metadata/name") == driver
    }),
    kind("storage.k8s.io", "v1", "CSINode", "csinodes", |_, _, _| true),
    kind("storage.k8s.io", "v1", "StorageClass", "storageclasses", |o, driver, _| {
        text(o, "/provisioner") == driver
    }),
    kind("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", |o, driver, _| {
        text(o, "/spec/attacher") == driver
    }),
    kind("", "v1", "PersistentVolume", "persistentvolumes", |o, driver, _| {
        text(o, "/spec/csi/driver") == driver
    }),
    kind("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", |o, _, known| {
        known.claims.contains(&full_name(o)) || known.classes.contains(text(o, "/spec/storageClassName"))
    }),
    kind("snapshot.storage.k8s.io", "v1", "VolumeSnapshotClass", "volumesnapshotclasses", |o, driver, _| {
        text(o, "/driver") == driver
    }),
    kind(
        "snapshot.storage.k8s.io",
        "v1",
        "VolumeSnapshotContent",
        "volumesnapshotcontents",
        |o, driver, _| text(o, "/spec/driver") == driver,
    ),
    kind("snapshot.storage.k8s.io", "v1", "VolumeSnapshot", "volumesnapshots", |o, _, known| {
        known.contents.contains(text(o, "/status/boundVolumeSnapshotContentName"))
            || known.claims.contains(&format!(
                "{}/{}",
                text(o, "/metadata/namespace"),
                text(o, "/spec/source/persistentVolumeClaimName")
            ))
    }),
    kind("", "v1", "Node", "nodes", |_, _, _| true),
    kind("coordination.k8s.io", "v1", "Lease", "leases", |_, _, _| true),
    kind("", "v1", "Event", "events", |o, _, _| {
        let about = text(o, "/involvedObject/kind");
        let kinds = [
            "PersistentVolume",
            "PersistentVolumeClaim",
            "VolumeSnapshot",
            "VolumeSnapshotContent",
            "VolumeBackup",
            "BackupRepository",
            "BackupSchedule",
            "VolumeAttachment",
        ];
        kinds.contains(&about)
    }),
];

impl Known {
    fn learn(&mut self, kind: &str, objects: &[Value]) {
        let names = || objects.iter().map(|object| text(object, "/metadata/name").to_owned());
        match kind {
            "StorageClass" => self.classes.extend(names()),
            "VolumeSnapshotContent" => self.contents.extend(names()),
            "PersistentVolume" => self.claims.extend(objects.iter().map(|object| {
                format!(
                    "{}/{}",
                    text(object, "/spec/claimRef/namespace"),
                    text(object, "/spec/claimRef/name")
                )
            })),
            _ => {}
        }
    }
}

/// Everything, part by part: each is handed over as soon as it is there.
pub(super) async fn collect(client: &Client, wanted: &Wanted, mut take: impl FnMut(Part)) {
    let version = within(wanted.limit, client.apiserver_version()).await;
    let version =
        version.and_then(|version| serde_json::to_value(version).map_err(|error| error.to_string()));
    take(Part::Json("kubernetes/version.json".to_owned(), version));
    let mut known = Known::default();
    for kind in &KINDS {
        let path = format!("kubernetes/{}.json", kind.plural);
        // Others' leases say nothing of us.
        let namespace = wanted.namespace.as_deref().filter(|_| kind.kind == "Lease");
        if kind.kind == "Lease" && namespace.is_none() {
            continue;
        }
        let mut found = list(client, wanted, kind, namespace).await;
        if let Ok(objects) = &mut found {
            objects.retain(|object| (kind.keep)(object, &wanted.driver, &known));
            known.learn(kind.kind, objects);
        }
        take(Part::Json(path, found.map(Value::Array)));
    }
    if let Some(namespace) = &wanted.namespace {
        own_namespace(client, wanted, namespace, &mut take).await;
    }
}

async fn within<T>(limit: Duration, asked: impl Future<Output = ::kube::Result<T>>) -> Result<T, String> {
    match timeout(limit, asked).await {
        Ok(answer) => answer.map_err(|error| crate::kube::said(&error)),
        Err(_) => Err(format!("the API did not answer within {} s", limit.as_secs())),
    }
}

async fn list(
    client: &Client,
    wanted: &Wanted,
    kind: &Kind,
    namespace: Option<&str>,
) -> Result<Vec<Value>, String> {
    let gvk = GroupVersionKind::gvk(kind.group, kind.version, kind.kind);
    let resource = ApiResource::from_gvk_with_plural(&gvk, kind.plural);
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let found = within(wanted.limit, list_all(&api, &ListParams::default())).await?;
    found.iter().map(|object| serde_json::to_value(object).map_err(|error| error.to_string())).collect()
}

/// What runs where Strata does, and what it says.
async fn own_namespace(client: &Client, wanted: &Wanted, namespace: &str, take: &mut impl FnMut(Part)) {
    let everything: Keep = |_, _, _| true;
    for kind in [
        kind("apps", "v1", "Deployment", "deployments", everything),
        kind("apps", "v1", "DaemonSet", "daemonsets", everything),
        kind("", "v1", "Pod", "pods", everything),
        kind("", "v1", "Event", "events", everything),
    ] {
        let found = list(client, wanted, &kind, Some(namespace)).await;
        if kind.kind == "Pod" {
            for pod in found.iter().flatten() {
                if let Ok(pod) = serde_json::from_value::<Pod>(pod.clone()) {
                    logs(client, wanted, namespace, &pod, take).await;
                }
            }
        }
        take(Part::Json(format!("kubernetes/{namespace}/{}.json", kind.plural), found.map(Value::Array)));
    }
}

/// The logs of each container, and of the one before it where it was restarted.
async fn logs(client: &Client, wanted: &Wanted, namespace: &str, pod: &Pod, take: &mut impl FnMut(Part)) {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let status = pod.status.clone().unwrap_or_default();
    let restarted = |name: &str| {
        let mut all = status.container_statuses.iter().flatten();
        all.any(|container| container.name == name && container.restart_count > 0)
    };
    let spec = pod.spec.clone().unwrap_or_default();
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        for previous in [false, true] {
            if previous && !restarted(&container.name) {
                continue;
            }
            let parameters = LogParams {
                container: Some(container.name.clone()),
                previous,
                tail_lines: Some(wanted.lines.into()),
                limit_bytes: Some(LOG),
                timestamps: true,
                ..LogParams::default()
            };
            let name = pod.name_any();
            let said = within(wanted.limit, api.logs(&name, &parameters)).await;
            let mark = if previous { "-previous" } else { "" };
            take(Part::Text(format!("logs/{name}/{}{mark}.log", container.name), said));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kept(kind: &str, object: &Value, known: &Known) -> bool {
        let kind = KINDS.iter().find(|other| other.kind == kind).unwrap();
        (kind.keep)(object, "ours", known)
    }

    #[test]
    fn others_objects_stay_out() {
        let mut known = Known::default();
        let volume = |driver: &str| {
            json!({"metadata": {"name": "pv"}, "spec": {"csi": {"driver": driver},
                "claimRef": {"namespace": "shop", "name": "data"}}})
        };
        assert!(kept("PersistentVolume", &volume("ours"), &known));
        assert!(!kept("PersistentVolume", &volume("theirs"), &known));
        let claim = json!({"metadata": {"namespace": "shop", "name": "data"}});
        assert!(!kept("PersistentVolumeClaim", &claim, &known));
        known.learn("PersistentVolume", &[volume("ours")]);
        assert!(kept("PersistentVolumeClaim", &claim, &known));
        let snapshot =
            json!({"metadata": {"namespace": "shop"}, "status": {"boundVolumeSnapshotContentName": "c"}});
        assert!(!kept("VolumeSnapshot", &snapshot, &known));
        known.learn("VolumeSnapshotContent", &[json!({"metadata": {"name": "c"}})]);
        assert!(kept("VolumeSnapshot", &snapshot, &known));
        assert!(!kept("Event", &json!({"involvedObject": {"kind": "Secret"}}), &known));
        assert!(KINDS.iter().all(|kind| !["Secret", "ConfigMap"].contains(&kind.kind)));
    }
}
