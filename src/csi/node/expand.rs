//! Filesystems grow with their volumes.

use super::NodeService;
use crate::csi::call::{Call, Patience};
use crate::csi::request::{capacity, known_path, volume_handle};
use crate::rpc::csi::*;
use std::sync::Arc;
use tonic::{Request, Response, Status};

pub(super) async fn expand(
    service: &NodeService,
    request: Request<NodeExpandVolumeRequest>,
) -> Result<Response<NodeExpandVolumeResponse>, Status> {
    let (metadata, _, request) = request.into_parts();
    if request.volume_id.is_empty() {
        return Err(Status::invalid_argument("volume_id is missing"));
    }
    let at = known_path(&request.volume_path, "volume_path")?;
    // The size is the controller's to limit: what it has given is what the filesystem takes.
    let (required, _) = capacity(request.capacity_range.as_ref())?;
    let handle = volume_handle(&request.volume_id)?;
    let (key, staging) = (handle.to_string(), Arc::clone(&service.parts.staging));
    let call = Call { method: "NodeExpandVolume", key: &key, patience: Patience::Node };
    service
        .caller
        .run(call, &metadata, move || {
            let size = staging.expand(&handle, &at, required)?;
            Ok(NodeExpandVolumeResponse { capacity_bytes: i64::try_from(size).unwrap_or(i64::MAX) })
        })
        .await
}
