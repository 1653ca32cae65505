//! A cluster of host processes: a real API server and real controllers, the chart installed by the real Helm, and what
//! its pods would run as processes with the same arguments, mounts, rights, addresses and tokens. This test plays
//! kubelet, the scheduler and the controllers of Deployments and DaemonSets; there are no container images.

mod container;
mod http;
mod kubelet;
mod machine;
mod pod;
mod programs;
mod registration;
mod workloads;

use crate::apiserver::{ApiServer, Controllers};
use crate::cluster::{Cluster, DATA, RELEASE_NAMESPACE, Store};
use crate::kubectl::{Kubectl, eventually, said};
use crate::objects;
use anyhow::{Context, Result, bail, ensure};
use kubelet::Kubelet;
use machine::{ADDRESS, Machine};
use pod::Api;
use programs::{IMAGE, Programs};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use workloads::Workloads;

const S3_PORT: u16 = 5000;
/// What a chart for newer clusters cannot have on an old one.
const OLD: &str = "Kubernetes before 1.29 is older than the chart allows: it is installed with that check removed, without its \
     PodDisruptionBudget, and without the fields that are newer than this API";

pub struct Hosts {
    kubectl: Kubectl,
    kubelet: Kubelet,
    workloads: Workloads,
    others: Vec<Other>,
    controllers: Controllers,
    server: ApiServer,
    share: String,
    store: Store,
    chart: PathBuf,
    old: bool,
    version: String,
    // Last: all of the above runs on it.
    machine: Machine,
    _runtime: tokio::runtime::Runtime,
}

/// A program beside the chart, ended when dropped.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Hosts {
    pub fn start() -> Result<Hosts> {
        let share =
            std::env::var("STRATA_TEST_SHARE").context("STRATA_TEST_SHARE is not set: run `make e2e`")?;
        let programs = Programs::find()?;
        let machine = Machine::new()?;
        let runtime = tokio::runtime::Runtime::new()?;
        let server = runtime.block_on(ApiServer::start_on(ADDRESS));
        let controllers = Controllers::start(&server);
        let mark = &uuid::Uuid::new_v4().simple().to_string()[..8];
        let kubectl = Kubectl::new(&server.kubeconfig(), &format!("e2e-{mark}"));
        let version = version(&kubectl)?;
        let old = version.minor < 29;
        let store = Store {
            endpoint: format!("http://{ADDRESS}:{S3_PORT}"),
            bucket: "backups".into(),
            access_key: "e2e".into(),
            secret_key: "e2e-secret".into(),
        };
        let api = Api { port: server.port(), authority: server.authority() };
        let kubelet = Kubelet::new(&kubectl, &machine)?;
        let workloads = Workloads::new(kubectl.within(RELEASE_NAMESPACE), programs, api);
        let mut hosts = Hosts {
            chart: chart(&machine, old)?,
            kubectl,
            kubelet,
            workloads,
            others: Vec::new(),
            controllers,
            server,
            share,
            store,
            old,
            version: version.text,
            machine,
            _runtime: runtime,
        };
        hosts.prepare()?;
        Ok(hosts)
    }

    /// What a cluster has before the chart comes: a node, the snapshot API with its controller, and a bucket somewhere.
    fn prepare(&mut self) -> Result<()> {
        self.kubelet.join()?;
        for file in self.workloads.programs().definitions()? {
            // Rules that an old API does not know are left out.
            self.kubectl.run(&["apply", "--validate=false", "-f", &file.display().to_string()])?;
        }
        let controller = self.workloads.programs().sidecar("snapshot-controller")?;
        let kubeconfig = format!("--kubeconfig={}", self.server.kubeconfig().display());
        eventually("the snapshot API is served", || Ok(self.kubectl.list("volumesnapshotclass").is_ok()))?;
        self.beside("snapshot-controller", &controller, &[&kubeconfig, "--leader-election=false"])?;
        let moto = std::env::var_os("E2E_MOTO").context("E2E_MOTO is not set: run `make e2e`")?;
        self.beside("moto", Path::new(&moto), &["-H", ADDRESS, "-p", &S3_PORT.to_string()])?;
        let address = format!("{ADDRESS}:{S3_PORT}");
        eventually("the S3 server has a bucket", || {
            Ok(http::request("PUT", &address, "/backups").is_ok_and(|(status, _)| status == 200))
        })
    }

    fn beside(&mut self, name: &str, program: &Path, arguments: &[&str]) -> Result<()> {
        let log = std::fs::File::create(self.machine.path(&format!("{name}.log")))?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.others.push(Other(command.spawn().with_context(|| format!("{name} does not start"))?));
        Ok(())
    }

    fn shell(&self, pod: &str, script: &str) -> Result<Command> {
        let mut command = Command::new("sh");
        command.args(["-c", script]).env(DATA, &self.kubelet.volume(pod)?.target);
        Ok(command)
    }
}

struct Version {
    minor: u32,
    text: String,
}

fn version(kubectl: &Kubectl) -> Result<Version> {
    let found: Value = serde_json::from_str(&kubectl.run(&["version", "-o", "json"])?)?;
    let text = found["serverVersion"]["gitVersion"].as_str().context("a server has a version")?.to_owned();
    let minor = found["serverVersion"]["minor"].as_str().unwrap_or_default().trim_end_matches('+').parse()?;
    Ok(Version { minor, text })
}

