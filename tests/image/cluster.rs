//! One node of a cluster: its folders, and the chart's containers on them.

use crate::calls::NODE;
use crate::container::{Container, Mount, Spec};
use crate::helm::render;
use crate::manifest::Manifest;
use crate::support::{gluster_share, need_root, run, scratch};
use crate::unpacked::Image;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Other tests may listen on the chart's own.
const AGENT_PORT: u16 = 19808;

/// A node. Whatever its containers have left mounted is unmounted when it is dropped.
pub struct Cluster {
    manifests: Vec<Manifest>,
    pub image: &'static Image,
    /// The share, as the chart takes it.
    pub share: String,
    folder: TempDir,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn string(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

impl Cluster {
    pub fn new() -> Cluster {
        need_root();
        let (image, share) = (Image::get(), gluster_share().to_string());
        let folder = scratch();
        let host = folder.path().join("h");
        for name in ["k", "s", "r", "tls", "logs"] {
            std::fs::create_dir_all(host.join(name)).unwrap();
        }
        // What containers mount spreads between them through this folder, as on a node.
        run("mount", &["--bind", &string(&host), &string(&host)]);
        run("mount", &["--make-shared", &string(&host)]);
        let set = [
            format!("shares[0].source={share}"),
            format!("kubeletDir={}", host.join("k").display()),
            format!("stateDir={}", host.join("s").display()),
            format!("runDir={}", host.join("r").display()),
            format!("node.agentPort={AGENT_PORT}"),
            "agentTLS.mode=existing,agentTLS.controllerSecret=controller,agentTLS.nodeSecret=node".to_owned(),
            // These two ask for an API server, or a network for each pod.
            "backup.enabled=false,metrics.enabled=false,controller.replicas=1".to_owned(),
            "log.format=text".to_owned(),
        ];
        let rendered = render(&[], &set.each_ref().map(String::as_str)).unwrap();
        let documents = rendered.split("\n---\n").filter(|part| part.contains("\nkind: "));
        let manifests = documents.map(|part| Manifest::parse(part.trim_start_matches("---\n"))).collect();
        let cluster = Cluster { manifests, image, share, folder };
        cluster.make_certificates();
        cluster
    }

    pub fn host(&self) -> PathBuf {
        self.folder.path().join("h")
    }

    /// A folder of the node for pods' volumes, under kubelet's own.
    pub fn pods(&self) -> PathBuf {
        self.host().join("k/pods")
    }

    /// A pod's emptyDir.
    pub fn empty_dir(&self, role: &str, name: &str) -> PathBuf {
        self.folder.path().join("empty").join(role).join(name)
    }

    /// By the image's program and as its user; what the operator makes Secrets of.
    fn make_certificates(&self) {
        let folder = self.folder.path().join("certs");
        std::fs::create_dir(&folder).unwrap();
        let user = self.image.config["User"].as_str().unwrap();
        run("chown", &[user, &string(&folder)]);
        let made = Spec {
            name: "certs".to_owned(),
            arguments: ["certs", "--dir", "/certs/all"].map(str::to_owned).into(),
            mounts: vec![mount(&folder, "/certs", "None", false)],
            read_only_root: true,
            ..Spec::default()
        };
        made.run(self.image);
        for role in ["controller", "node"] {
            let secret = self.host().join("tls").join(role);
            std::fs::create_dir(&secret).unwrap();
            for file in ["tls.crt", "tls.key", "ca.crt"] {
                let from = folder.join("all").join(role).join(file);
                run("install", &["-m", "0400", &string(&from), &string(&secret.join(file))]);
            }
        }
    }

    fn manifest(&self, role: &str) -> &Manifest {
        let name = format!("strata-{role}");
        let workload = |found: &&Manifest| found.name == name && found.kind != "ServiceAccount";
        let mut found = self.manifests.iter().filter(workload);
        found
            .find(|found| found.containers().next().is_some())
            .unwrap_or_else(|| panic!("no {name} in the chart"))
    }

    /// The chart's container of a role.
    pub fn spec(&self, role: &str) -> Spec {
        let manifest = self.manifest(role);
        let container = manifest.containers().find(|found| found.name() == role).unwrap();
        let security = container.at("/securityContext");
        let list = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
        let mounts = container.at("/volumeMounts");
        Spec {
            name: role.to_owned(),
            arguments: container.arguments(),
            environment: self.environment(&container.at("/env")),
            mounts: mounts
                .as_array()
                .unwrap()
                .iter()
                .map(|mount| self.mount(role, manifest, mount))
                .collect(),
            user: security["runAsUser"].as_u64(),
            privileged: security["privileged"] == true,
            capabilities: list(&security["capabilities"]["add"]),
            read_only_root: security["readOnlyRootFilesystem"] == true,
        }
    }

    fn environment(&self, variables: &Value) -> Vec<(String, String)> {
        let mut found: Vec<(String, String)> = Vec::new();
        for variable in variables.as_array().into_iter().flatten() {
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("spec.nodeName") => NODE.to_owned(),
                Some("status.podIP") => self.share.split(':').next().unwrap().to_owned(),
                Some("metadata.namespace") => "strata-system".to_owned(),
                Some(other) => panic!("fieldRef {other}"),
                None => found.iter().fold(text(&variable["value"]), |value, (name, known)| {
                    value.replace(&format!("$({name})"), known)
                }),
            };
            found.push((text(&variable["name"]), value));
        }
        found
    }

    /// Where kubelet would take a volume from.
    fn mount(&self, role: &str, manifest: &Manifest, wanted: &Value) -> Mount {
        let name = text(&wanted["name"]);
        let volumes = manifest.at("/spec/template/spec/volumes");
        let volume =
            volumes.as_array().unwrap().iter().find(|volume| volume["name"] == *name).unwrap().clone();
        let from = if let Some(path) = volume["hostPath"]["path"].as_str() {
            path.into()
        } else if let Some(secret) = volume["secret"]["secretName"].as_str() {
            self.host().join("tls").join(secret)
        } else if volume["configMap"]["name"].is_string() {
            self.config_map(&text(&volume["configMap"]["name"]))
        } else {
            assert!(volume["emptyDir"].is_object(), "{volume}");
            self.empty_dir(role, &name)
        };
        std::fs::create_dir_all(&from).unwrap();
        let propagation = wanted["mountPropagation"].as_str().unwrap_or("None");
        mount(&from, wanted["mountPath"].as_str().unwrap(), propagation, wanted["readOnly"] == true)
    }

    fn config_map(&self, name: &str) -> PathBuf {
        let folder = self.host().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let map =
            self.manifests.iter().find(|found| found.kind == "ConfigMap" && found.name == name).unwrap();
        for (file, contents) in map.at("/data").as_object().unwrap() {
            std::fs::write(folder.join(file), contents.as_str().unwrap()).unwrap();
        }
        folder
    }

    pub fn start(&self, spec: &Spec) -> Container {
        spec.start(self.image, &self.host().join("logs"))
    }

    /// The data plane, ready as its probe says.
    pub fn start_data(&self) -> Container {
        let container = self.manifest("data").containers().next().unwrap();
        let probe = container.at("/readinessProbe/exec/command");
        let words: Vec<String> = probe.as_array().unwrap().iter().map(text).collect();
        let mut data = self.start(&self.spec("data"));
        data.until("ready", |data| data.probe(&words));
        data
    }

    /// Where kubelet finds the node's CSI socket.
    pub fn node_socket(&self) -> PathBuf {
        self.host().join("k/plugins/csi.strata.dev/csi.sock")
    }

    /// Where the sidecars find the controller's.
    pub fn controller_socket(&self) -> PathBuf {
        self.empty_dir("controller", "socket").join("csi.sock")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Containers have ended; what a failed test left mounted has not.
        let _ = std::process::Command::new("umount").args(["-R", "-l"]).arg(self.host()).output();
    }
}

/// A mount that is no part of the chart.
pub fn mount(from: &Path, to: &str, propagation: &str, read_only: bool) -> Mount {
    Mount { from: from.to_owned(), to: to.into(), propagation: propagation.to_owned(), read_only }
}
