//! Kubernetes objects for volumes and snapshots that are there already: static provisioning (K8).

use crate::cli::driver::args::DRIVER;
use crate::volume::{SnapshotView, VolumeView};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

/// How the objects are to look.
#[derive(Clone, Debug, Args)]
pub(super) struct ManifestArgs {
    /// Print the Kubernetes objects for it, ready for `kubectl apply -f -`: PersistentVolume and claim, and for each
    /// snapshot a VolumeSnapshotContent and VolumeSnapshot. All keep their data when they are deleted.
    #[arg(long)]
    pub manifest: bool,
    /// The claim's namespace.
    #[arg(long, value_name = "NAME", default_value = "default", requires = "manifest")]
    namespace: String,
    /// The claim's name [default: strata-<volume-id>].
    #[arg(long, value_name = "NAME", requires = "manifest")]
    claim: Option<String>,
    /// How pods see the volume.
    #[arg(long, value_enum, default_value_t, requires = "manifest")]
    volume_mode: Mode,
    /// The filesystem that is on it, if pods mount it.
    #[arg(long, value_name = "TYPE", default_value = "ext4", requires = "manifest")]
    fs_type: String,
    /// The driver's name.
    #[arg(long, value_name = "NAME", default_value = DRIVER, requires = "manifest")]
    driver: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// As a mounted filesystem.
    #[default]
    Filesystem,
    /// As a raw block device.
    Block,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::Filesystem => "Filesystem",
            Mode::Block => "Block",
        }
    }
}

impl ManifestArgs {
    /// One object each.
    pub fn objects(&self, volume: &VolumeView, snapshots: &[SnapshotView]) -> Vec<Value> {
        let id = volume.handle.volume;
        let (name, namespace, driver) = (format!("strata-{id}"), &self.namespace, &self.driver);
        let claim = self.claim.clone().unwrap_or_else(|| name.clone());
        let mode = self.volume_mode.name();
        // Kubernetes wants a whole number; sizes are whole GiB.
        let storage = format!("{}Gi", volume.capacity >> 30);
        let mut csi = json!({"driver": driver, "volumeHandle": volume.handle.to_string()});
        if self.volume_mode == Mode::Filesystem {
            csi["fsType"] = json!(self.fs_type);
        }
        let mut objects = vec![
            json!({
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": driver}},
                "spec": {
                    "capacity": {"storage": storage},
                    "accessModes": ["ReadWriteOnce"],
                    "volumeMode": mode,
                    "persistentVolumeReclaimPolicy": "Retain",
                    "storageClassName": "",
                    "claimRef": {
                        "apiVersion": "v1",
                        "kind": "PersistentVolumeClaim",
                        "namespace": namespace,
                        "name": claim,
                    },
                    "csi": csi,
                },
            }),
            json!({
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"namespace": namespace, "name": claim},
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "volumeMode": mode,
                    "storageClassName": "",
                    "volumeName": name,
                    "resources": {"requests": {"storage": storage}},
                },
            }),
        ];
        for snapshot in snapshots {
            let name = format!("strata-{}", snapshot.handle.snapshot);
            objects.push(json!({
                "apiVersion": "snapshot.storage.k8s.io/v1",
                "kind": "VolumeSnapshotContent",
                "metadata": {"name": name},
                "spec": {
                    "driver": driver,
                    "deletionPolicy": "Retain",
                    "sourceVolumeMode": mode,
                    "source": {"snapshotHandle": snapshot.handle.to_string()},
                    "volumeSnapshotRef": {"namespace": namespace, "name": name},
                },
            }));
            objects.push(json!({
                "apiVersion": "snapshot.storage.k8s.io/v1",
                "kind": "VolumeSnapshot",
                "metadata": {"namespace": namespace, "name": name},
                "spec": {"source": {"volumeSnapshotContentName": name}},
            }));
        }
        objects
    }
}

/// The objects as documents of YAML.
pub(super) fn yaml(objects: &[Value]) -> String {
    let mut text = String::new();
    for object in objects {
        text.push_str("---\n");
        write_yaml(&mut text, object, 0);
    }
    text
}

/// Objects, lists and scalars on lines of their own. A JSON string is a YAML string, too.
fn write_yaml(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    let mut item = |lead: String, value: &Value| {
        text.push_str(&lead);
        match value {
            Value::Object(_) | Value::Array(_) => {
                text.push('\n');
                write_yaml(text, value, depth + 1);
            }
            scalar => text.push_str(&format!(" {scalar}\n")),
        }
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| item(format!("{indent}{key}:"), value)),
        Value::Array(list) => list.iter().for_each(|value| item(format!("{indent}-"), value)),
        scalar => item(indent.clone(), scalar),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_is_indented_and_strings_are_quoted() {
        let text = yaml(&[json!({"a": {"b": ["x: y", 1], "c": ""}}), json!({"d": true})]);
        assert_eq!(text, "---\na:\n  b:\n    - \"x: y\"\n    - 1\n  c: \"\"\n---\nd: true\n");
    }
}
