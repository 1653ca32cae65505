//! `nodes/<node-id>.json`: which nodes there are and where their agents listen, with or without Kubernetes.

use super::error::{Error, NodeNotFoundSnafu};
use super::id::NodeId;
use super::layout::Layout;
use crate::host::fsio;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use snafu::OptionExt;

/// A node as it registered itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRecord {
    /// The layout of this file.
    pub schema: u32,
    /// Its name.
    pub node: NodeId,
    /// Where its agent listens: `unix:///PATH`.
    pub agent: String,
    /// When it last said so.
    pub heartbeat: Timestamp,
}

impl NodeRecord {
    /// A registration as of now.
    pub fn now(node: NodeId, agent: String) -> Self {
        NodeRecord { schema: 1, node, agent, heartbeat: Timestamp::now() }
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
