//! The cluster that KUBECONFIG names, with a kubelet, a scheduler and images of its own.

use crate::cluster::{Cluster, RELEASE_NAMESPACE, Store};
use crate::kubectl::{Kubectl, LIMIT, said};
use crate::objects;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where pods have their volume.
const AT: &str = "/data";

pub struct Real {
    kubectl: Kubectl,
    /// Of the chart's namespace.
    release: Kubectl,
    share: String,
    store: Store,
    image: String,
}

fn variable(name: &str, what: &str) -> Result<String> {
    std::env::var(name)
        .ok()
        .filter(|value| !value.is_empty())
        .with_context(|| format!("{name} is not set: {what}"))
}

impl Real {
    pub fn new() -> Result<Real> {
        let kubeconfig = PathBuf::from(variable("KUBECONFIG", "the cluster that Strata is installed into")?);
        let mark = &uuid::Uuid::new_v4().simple().to_string()[..8];
        let kubectl = Kubectl::new(&kubeconfig, &format!("e2e-{mark}"));
        let store = Store {
            endpoint: variable(
                "E2E_S3_ENDPOINT",
                "an S3 server that pods reach, such as http://10.0.0.5:9000",
            )?,
            bucket: variable("E2E_S3_BUCKET", "a bucket that is there; what the test puts there it removes")?,
            access_key: variable("AWS_ACCESS_KEY_ID", "the key of that bucket")?,
            secret_key: variable("AWS_SECRET_ACCESS_KEY", "the key of that bucket")?,
        };
        let share =
            variable("E2E_SHARE", "a GlusterFS volume for this test alone, HOST:/VOLUME, that nodes reach")?;
        let image = variable("E2E_IMAGE", "the driver's image, REPOSITORY:TAG, that nodes have or can pull")?;
        ensure!(image.contains(':'), "E2E_IMAGE={image} has no tag");
        let real = Real { release: kubectl.within(RELEASE_NAMESPACE), kubectl, share, store, image };
        real.check()?;
        Ok(real)
    }

    /// What would make the test fail late, or harm somebody.
    fn check(&self) -> Result<()> {
        let served =
            self.kubectl.run(&["api-resources", "--api-group=snapshot.storage.k8s.io", "-o", "name"])?;
        ensure!(
            served.contains("volumesnapshotcontents."),
            "the cluster has no VolumeSnapshots: install the CRDs and the snapshot controller of kubernetes-csi/external-snapshotter"
        );
        ensure!(
            self.kubectl.find("csidriver", "csi.strata.dev")?.is_none(),
            "Strata is installed in this cluster already: the test takes one that has none"
        );
        Ok(())
    }

    /// A pod's command, with its volume's place.
    fn shell(&self, pod: &str, script: &str) -> Command {
        self.kubectl.command(&[
            "exec",
            pod,
            "--",
            "env",
            &format!("{}={AT}", crate::cluster::DATA),
            "sh",
            "-c",
            script,
        ])
    }
}

impl Cluster for Real {
    fn describe(&self) -> String {
        let context = self.kubectl.run(&["config", "current-context"]).unwrap_or_default();
        format!(
            "The cluster {}: image {}, GlusterFS {}, S3 {}.",
            context.trim(),
            self.image,
            self.share,
            self.store.endpoint
        )
    }

    fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    fn store(&self) -> &Store {
        &self.store
    }

    fn values(&self) -> Value {
        let (repository, tag) = self.image.rsplit_once(':').expect("looked at in the beginning");
        let replicas = self.kubectl.list("node").map_or(1, |nodes| nodes.len().clamp(1, 2));
        let mut values = objects::values(&self.share);
        values["image"] = json!({"repository": repository, "tag": tag});
        values["controller"] = json!({"replicas": replicas});
        values
    }

    fn helm(&self, arguments: &[&str]) -> Result<String> {
        let helm = std::env::var_os("HELM").unwrap_or_else(|| "helm".into());
        let output =
            Command::new(helm).args(arguments).env("KUBECONFIG", self.kubectl.kubeconfig()).output()?;
        said(&format!("helm {}", arguments.join(" ")), output)
    }

    fn chart(&self) -> String {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/strata").display().to_string()
    }

    fn settle(&mut self) -> Result<()> {
        let limit = format!("--timeout={}s", LIMIT.as_secs());
        for (kind, objects) in
            [("deployment", self.release.list("deployment")?), ("daemonset", self.release.list("daemonset")?)]
        {
            for object in objects {
                // kubectl knows no end of a rollout that waits for somebody to delete pods.
                if object["spec"]["updateStrategy"]["type"] == "OnDelete" {
                    continue;
                }
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                self.release.run(&["rollout", "status", kind, name, &limit])?;
            }
        }
        Ok(())
    }

    fn incarnation(&self, component: &str) -> Result<String> {
        let selector = format!("app.kubernetes.io/name=strata,app.kubernetes.io/component={component}");
        let path = "jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[*].containerID}{\"\\n\"}{end}";
        self.release.run(&["get", "pods", "-l", &selector, "-o", path])
    }

    fn start_pod(&mut self, pod: &str, claim: &str) -> Result<()> {
        self.kubectl.apply(&json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": false,
                // Nobody else may write to a new filesystem.
                "securityContext": {"runAsUser": 0},
                // The driver's image is there, and has a shell with coreutils.
                "containers": [{
                    "name": "pod",
                    "image": self.image,
                    "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"],
                    "volumeMounts": [{"name": "data", "mountPath": AT}],
                }],
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
            },
        }))?;
        self.kubectl
            .wait("pod", pod, "running", |found| (found["status"]["phase"] == "Running").then_some(()))
    }

    fn end_pod(&mut self, pod: &str) -> Result<()> {
        self.kubectl.delete("pod", pod)
    }

    fn exec(&self, pod: &str, script: &str) -> Result<String> {
        said(&format!("in {pod}: {script}"), self.shell(pod, script).stdin(Stdio::null()).output()?)
    }

    fn exec_in_background(&self, pod: &str, script: &str) -> Result<Child> {
        let mut command = self.shell(pod, script);
        Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    }

    fn grown(&mut self, _pod: &str) -> Result<()> {
        // kubelet sees to it; the claim says when.
        Ok(())
    }

    fn strata(&self, arguments: &[&str]) -> Result<String> {
        let name = "app.kubernetes.io/component=data";
        let data =
            self.release.run(&["get", "pods", "-l", name, "-o", "jsonpath={.items[0].metadata.name}"])?;
        let keys = [
            format!("AWS_ACCESS_KEY_ID={}", self.store.access_key),
            format!("AWS_SECRET_ACCESS_KEY={}", self.store.secret_key),
            "AWS_REGION=us-east-1".to_owned(),
        ];
        // Privileged, for it mounts the share to look at it.
        let mut words = vec!["exec", data.as_str(), "--", "env"];
        words.extend(keys.iter().map(String::as_str));
        words.push("strata");
        self.release.run(&[&words[..], arguments].concat())
    }

    fn share(&self) -> &str {
        &self.share
    }

    fn finish(&mut self) -> Result<()> {
        // The release's namespace is gone: nothing of it runs.
        Ok(())
    }

    fn last_words(&self) -> String {
        let selector = "app.kubernetes.io/name=strata";
        let logs = self.release.run(&["logs", "-l", selector, "--all-containers", "--prefix", "--tail=15"]);
        logs.unwrap_or_else(|error| error.to_string())
    }
}
