//! A node that finishes what was broken off asks itself, too: without a way round over the wire, and as no controller.
//!
//! It never needs another node's agent, whose calls are for controllers alone. It takes the locks of volumes that are published
//! to it, and of those it is the one writer, whose daemon it asks here, or one of several readers: then there is no writer to ask,
//! and QEMU's image locks tell the rest. What is left over by a writer that is gone is finished when a controller takes the
//! volume away from it, before anybody else gets it.

use crate::gluster::ShareKey;
use crate::rpc::chain;
use crate::volume::{
    AgentError, Agents, CutOrder, CutReport, Error, GrowOrder, GrowReport, MergeCall, MergeReport, NodeId,
    OpenImage, Staging, VolumeId,
};
use std::sync::Arc;

/// The agents as a node sees them: its own is asked directly, all others as `others` can.
pub struct OwnAgent<A> {
    node: NodeId,
    staging: Arc<Staging>,
    others: A,
}

impl<A: Agents> OwnAgent<A> {
    /// Of this node.
    pub fn new(node: NodeId, staging: Arc<Staging>, others: A) -> Self {
        OwnAgent { node, staging, others }
    }

    fn own(&self, node: &NodeId) -> Option<&Staging> {
        (*node == self.node).then_some(&self.staging)
    }
}

fn failed(error: Error) -> AgentError {
    AgentError::Failed { reason: chain(&error) }
}

impl<A: Agents> Agents for OwnAgent<A> {
    fn cut(&self, node: &NodeId, address: &str, order: &CutOrder) -> Result<CutReport, AgentError> {
        match self.own(node) {
            Some(own) => own.cut(order).map_err(failed),
            None => self.others.cut(node, address, order),
        }
    }

    fn grow(&self, node: &NodeId, address: &str, order: &GrowOrder) -> Result<GrowReport, AgentError> {
        match self.own(node) {
            Some(own) => own.grow(order).map_err(failed),
            None => self.others.grow(node, address, order),
        }
    }

    fn merge(&self, node: &NodeId, address: &str, call: &MergeCall) -> Result<MergeReport, AgentError> {
        match self.own(node) {
            Some(own) => own.merge(call).map_err(failed),
            None => self.others.merge(node, address, call),
        }
    }

    fn status(
        &self,
        node: &NodeId,
        address: &str,
        share: &ShareKey,
        volume: VolumeId,
        epoch: u64,
    ) -> Result<Option<OpenImage>, AgentError> {
        match self.own(node) {
            Some(own) => own.status(share, volume, epoch).map_err(failed),
            None => self.others.status(node, address, share, volume, epoch),
        }
    }

    fn release(
        &self,
        node: &NodeId,
        address: &str,
        share: &ShareKey,
        volume: VolumeId,
    ) -> Result<(), AgentError> {
        match self.own(node) {
            Some(own) => own.release(share, volume).map_err(failed),
            None => self.others.release(node, address, share, volume),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::AgentClient;
    use crate::agent::CUT_LIMIT;
    use crate::agent::server::tests::staging;
    use tokio::runtime::Runtime;

    /// A node has no controller's certificate, and needs none for itself; for others it has none.
    #[test]
    fn a_node_asks_itself_without_the_wire_and_others_over_it() {
        let (dir, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
        let node: NodeId = "n1".parse().unwrap();
        let others = AgentClient::new(runtime.handle().clone(), CUT_LIMIT);
        let agents = OwnAgent::new(node.clone(), staging(&node, dir.path()), others);
        let (share, volume) = ("s1".parse().unwrap(), VolumeId::from_name("v"));
        let nowhere = "https://192.0.2.1:9808";
        agents.release(&node, nowhere, &share, volume).unwrap();
        assert_eq!(agents.status(&node, nowhere, &share, volume, 1).unwrap(), None);
        let order = CutOrder {
            share: share.clone(),
            volume,
            epoch: 1,
            frozen_file: "a".into(),
            overlay_file: "b".into(),
        };
        assert_eq!(agents.cut(&node, nowhere, &order).unwrap(), CutReport::NotOpen);
        let refused = agents.release(&"n2".parse().unwrap(), nowhere, &share, volume).unwrap_err();
        assert!(matches!(refused, AgentError::Unreachable { .. }), "{refused}");
    }
}
