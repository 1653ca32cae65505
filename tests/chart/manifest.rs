//! One object of a manifest.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// An object, and what it is.
pub struct Manifest {
    pub kind: String,
    pub name: String,
    api: String,
    value: Value,
}

/// A container of a pod template.
pub struct Container<'a>(&'a Value);

impl Manifest {
    pub fn parse(text: &str) -> Manifest {
        let value: Value = serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let text = |at: &str| value.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        Manifest { kind: text("/kind"), name: text("/metadata/name"), api: text("/apiVersion"), value }
    }

    pub fn at(&self, pointer: &str) -> Value {
        self.value.pointer(pointer).cloned().unwrap_or_default()
    }

    pub fn containers(&self) -> impl Iterator<Item = Container<'_>> {
        let found = self.value.pointer("/spec/template/spec/containers").and_then(Value::as_array);
        found.into_iter().flatten().map(Container)
    }

    /// The path on the host of one of the pod template's volumes.
    pub fn host_path(&self, volume: &Value) -> Option<String> {
        let volumes = self.value.pointer("/spec/template/spec/volumes").and_then(Value::as_array)?;
        let found = volumes.iter().find(|found| found["name"] == *volume)?;
        found["hostPath"]["path"].as_str().map(str::to_owned)
    }

    /// The names of the pod template's volumes.
    pub fn volumes(&self) -> BTreeSet<String> {
        let found = self.value.pointer("/spec/template/spec/volumes").and_then(Value::as_array);
        found.into_iter().flatten().map(|volume| volume["name"].as_str().unwrap().to_owned()).collect()
    }
}

impl Container<'_> {
    pub fn at(&self, pointer: &str) -> Value {
        self.0.pointer(pointer).cloned().unwrap_or_default()
    }
    pub fn name(&self) -> String {
        self.0["name"].as_str().unwrap().to_owned()
    }
    pub fn image(&self) -> String {
        self.0["image"].as_str().unwrap().to_owned()
    }
    pub fn arguments(&self) -> Vec<String> {
        self.0["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    }
    /// What the kubelet runs to see whether it lives.
    pub fn liveness_command(&self) -> Option<Vec<String>> {
        let words = self.0.pointer("/livenessProbe/exec/command")?.as_array()?;
        Some(words.iter().map(|word| word.as_str().unwrap().to_owned()).collect())
    }
    /// What an argument `--name=VALUE` says.
    pub fn argument(&self, name: &str) -> Option<String> {
        let lead = format!("--{name}=");
        self.arguments().iter().find_map(|word| word.strip_prefix(&lead).map(str::to_owned))
    }
    /// The mount that a path of the container lies in: the deepest one.
    pub fn mount_of(&self, path: &str) -> Option<Value> {
        let mounts = self.0["volumeMounts"].as_array().into_iter().flatten();
        let around = mounts.filter(|mount| Path::new(path).starts_with(mount["mountPath"].as_str().unwrap()));
        around.max_by_key(|mount| mount["mountPath"].as_str().unwrap().len()).cloned()
    }
    pub fn mounts(&self) -> Vec<String> {
        let found = self.0["volumeMounts"].as_array().into_iter().flatten();
        found.map(|mount| mount["name"].as_str().unwrap().to_owned()).collect()
    }
}

/// Reads an object into Kubernetes' own type, and refuses a field that the type does not have.
pub fn strict(manifest: &Manifest) -> Result<(), String> {
    let value = &manifest.value;
    match (manifest.api.as_str(), manifest.kind.as_str()) {
        ("v1", "ConfigMap") => typed::<ConfigMap>(value),
        ("v1", "Secret") => typed::<Secret>(value),
        ("v1", "ServiceAccount") => typed::<ServiceAccount>(value),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => typed::<CustomResourceDefinition>(value),
        ("apps/v1", "DaemonSet") => typed::<DaemonSet>(value),
        ("apps/v1", "Deployment") => typed::<Deployment>(value),
        ("networking.k8s.io/v1", "NetworkPolicy") => typed::<NetworkPolicy>(value),
        ("policy/v1", "PodDisruptionBudget") => typed::<PodDisruptionBudget>(value),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => typed::<ClusterRole>(value),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => typed::<ClusterRoleBinding>(value),
        ("rbac.authorization.k8s.io/v1", "Role") => typed::<Role>(value),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => typed::<RoleBinding>(value),
        ("storage.k8s.io/v1", "CSIDriver") => typed::<CSIDriver>(value),
        ("storage.k8s.io/v1", "StorageClass") => typed::<StorageClass>(value),
        ("v1", "Service") => typed::<Service>(value),
        // Of other projects: their top level is held to what their CRDs have.
        ("snapshot.storage.k8s.io/v1", "VolumeSnapshotClass") => {
            only(value, &["apiVersion", "kind", "metadata", "driver", "deletionPolicy", "parameters"])
        }
        ("cert-manager.io/v1", "Issuer" | "Certificate")
        | ("monitoring.coreos.com/v1", "ServiceMonitor" | "PrometheusRule") => {
            only(value, &["apiVersion", "kind", "metadata", "spec"])
        }
        (api, kind) => Err(format!("no such kind: {api} {kind}")),
    }
}

fn typed<T: DeserializeOwned>(value: &Value) -> Result<(), String> {
    let mut unknown = Vec::new();
    serde_ignored::deserialize::<_, _, T>(value, |path| unknown.push(path.to_string()))
        .map_err(|error| error.to_string())?;
    if unknown.is_empty() { Ok(()) } else { Err(format!("unknown fields: {}", unknown.join(", "))) }
}

fn only(value: &Value, known: &[&str]) -> Result<(), String> {
    let keys = value.as_object().ok_or("no object")?.keys();
    let unknown: Vec<&String> = keys.filter(|key| !known.contains(&key.as_str())).collect();
    if unknown.is_empty() { Ok(()) } else { Err(format!("unknown fields: {unknown:?}")) }
}
