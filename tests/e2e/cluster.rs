//! What the scenario asks of a cluster, whichever it is.

use crate::kubectl::Kubectl;
use anyhow::Result;
use serde_json::Value;
use std::process::Child;

/// The namespace of the chart.
pub const RELEASE_NAMESPACE: &str = "strata-e2e-system";
/// The folder of a pod's volume, in the environment of what runs in the pod.
pub const DATA: &str = "DATA";

/// Where the scenario's backups go.
#[derive(Clone, Debug)]
pub struct Store {
    /// As pods reach it.
    pub endpoint: String,
    pub bucket: String,
    pub access_key: String,
    pub secret_key: String,
}

pub trait Cluster {
    /// What is real here, and what is not.
    fn describe(&self) -> String;

    /// Of who may do everything, in the scenario's namespace.
    fn kubectl(&self) -> &Kubectl;

    fn store(&self) -> &Store;

    /// The chart's values for this cluster.
    fn values(&self) -> Value;

    /// Runs Helm.
    fn helm(&self, arguments: &[&str]) -> Result<String>;

    /// The folder of the chart.
    fn chart(&self) -> String;

    /// Waits until the chart's workloads run as the API has them.
    fn settle(&mut self) -> Result<()>;

    /// What tells one run of a component of the chart from another: `controller`, `node` or `data`.
    fn incarnation(&self, component: &str) -> Result<String>;

    /// Starts a pod that sleeps, with a claim's volume.
    fn start_pod(&mut self, pod: &str, claim: &str) -> Result<()>;

    /// Ends a pod, and waits until its volume is let go of.
    fn end_pod(&mut self, pod: &str) -> Result<()>;

    /// Runs a shell script in a pod, which finds its volume at `$DATA`.
    fn exec(&self, pod: &str, script: &str) -> Result<String>;

    /// The same in the background.
    fn exec_in_background(&self, pod: &str, script: &str) -> Result<Child>;

    /// Waits until a volume that was grown has its new size in the pod.
    fn grown(&mut self, pod: &str) -> Result<()>;

    /// Runs the driver's own program beside a controller, with the store's keys.
    fn strata(&self, arguments: &[&str]) -> Result<String>;

    /// The share, as the driver is told of it.
    fn share(&self) -> &str;

    /// After the chart was removed: nothing of it is left on the nodes.
    fn finish(&mut self) -> Result<()>;

    /// What those concerned have logged last, for whoever looks for the cause of a failure.
    fn last_words(&self) -> String;
}
