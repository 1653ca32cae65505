//! The Node service.

use super::call::{Call, Caller, Patience};
use super::{capability, shares::Shares};
use crate::rpc::csi::node_server::Node;
use crate::rpc::csi::node_service_capability::rpc::Type as RpcType;
use crate::rpc::csi::node_service_capability::{Rpc, Type};
use crate::rpc::csi::*;
use crate::volume::{NodeId, PublishTarget, StageVolume, Staging, VolumeHandle};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// CSI bounds paths to 4 KiB, as the kernel does.
const MAX_PATH: usize = 4096;

/// What a node plugin is made of.
#[derive(Clone)]
pub struct NodeParts {
    /// Its name, as it registered on the shares.
    pub node: NodeId,
    /// Its volumes.
    pub staging: Arc<Staging>,
    /// Its shares.
    pub shares: Arc<Shares>,
    /// The data path's self-test: None while it runs, then its verdict.
    pub verdict: watch::Receiver<Option<Result<(), String>>>,
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

    /// No volume is opened on a data path that was not seen to keep what is written to it.
    async fn sound(&self) -> Result<(), Status> {
        let mut verdict = self.parts.verdict.clone();
        match verdict.wait_for(Option::is_some).await.map(|verdict| verdict.clone()) {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(reason))) => Err(Status::failed_precondition(reason)),
            Ok(None) | Err(_) => Err(Status::unavailable("the self-test of the data path was broken off")),
        }
    }
}

fn handle(text: &str) -> Result<VolumeHandle, Status> {
    if text.is_empty() {
        return Err(Status::invalid_argument("volume_id is missing"));
    }
    text.parse().map_err(|error| Status::not_found(format!("{error}")))
}

fn path(text: &str, what: &str) -> Result<PathBuf, Status> {
    let plain = text.starts_with('/')
        && text.len() <= MAX_PATH
        && !text.contains('\0')
        && !text.split('/').any(|part| part == "..");
    if !plain {
        return Err(Status::invalid_argument(format!("{what} {text:?} is no plain absolute path")));
    }
    Ok(PathBuf::from(text))
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        if request.volume_id.is_empty() {
            return Err(Status::invalid_argument("volume_id is missing"));
        }
        let staging_path = path(&request.staging_target_path, "staging_target_path")?;
        let access = capability::one(request.volume_capability.as_ref())?;
        let handle = handle(&request.volume_id)?;
        self.sound().await?;
        let (key, parts) = (handle.to_string(), self.parts.clone());
        let call = Call { method: "NodeStageVolume", key: &key, patience: Patience::Node };
        self.caller
            .run(call, &metadata, move || {
                let volumes = parts.shares.get(&handle.share)?;
                let request = StageVolume { volume: handle.volume, staging_path, access };
                parts.staging.stage(&volumes, &request)?;
                Ok(NodeStageVolumeResponse {})
            })
            .await
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        if request.volume_id.is_empty() {
            return Err(Status::invalid_argument("volume_id is missing"));
        }
        let staging_path = path(&request.staging_target_path, "staging_target_path")?;
        let handle = handle(&request.volume_id)?;
        let (key, staging) = (handle.to_string(), Arc::clone(&self.parts.staging));
        let call = Call { method: "NodeUnstageVolume", key: &key, patience: Patience::Node };
        self.caller
            .run(call, &metadata, move || {
                staging.unstage(&handle, &staging_path)?;
                Ok(NodeUnstageVolumeResponse {})
            })
            .await
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        if request.volume_id.is_empty() {
            return Err(Status::invalid_argument("volume_id is missing"));
        }
        let target_path = path(&request.target_path, "target_path")?;
        let access = capability::one(request.volume_capability.as_ref())?;
        if request.staging_target_path.is_empty() {
            return Err(Status::failed_precondition(
                "staging_target_path is missing: NodeStageVolume comes first",
            ));
        }
        let staging_path = path(&request.staging_target_path, "staging_target_path")?;
        let handle = handle(&request.volume_id)?;
        let (key, staging) = (handle.to_string(), Arc::clone(&self.parts.staging));
        let readonly = request.readonly;
        let call = Call { method: "NodePublishVolume", key: &key, patience: Patience::Node };
        self.caller
            .run(call, &metadata, move || {
                staging.publish(&handle, &PublishTarget { staging_path, target_path, readonly, access })?;
                Ok(NodePublishVolumeResponse {})
            })
            .await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        if request.volume_id.is_empty() {
            return Err(Status::invalid_argument("volume_id is missing"));
        }
        let target_path = path(&request.target_path, "target_path")?;
        let handle = handle(&request.volume_id)?;
        let (key, staging) = (handle.to_string(), Arc::clone(&self.parts.staging));
        let call = Call { method: "NodeUnpublishVolume", key: &key, patience: Patience::Node };
        self.caller
            .run(call, &metadata, move || {
                staging.unpublish(&handle, &target_path)?;
                Ok(NodeUnpublishVolumeResponse {})
            })
            .await
    }

    async fn node_get_info(
        &self,
        _request: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.parts.node.to_string(),
            // Zero: the orchestrator decides.
            max_volumes_per_node: 0,
            accessible_topology: None,
        }))
    }

    async fn node_get_capabilities(
        &self,
        _request: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let rpc = Rpc { r#type: RpcType::StageUnstageVolume.into() };
        Ok(Response::new(NodeGetCapabilitiesResponse {
            capabilities: vec![NodeServiceCapability { r#type: Some(Type::Rpc(rpc)) }],
        }))
    }

    async fn node_get_volume_stats(
        &self,
        _request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        Err(Status::unimplemented("NodeGetVolumeStats is not offered; see NodeGetCapabilities"))
    }

    async fn node_expand_volume(
        &self,
        _request: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        Err(Status::unimplemented("NodeExpandVolume is not offered; see NodeGetCapabilities"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Invariant 6: a path that climbs is refused before it reaches anything.
    #[test]
    fn only_plain_absolute_paths_are_taken() {
        assert_eq!(path("/var/lib/kubelet/x", "p").unwrap(), PathBuf::from("/var/lib/kubelet/x"));
        let long = format!("/{}", "x".repeat(MAX_PATH));
        for text in ["", "relative", "/a/../b", "/a/\0b", &long] {
            assert_eq!(path(text, "p").unwrap_err().code(), tonic::Code::InvalidArgument);
        }
    }
}
