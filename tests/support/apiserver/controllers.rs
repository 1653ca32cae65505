//! The controllers of a cluster that volumes need, from a real kube-controller-manager.

use super::ApiServer;
use super::process::Process;

/// Without those that would make pods, and wait for nodes to report.
const NAMES: [&str; 7] = [
    "attachdetach",
    "garbagecollector",
    "namespace",
    "persistentvolume-binder",
    "persistentvolume-expander",
    "pv-protection",
    "pvc-protection",
];

/// Ended when dropped.
pub struct Controllers(Process);

impl Controllers {
    /// Starts them on an API server.
    pub fn start(server: &ApiServer) -> Controllers {
        let kubeconfig = server.kubeconfig().display().to_string();
        let arguments = [
            format!("--kubeconfig={kubeconfig}"),
            format!("--controllers={}", NAMES.join(",")),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
        ];
        Controllers(Process::start("kube-controller-manager", server.folder(), &arguments))
    }

    /// What they said last, once they have ended by themselves.
    pub fn ended(&mut self) -> Option<String> {
        self.0.ended()
    }
}
