//! Volumes become devices and filesystems, and are let go of.

use super::NodeService;
use crate::csi::call::{Call, Patience, limit};
use crate::csi::capability;
use crate::csi::request::{path, required, volume_handle};
use crate::rpc::csi::*;
use crate::volume::{StageVolume, VolumeHandle};
use std::sync::Arc;
use std::time::Instant;
use tonic::{Request, Response, Status};

pub(super) async fn stage(
    service: &NodeService,
    request: Request<NodeStageVolumeRequest>,
) -> Result<Response<NodeStageVolumeResponse>, Status> {
    let begun = Instant::now();
    let (metadata, _, request) = request.into_parts();
    required(&request.volume_id, "volume_id")?;
    let staging_path = path(&request.staging_target_path, "staging_target_path")?;
    let access = capability::one(request.volume_capability.as_ref())?.access;
    let handle = volume_handle(&request.volume_id)?;
    let whole = limit(Patience::Node, &metadata);
    // Half of it: staging takes its time, too.
    service.sound(whole / 2).await?;
    let (key, parts) = (handle.to_string(), service.parts.clone());
    let patience = Patience::Left(whole.saturating_sub(begun.elapsed()));
    let call = Call { method: "NodeStageVolume", key: &key, patience };
    service
        .caller
        .run(call, &metadata, move || {
            let volumes = parts.shares.get(&handle.share)?;
            parts.registrar.allows(&handle.share)?;
            let request = StageVolume { volume: handle.volume, staging_path, access };
            parts.staging.stage(&volumes, &request)?;
            Ok(NodeStageVolumeResponse {})
        })
        .await
}

pub(super) async fn unstage(
    service: &NodeService,
    request: Request<NodeUnstageVolumeRequest>,
) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
    let (metadata, _, request) = request.into_parts();
    required(&request.volume_id, "volume_id")?;
    let staging_path = path(&request.staging_target_path, "staging_target_path")?;
    let Ok(handle) = request.volume_id.parse::<VolumeHandle>() else {
        // No volume of ours can have that id: nothing of it is here.
        return Ok(Response::new(NodeUnstageVolumeResponse {}));
    };
    let (key, staging) = (handle.to_string(), Arc::clone(&service.parts.staging));
    let call = Call { method: "NodeUnstageVolume", key: &key, patience: Patience::Node };
    service
        .caller
        .run(call, &metadata, move || {
            staging.unstage(&handle, &staging_path)?;
            Ok(NodeUnstageVolumeResponse {})
        })
        .await
}