/// The chart; for an old API server a copy that it may be installed on.
fn chart(machine: &Machine, old: bool) -> Result<PathBuf> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/strata");
    if !old {
        return Ok(chart);
    }
    let copy = machine.path("chart");
    let copied = Command::new("cp").arg("-r").arg(&chart).arg(&copy).status()?;
    ensure!(copied.success(), "the chart could not be copied");
    let file = copy.join("Chart.yaml");
    let text = std::fs::read_to_string(&file)?;
    let kept: String = text
        .lines()
        .filter(|line| !line.starts_with("kubeVersion:"))
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(file, kept)?;
    Ok(copy)
}

impl Cluster for Hosts {
    fn describe(&self) -> String {
        let mut text = format!(
            "Host processes: API server and controllers {}, GlusterFS {}, S3 {}.\nPlayed by this test: kubelet (with real \
             CSI calls), the scheduler, the controllers of Deployments and DaemonSets. No images: every container is a process \
             with the pod's arguments, mounts, rights and token.",
            self.version, self.share, self.store.endpoint
        );
        if self.old {
            text.push_str(&format!("\n{OLD}."));
        }
        text
    }

    fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    fn store(&self) -> &Store {
        &self.store
    }

    fn values(&self) -> Value {
        let mut values = objects::values(&self.share);
        values["image"] = json!({"repository": IMAGE});
        for (value, folder) in [("stateDir", "state"), ("runDir", "run"), ("kubeletDir", "kubelet")] {
            values[value] = json!(self.machine.path(folder));
        }
        values["controller"] = json!({"podDisruptionBudget": !self.old});
        // This machine's kernel may not let ext4 grow while it is mounted.
        values["storageClass"]["fsType"] = json!("xfs");
        values
    }

    fn helm(&self, arguments: &[&str]) -> Result<String> {
        let helm = std::env::var_os("HELM").context("HELM is not set: run `make e2e`")?;
        let mut command = Command::new(helm);
        for (variable, folder) in
            [("HELM_CACHE_HOME", "c"), ("HELM_CONFIG_HOME", "f"), ("HELM_DATA_HOME", "d")]
        {
            command.env(variable, self.machine.path("helm").join(folder));
        }
        command.args(arguments);
        if self.old && arguments[0] != "uninstall" {
            // It leaves out what it does not know, where it is not told to refuse it.
            command.arg("--disable-openapi-validation");
        }
        let output = command.env("KUBECONFIG", self.server.kubeconfig()).output()?;
        said(&format!("helm {}", arguments.join(" ")), output)
    }

    fn chart(&self) -> String {
        self.chart.display().to_string()
    }

    fn settle(&mut self) -> Result<()> {
        if self.workloads.settle(&mut self.machine)? {
            self.kubelet.register().with_context(|| self.workloads.last_words())?;
            self.workloads.check_metrics()?;
        }
        // In the beginning some wait for others that way, as in every cluster.
        for line in self.workloads.restarts() {
            println!("     {line}");
        }
        Ok(())
    }

    fn incarnation(&self, component: &str) -> Result<String> {
        Ok(self.workloads.incarnation(component))
    }

    fn start_pod(&mut self, pod: &str, claim: &str) -> Result<()> {
        self.kubelet.start_pod(pod, claim).with_context(|| self.workloads.last_words())
    }

    fn end_pod(&mut self, pod: &str) -> Result<()> {
        self.kubelet.end_pod(pod).with_context(|| self.workloads.last_words())
    }

    fn exec(&self, pod: &str, script: &str) -> Result<String> {
        said(&format!("in {pod}: {script}"), self.shell(pod, script)?.stdin(Stdio::null()).output()?)
    }

    fn exec_in_background(&self, pod: &str, script: &str) -> Result<Child> {
        let mut command = self.shell(pod, script)?;
        Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    }

    fn grown(&mut self, pod: &str) -> Result<()> {
        self.kubelet.grow(pod)
    }

    fn strata(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.workloads.programs().driver());
        command.args(arguments).env("AWS_REGION", "us-east-1");
        command
            .env("AWS_ACCESS_KEY_ID", &self.store.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &self.store.secret_key);
        said(&format!("strata {}", arguments.join(" ")), command.stdin(Stdio::null()).output()?)
    }

    fn share(&self) -> &str {
        &self.share
    }

    fn finish(&mut self) -> Result<()> {
        if let Some(ended) = self.controllers.ended() {
            bail!("kube-controller-manager has {ended}");
        }
        self.kubelet.leave()?;
        let left = self.machine.mounts()?;
        ensure!(left.is_empty(), "left mounted: {left:?}");
        Ok(())
    }

    fn last_words(&self) -> String {
        let lines = |name: &str| {
            let log = std::fs::read_to_string(self.machine.path(&format!("{name}.log"))).unwrap_or_default();
            let all: Vec<&str> = log.lines().collect();
            format!("--- {name}\n{}\n", all[all.len().saturating_sub(15)..].join("\n"))
        };
        self.workloads.last_words() + &lines("snapshot-controller")
    }
}
