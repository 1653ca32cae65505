//! `nodes/<node-id>.json`: which nodes there are and where their agents listen, with or without Kubernetes.

use super::error::{Error, NodeNotFoundSnafu};
use super::id::NodeId;
use super::layout::Layout;
use crate::host::fsio;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use snafu::OptionExt;
use std::time::Duration;

/// Three heartbeats, which come every 30 s.
pub const SILENT_AFTER: Duration = Duration::from_secs(90);

/// A node as it registered itself. Of nodes of a newer version the rest is passed over: an upgrade goes from node to node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The layout of this file.
    pub schema: u32,
    /// Its name.
    pub node: NodeId,
    /// Where its agent listens: `unix:///PATH` or `https://HOST:PORT`.
    pub agent: String,
    /// When it last said so.
    pub heartbeat: Timestamp,
    /// How often it was started, as far as this share knows.
    #[serde(default)]
    pub epoch: u64,
    /// The process: another one after each start.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// What the node keeps on its own disk: tells it from another machine by the same name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub home: String,
    /// The kernel's boot id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boot: String,
    /// The machine's own name, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// How many volumes it takes; None: it has not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_volumes: Option<usize>,
}

impl NodeRecord {
    /// A registration as of now.
    pub fn now(node: NodeId, agent: String) -> Self {
        let heartbeat = Timestamp::now();
        let none = String::new;
        NodeRecord {
            schema: 1,
            node,
            agent,
            heartbeat,
            epoch: 0,
            instance: none(),
            home: none(),
            boot: none(),
            host: none(),
            max_volumes: None,
        }
    }

    /// How long ago the node said that it lives; never less than nothing, whatever the clocks say.
    pub fn age(&self, now: Timestamp) -> Duration {
        now.duration_since(self.heartbeat).try_into().unwrap_or_default()
    }

    /// Whether it has missed several heartbeats.
    pub fn is_silent(&self, now: Timestamp) -> bool {
        self.age(now) > SILENT_AFTER
    }
}

pub(super) fn register(layout: &Layout, node: &NodeRecord) -> Result<(), Error> {
    let bytes = serde_json::to_vec_pretty(node).expect("a node record has only string keys");
    Ok(fsio::write_atomic(&layout.node(&node.node), &bytes)?)
}

pub(super) fn get(layout: &Layout, node: &NodeId) -> Result<NodeRecord, Error> {
    let path = layout.node(node);
    let bytes = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        read => Some(read.map_err(Error::io("read", &path))?),
    };
    let bytes = bytes.context(NodeNotFoundSnafu { node: node.clone() })?;
    serde_json::from_slice(&bytes).map_err(std::io::Error::from).map_err(Error::io("parse", path))
}

/// Every node that has a registration.
pub(super) fn ids(layout: &Layout) -> Result<Vec<NodeId>, Error> {
    let folder = layout.nodes();
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io("list", &folder))?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        let name = entry.map_err(Error::io("list", &folder))?.file_name();
        let id = name.to_str().and_then(|name| name.strip_suffix(".json"));
        ids.extend(id.and_then(|id| id.parse().ok()));
    }
    ids.sort();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A controller that is not upgraded yet reaches the nodes that are.
    #[test]
    fn a_registration_that_a_newer_version_wrote_more_into_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let node = NodeRecord::now("n1".parse().unwrap(), "https://n1:9000".to_owned());
        std::fs::create_dir(layout.nodes()).unwrap();
        let mut newer = serde_json::to_value(&node).unwrap();
        newer["later"] = serde_json::json!({"x": [1]});
        std::fs::write(layout.node(&node.node), newer.to_string()).unwrap();
        assert_eq!(get(&layout, &node.node).unwrap(), node);
    }
}
