//! Storage daemons of a node.

use super::{Sample, Samples};

/// What one of them takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonFigures {
    /// What it is for: `volume`, `merge`, ….
    pub purpose: String,
    /// The volume's id.
    pub volume: String,
    /// Bytes of memory that are really there.
    pub resident: u64,
}

/// By volume: a node has some dozens, and one that takes much is to be found.
pub fn daemon_samples(daemons: &[DaemonFigures]) -> Vec<Samples> {
    let sample = |daemon: &DaemonFigures| Sample {
        labels: vec![("purpose", daemon.purpose.clone()), ("volume", daemon.volume.clone())],
        value: daemon.resident as f64,
    };
    vec![Samples {
        name: "daemon_resident_memory_bytes",
        help: "Memory that a storage daemon really has",
        samples: daemons.iter().map(sample).collect(),
    }]
}
