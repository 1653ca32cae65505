//! The chart's pods, as the API's Deployments and DaemonSets want them: the part of their controllers, and of the
//! scheduler, on one node.

use super::http;
use super::machine::Machine;
use super::pod::{Api, Pod};
use super::programs::Programs;
use crate::kubectl::{Kubectl, eventually};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;

const COMPONENT: &str = "app.kubernetes.io/component";

/// By component.
type Pods = BTreeMap<String, Vec<Pod>>;

pub struct Workloads {
    kubectl: Kubectl,
    programs: Programs,
    api: Api,
    pods: Pods,
    started: u32,
}

impl Workloads {
    /// `kubectl` is of the chart's namespace.
    pub fn new(kubectl: Kubectl, programs: Programs, api: Api) -> Workloads {
        Workloads { kubectl, programs, api, pods: Pods::new(), started: 0 }
    }

    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    fn start(&mut self, component: &str, template: &Value, machine: &mut Machine) -> Result<()> {
        self.started += 1;
        let name = format!("{component}-{}", self.started);
        let pod = Pod::start(&name, template, &self.kubectl, machine, &self.programs, &self.api)?;
        self.pods.entry(component.to_owned()).or_default().push(pod);
        Ok(())
    }

    /// Brings what runs to what the API says. Whether pods of the node were replaced: kubelet hears of the driver anew.
    pub fn settle(&mut self, machine: &mut Machine) -> Result<bool> {
        let mut wanted = self.kubectl.list("daemonset")?;
        wanted.extend(self.kubectl.list("deployment")?);
        if wanted.is_empty() {
            return self.end_all().map(|()| false);
        }
        // All at once, as in a cluster: who needs the data plane waits for it.
        let mut replaced = false;
        for object in &wanted {
            let template = &object["spec"]["template"];
            let component =
                template["metadata"]["labels"][COMPONENT].as_str().context("every pod has a component")?;
            let count = object["spec"]["replicas"].as_u64().unwrap_or(1) as usize;
            let on_delete = object["spec"]["updateStrategy"]["type"] == "OnDelete";
            replaced |= self.settle_one(
                component,
                template,
                count,
                on_delete,
                object["kind"] == "Deployment",
                machine,
            )?;
        }
        self.ready(machine)?;
        Ok(replaced)
    }

    fn settle_one(
        &mut self,
        component: &str,
        template: &Value,
        count: usize,
        on_delete: bool,
        surge: bool,
        machine: &mut Machine,
    ) -> Result<bool> {
        let of_before = self.pods.get(component).map_or(0, Vec::len);
        for _ in of_before..count {
            self.start(component, template, machine)?;
        }
        let outdated = |pods: &Pods| pods[component].iter().position(|pod| pod.template != *template);
        let mut replaced = of_before < count && component == "node";
        while let Some(index) = outdated(&self.pods).filter(|_| !on_delete) {
            // A Deployment starts the new one first, a DaemonSet ends the old one first.
            if surge {
                self.start(component, template, machine)?;
                self.ready(machine)?;
            }
            let old = self.pods.get_mut(component).expect("it runs").remove(index);
            println!("     {} is replaced", old.name);
            old.end()?;
            if !surge {
                self.start(component, template, machine)?;
            }
            replaced |= component == "node";
        }
        Ok(replaced)
    }

    /// Waits for what probes ask.
    fn ready(&self, machine: &Machine) -> Result<()> {
        let socket = machine.path("run").join("data.sock");
        let answers = self.wait("the data plane's socket", || Ok(UnixStream::connect(&socket).is_ok()));
        answers?;
        for pod in self.pods.iter().filter(|(component, _)| *component != "data").flat_map(|(_, pods)| pods) {
            let address = format!("{}:9809", pod.address);
            self.wait(&format!("the liveness of {}", pod.name), || {
                Ok(http::request("GET", &address, "/healthz").is_ok_and(|(status, _)| status == 200))
            })?;
        }
        Ok(())
    }

    fn wait(&self, what: &str, look: impl FnMut() -> Result<bool>) -> Result<()> {
        eventually(what, look).with_context(|| self.last_words())
    }

    /// What tells one run of a component from another: its containers' processes.
    pub fn incarnation(&self, component: &str) -> String {
        let containers = self.pods.get(component).into_iter().flatten().flat_map(|pod| &pod.containers);
        containers.map(|container| format!("{} {:?} ", container.name(), container.pid())).collect()
    }

    /// How often containers ended by themselves; in the beginning that may happen, as in every cluster.
    pub fn restarts(&self) -> Vec<String> {
        let containers =
            self.pods.values().flatten().flat_map(|pod| pod.containers.iter().map(move |c| (pod, c)));
        let ended = containers.filter(|(_, container)| container.restarts() > 0);
        ended
            .map(|(pod, c)| format!("{}/{} was started again {} times", pod.name, c.name(), c.restarts()))
            .collect()
    }

    /// The ends of all logs.
    pub fn last_words(&self) -> String {
        let containers =
            self.pods.values().flatten().flat_map(|pod| pod.containers.iter().map(move |c| (pod, c)));
        containers.map(|(pod, c)| format!("--- {}/{}\n{}\n", pod.name, c.name(), c.last_words())).collect()
    }

    /// What Prometheus reads of every pod that has it.
    pub fn check_metrics(&self) -> Result<()> {
        for pod in self.pods.iter().filter(|(component, _)| *component != "data").flat_map(|(_, pods)| pods) {
            let (status, body) = http::request("GET", &format!("{}:9810", pod.address), "/metrics")?;
            ensure!(status == 200 && body.contains("strata_"), "{}: {status}: {body}", pod.name);
        }
        Ok(())
    }

    fn end_all(&mut self) -> Result<()> {
        // The data plane last, which waits for its volumes to be let go of.
        for component in ["controller", "node", "data"] {
            for pod in self.pods.remove(component).into_iter().flatten() {
                pod.end()?;
            }
        }
        Ok(())
    }
}
