//! kubelet's part, as far as volumes go: it learns of the driver, and mounts what pods of this node ask for.

use super::machine::{ADDRESS, Machine};
use super::pod::NODE;
use super::registration;
use crate::kubectl::{Kubectl, eventually};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use strata::rpc::csi::node_client::NodeClient;
use strata::rpc::csi::node_service_capability::{Type as Kind, rpc::Type as Rpc};
use strata::rpc::csi::volume_capability::access_mode::Mode;
use strata::rpc::csi::volume_capability::{AccessMode, AccessType, MountVolume};
use strata::rpc::csi::*;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::{Response, Status};

/// kubelet's own limit for a call.
const CALL: Duration = Duration::from_secs(120);
const TRIES: Duration = Duration::from_secs(300);

pub struct Kubelet {
    runtime: Runtime,
    kubectl: Kubectl,
    folder: PathBuf,
    driver: Option<registration::Driver>,
    mode: Mode,
    volumes: HashMap<String, Mounted>,
}

/// A pod's volume.
#[derive(Clone)]
pub struct Mounted {
    pv: Value,
    staging: PathBuf,
    pub target: PathBuf,
}

impl Mounted {
    fn id(&self) -> String {
        self.pv["spec"]["csi"]["volumeHandle"].as_str().unwrap_or_default().to_owned()
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

impl Kubelet {
    pub fn new(kubectl: &Kubectl, machine: &Machine) -> Result<Kubelet> {
        Ok(Kubelet {
            runtime: Runtime::new()?,
            kubectl: kubectl.clone(),
            folder: machine.path("kubelet"),
            driver: None,
            mode: Mode::SingleNodeWriter,
            volumes: HashMap::new(),
        })
    }

    /// Says that this node is there.
    pub fn join(&self) -> Result<()> {
        self.kubectl.apply(&json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": NODE,
                "labels": {"kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux"},
                "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
            },
            "status": {"addresses": [{"type": "InternalIP", "address": ADDRESS}]},
        }))
    }

    /// Takes up the driver that the registrar tells of, as kubelet's plugin watcher does.
    pub fn register(&mut self) -> Result<()> {
        let driver = self.runtime.block_on(registration::register(&self.folder.join("plugins_registry")))?;
        self.driver = Some(driver.clone());
        let info = self.call("NodeGetInfo", |channel| async move {
            NodeClient::new(channel).node_get_info(NodeGetInfoRequest {}).await
        })?;
        let able = self.call("NodeGetCapabilities", |channel| async move {
            NodeClient::new(channel).node_get_capabilities(NodeGetCapabilitiesRequest {}).await
        })?;
        let multi = |capability: &NodeServiceCapability| matches!(&capability.r#type, Some(Kind::Rpc(rpc)) if rpc.r#type() == Rpc::SingleNodeMultiWriter);
        if able.capabilities.iter().any(multi) {
            self.mode = Mode::SingleNodeMultiWriter;
        }
        let count = match info.max_volumes_per_node {
            0 => Value::Null,
            count => json!({"count": count}),
        };
        self.kubectl.apply(&json!({
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSINode",
            "metadata": {"name": NODE},
            "spec": {"drivers": [{"name": driver.name, "nodeID": info.node_id, "topologyKeys": [], "allocatable": count}]},
        }))
    }

    /// Forgets a driver that was removed.
    pub fn leave(&mut self) -> Result<()> {
        self.driver = None;
        self.kubectl.delete("csinode", NODE)?;
        self.kubectl.delete("node", NODE)
    }

    pub fn start_pod(&mut self, pod: &str, claim: &str) -> Result<()> {
        self.kubectl.apply(&json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod},
            "spec": {
                "nodeName": NODE,
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false,
                "containers": [{"name": "pod", "image": "none", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
            },
        }))?;
        let uid = self.kubectl.get("pod", pod)?["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let bound = |claim: &Value| claim["spec"]["volumeName"].as_str().map(str::to_owned);
        let name = self.kubectl.wait("pvc", claim, "bound", bound)?;
        let pv = self.kubectl.get("pv", &name)?;
        let handle = pv["spec"]["csi"]["volumeHandle"].as_str().context("a volume of CSI")?;
        let driver = pv["spec"]["csi"]["driver"].as_str().context("a volume of CSI")?;
        let hash: String = Sha256::digest(handle).iter().map(|byte| format!("{byte:02x}")).collect();
        let mounted = Mounted {
            staging: self
                .folder
                .join("plugins/kubernetes.io/csi")
                .join(driver)
                .join(hash)
                .join("globalmount"),
            target: self
                .folder
                .join("pods")
                .join(&uid)
                .join("volumes/kubernetes.io~csi")
                .join(&name)
                .join("mount"),
            pv,
        };
        let context = self.attached(&name)?;
        self.mount(&mounted, context)?;
        self.volumes.insert(pod.to_owned(), mounted);
        Ok(())
    }

    /// Waits until the attach-detach controller and the attacher have done theirs; what the driver says of it.
    fn attached(&self, pv: &str) -> Result<HashMap<String, String>> {
        let mut context = HashMap::new();
        eventually(&format!("{pv} is attached"), || {
            let found = self.attachment(pv)?.filter(|found| found["status"]["attached"] == true);
            let Some(found) = found else { return Ok(false) };
            for (key, value) in found["status"]["attachmentMetadata"].as_object().into_iter().flatten() {
                context.insert(key.clone(), value.as_str().unwrap_or_default().to_owned());
            }
            Ok(true)
        })?;
        Ok(context)
    }

    fn attachment(&self, pv: &str) -> Result<Option<Value>> {
        let all = self.kubectl.list("volumeattachment")?;
        Ok(all.into_iter().find(|found| found["spec"]["source"]["persistentVolumeName"] == *pv))
    }

    fn capability(&self, pv: &Value) -> VolumeCapability {
        let options = pv["spec"]["mountOptions"].as_array().into_iter().flatten();
        let mount = MountVolume {
            fs_type: pv["spec"]["csi"]["fsType"].as_str().unwrap_or_default().to_owned(),
            mount_flags: options.filter_map(|option| Some(option.as_str()?.to_owned())).collect(),
            ..Default::default()
        };
        VolumeCapability {
            access_mode: Some(AccessMode { mode: self.mode.into() }),
            access_type: Some(AccessType::Mount(mount)),
        }
    }

    fn mount(&self, volume: &Mounted, publish_context: HashMap<String, String>) -> Result<()> {
        fs::create_dir_all(&volume.staging)?;
        fs::create_dir_all(volume.target.parent().context("a target has a parent")?)?;
        let attributes = volume.pv["spec"]["csi"]["volumeAttributes"].as_object().into_iter().flatten();
        let volume_context: HashMap<String, String> = attributes
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect();
        let capability = Some(self.capability(&volume.pv));
        let stage = NodeStageVolumeRequest {
            volume_id: volume.id(),
            staging_target_path: text(&volume.staging),
            volume_capability: capability.clone(),
            publish_context: publish_context.clone(),
            volume_context: volume_context.clone(),
            ..Default::default()
        };
        self.call("NodeStageVolume", |channel| {
            let request = stage.clone();
            async move { NodeClient::new(channel).node_stage_volume(request).await }
        })?;
        let publish = NodePublishVolumeRequest {
            volume_id: volume.id(),
            staging_target_path: text(&volume.staging),
            target_path: text(&volume.target),
            volume_capability: capability,
            publish_context,
            volume_context,
            ..Default::default()
        };
        self.call("NodePublishVolume", |channel| {
            let request = publish.clone();
            async move { NodeClient::new(channel).node_publish_volume(request).await }
        })?;
        Ok(())
    }

    pub fn end_pod(&mut self, pod: &str) -> Result<()> {
        let volume = self.volumes.remove(pod).context("such a pod runs")?;
        let unpublish =
            NodeUnpublishVolumeRequest { volume_id: volume.id(), target_path: text(&volume.target) };
        self.call("NodeUnpublishVolume", |channel| {
            let request = unpublish.clone();
            async move { NodeClient::new(channel).node_unpublish_volume(request).await }
        })?;
        let unstage =
            NodeUnstageVolumeRequest { volume_id: volume.id(), staging_target_path: text(&volume.staging) };
        self.call("NodeUnstageVolume", |channel| {
            let request = unstage.clone();
            async move { NodeClient::new(channel).node_unstage_volume(request).await }
        })?;
        self.kubectl.run(&["delete", "pod", pod, "--grace-period=0", "--force"])?;
        let name = volume.pv["metadata"]["name"].as_str().unwrap_or_default();
        eventually(&format!("{name} is detached"), || Ok(self.attachment(name)?.is_none()))
    }

    pub fn volume(&self, pod: &str) -> Result<&Mounted> {
        self.volumes.get(pod).with_context(|| format!("no pod {pod} runs"))
    }

    /// Grows the filesystem once the resizer has asked for it, and says so.
    pub fn grow(&self, pod: &str) -> Result<()> {
        let volume = self.volume(pod)?;
        let claim = volume.pv["spec"]["claimRef"]["name"].as_str().context("a bound volume")?;
        let pending = |claim: &Value| {
            let conditions = claim["status"]["conditions"].as_array()?;
            conditions
                .iter()
                .any(|condition| condition["type"] == "FileSystemResizePending")
                .then(|| claim.clone())
        };
        let mut object = self.kubectl.wait("pvc", claim, "to be grown on the node", pending)?;
        let size = self.kubectl.get("pv", volume.pv["metadata"]["name"].as_str().unwrap_or_default())?["spec"]["capacity"]["storage"].clone();
        let expand = NodeExpandVolumeRequest {
            volume_id: volume.id(),
            volume_path: text(&volume.target),
            staging_target_path: text(&volume.staging),
            capacity_range: Some(CapacityRange { required_bytes: bytes(&size)?, limit_bytes: 0 }),
            volume_capability: Some(self.capability(&volume.pv)),
            ..Default::default()
        };
        self.call("NodeExpandVolume", |channel| {
            let request = expand.clone();
            async move { NodeClient::new(channel).node_expand_volume(request).await }
        })?;
        object["status"] = json!({"phase": "Bound", "accessModes": object["status"]["accessModes"], "capacity": {"storage": size}});
        let path =
            format!("/api/v1/namespaces/{}/persistentvolumeclaims/{claim}/status", self.kubectl.namespace());
        self.kubectl.feed(&["replace", "--raw", &path, "-f", "-"], &object.to_string()).map(drop)
    }

    /// Makes a call until it succeeds, as kubelet does after any error.
    fn call<T, F>(&self, what: &str, call: impl Fn(Channel) -> F) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let driver = self.driver.as_ref().context("no driver has been registered")?;
        let deadline = Instant::now() + TRIES;
        let mut wait = Duration::from_millis(500);
        loop {
            let answer = self.runtime.block_on(async {
                let channel = strata::rpc::uds::channel(&driver.socket)
                    .map_err(|error| Status::unavailable(error.to_string()))?;
                let limited = tokio::time::timeout(CALL, call(channel)).await;
                limited.unwrap_or_else(|_| Err(Status::deadline_exceeded("kubelet's own limit")))
            });
            match answer {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) if Instant::now() > deadline => bail!("{what}: {status:?}"),
                Err(status) => {
                    println!("     {what} is tried again: {:?}: {}", status.code(), status.message())
                }
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(Duration::from_secs(10));
        }
    }
}

/// A quantity as the provisioner and the resizer write it.
fn bytes(quantity: &Value) -> Result<i64> {
    let text = quantity.as_str().context("a quantity")?;
    let scale = [("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    for (unit, factor) in scale {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<i64>()? * factor);
        }
    }
    Ok(text.parse()?)
}
