//! The Node service: one method for each RPC, which the files of this folder hold group by group.

mod expand;
mod publish;
mod stage;
mod stats;
#[cfg(test)]
mod tests;

use super::call::Caller;
use super::shares::Shares;
use crate::metrics::Calls;
use crate::rpc::csi::node_server::Node;
use crate::rpc::csi::node_service_capability::rpc::Type as RpcType;
use crate::rpc::csi::node_service_capability::{Rpc, Type};
use crate::rpc::csi::*;
use crate::volume::{NodeId, Registrar, Staging};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// What the kubelet may use. The others answer UNIMPLEMENTED.
const CAPABILITIES: &[RpcType] = &[
    RpcType::StageUnstageVolume,
    RpcType::ExpandVolume,
    RpcType::SingleNodeMultiWriter,
    RpcType::GetVolumeStats,
    RpcType::VolumeCondition,
];

/// What a node plugin is made of.
#[derive(Clone)]
pub struct NodeParts {
    /// Its name, as it registered on the shares.
    pub node: NodeId,
    /// Its volumes.
    pub staging: Arc<Staging>,
    /// Its shares.
    pub shares: Arc<Shares>,
    /// Its registrations on them.
    pub registrar: Arc<Registrar>,
    /// What the data path's self-test has found so far.
    pub verdict: watch::Receiver<Verdict>,
    /// How many volumes it takes at a time.
    pub max_volumes: usize,
}

/// What is known of a node's data path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its test runs, or is tried again; with what hindered the last try.
    Open(Option<String>),
    /// It keeps what is written to it.
    Sound,
    /// It loses what is written to it, or its QEMU is known to: until that is replaced, and with it this process.
    Unsound(String),
}

/// Staging and publishing on this node.
#[derive(Clone)]
pub struct NodeService {
    parts: NodeParts,
    caller: Caller,
}

impl NodeService {
    /// Of these parts.
    pub fn new(parts: NodeParts) -> Self {
        NodeService { parts, caller: Caller::default() }
    }

    /// Counts its calls there.
    pub fn counting(self, calls: Calls) -> Self {
        NodeService { caller: Caller::counting(calls), ..self }
    }

    /// No volume is opened on a data path that was not seen to keep what is written to it. Waits so long for a
    /// test that still runs: UNAVAILABLE then, for a later call finds its verdict.
    async fn sound(&self, patience: Duration) -> Result<(), Status> {
        let mut told = self.parts.verdict.clone();
        let known = told.wait_for(|verdict| !matches!(verdict, Verdict::Open(_)));
        // Late, or the test's task is gone: what was said last counts.
        let _ = tokio::time::timeout(patience, known).await;
        match self.parts.verdict.borrow().clone() {
            Verdict::Sound => Ok(()),
            Verdict::Unsound(reason) => Err(Status::failed_precondition(reason)),
            Verdict::Open(None) => Err(Status::unavailable("the self-test of the data path still runs")),
            Verdict::Open(Some(reason)) => Err(Status::unavailable(format!(
                "the data path could not be tested yet, and is tried again: {reason}"
            ))),
        }
    }
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        stage::stage(self, request).await
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        stage::unstage(self, request).await
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        publish::publish(self, request).await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        publish::unpublish(self, request).await
    }

    async fn node_get_info(
        &self,
        _request: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.parts.node.to_string(),
            max_volumes_per_node: i64::try_from(self.parts.max_volumes).unwrap_or(i64::MAX),
            accessible_topology: None,
        }))
    }

    async fn node_get_capabilities(
        &self,
        _request: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let capabilities = CAPABILITIES
            .iter()
            .map(|rpc| NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: (*rpc).into() })) })
            .collect();
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        stats::stats(self, request).await
    }

    async fn node_expand_volume(
        &self,
        request: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        expand::expand(self, request).await
    }
}
