//! Volumes are attached to nodes and detached.

use super::ControllerService;
use crate::csi::call::{Call, Patience};
use crate::csi::capability;
use crate::csi::request::{required, volume_handle};
use crate::rpc::csi::*;
use crate::volume::{NodeId, Purpose, VolumeHandle};
use std::sync::Arc;
use tonic::{Request, Response, Status};

pub(super) async fn publish(
    service: &ControllerService,
    request: Request<ControllerPublishVolumeRequest>,
) -> Result<Response<ControllerPublishVolumeResponse>, Status> {
    let (metadata, _, request) = request.into_parts();
    required(&request.volume_id, "volume_id")?;
    let node = required(&request.node_id, "node_id")?;
    let usage = capability::one(request.volume_capability.as_ref())?;
    let purpose = match usage.purpose {
        Purpose::Write if request.readonly => Purpose::ReadAlone,
        purpose => purpose,
    };
    let handle = volume_handle(&request.volume_id)?;
    let node = node.parse::<NodeId>().map_err(|error| Status::not_found(error.to_string()))?;
    let key = handle.volume.to_string();
    let call = Call { method: "ControllerPublishVolume", key: &key, patience: Patience::Short };
    let shares = Arc::clone(&service.shares);
    service
        .caller
        .run(call, &metadata, move || {
            shares.get(&handle.share)?.publish(handle.volume, &node, purpose)?;
            Ok(ControllerPublishVolumeResponse::default())
        })
        .await
}

pub(super) async fn unpublish(
    service: &ControllerService,
    request: Request<ControllerUnpublishVolumeRequest>,
) -> Result<Response<ControllerUnpublishVolumeResponse>, Status> {
    let (metadata, _, request) = request.into_parts();
    let handle = required(&request.volume_id, "volume_id")?.parse::<VolumeHandle>();
    let node = match request.node_id.as_str() {
        // CSI: an empty node means all of them.
        "" => Ok(None),
        text => text.parse::<NodeId>().map(Some),
    };
    let (Ok(handle), Ok(node)) = (handle, node) else {
        // Neither a volume nor a node of ours has such an id: nothing is attached by it.
        return Ok(Response::new(ControllerUnpublishVolumeResponse {}));
    };
    let key = handle.volume.to_string();
    let call = Call { method: "ControllerUnpublishVolume", key: &key, patience: Patience::Short };
    let (shares, tidy) = (Arc::clone(&service.shares), service.tidy.clone());
    service
        .caller
        .run(call, &metadata, move || {
            let volumes = shares.get(&handle.share)?;
            volumes.unpublish(handle.volume, node.as_ref())?;
            tidy.request(&volumes, handle.volume);
            Ok(ControllerUnpublishVolumeResponse {})
        })
        .await
}
