//! Staged volumes appear at the paths of pods, and go from there.

use super::NodeService;
use crate::csi::call::{Call, Patience};
use crate::csi::capability;
use crate::csi::request::{path, required, volume_handle};
use crate::rpc::csi::*;
use crate::volume::{PublishTarget, Purpose, VolumeHandle};
use std::sync::Arc;
use tonic::{Request, Response, Status};

pub(super) async fn publish(
    service: &NodeService,
    request: Request<NodePublishVolumeRequest>,
) -> Result<Response<NodePublishVolumeResponse>, Status> {
    let (metadata, _, request) = request.into_parts();
    required(&request.volume_id, "volume_id")?;
    let target_path = path(&request.target_path, "target_path")?;
    let usage = capability::one(request.volume_capability.as_ref())?;
    if request.staging_target_path.is_empty() {
        return Err(Status::failed_precondition(
            "staging_target_path is missing: NodeStageVolume comes first",
        ));
    }
    let staging_path = path(&request.staging_target_path, "staging_target_path")?;
    let handle = volume_handle(&request.volume_id)?;
    let (key, staging) = (handle.to_string(), Arc::clone(&service.parts.staging));
    let readonly = request.readonly || usage.purpose != Purpose::Write;
    let call = Call { method: "NodePublishVolume", key: &key, patience: Patience::Node };
    service
        .caller
        .run(call, &metadata, move || {
            let capability::Usage { access, sharing, .. } = usage;
            let target = PublishTarget { staging_path, target_path, readonly, access, sharing };
            staging.publish(&handle, &target)?;
            Ok(NodePublishVolumeResponse {})
        })
        .await
}

pub(super) async fn unpublish(
    service: &NodeService,
    request: Request<NodeUnpublishVolumeRequest>,
) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
    let (metadata, _, request) = request.into_parts();
    required(&request.volume_id, "volume_id")?;
    let target_path = path(&request.target_path, "target_path")?;
    let Ok(handle) = request.volume_id.parse::<VolumeHandle>() else {
        // No volume of ours can have that id: nothing of it is here.
        return Ok(Response::new(NodeUnpublishVolumeResponse {}));
    };
    let (key, staging) = (handle.to_string(), Arc::clone(&service.parts.staging));
    let call = Call { method: "NodeUnpublishVolume", key: &key, patience: Patience::Node };
    service
        .caller
        .run(call, &metadata, move || {
            staging.unpublish(&handle, &target_path)?;
            Ok(NodeUnpublishVolumeResponse {})
        })
        .await
}
