//! Volumes grow.

use super::ControllerService;
use crate::csi::call::{Call, Patience};
use crate::csi::capability;
use crate::csi::request::{capacity, volume_handle};
use crate::rpc::csi::*;
use crate::volume::Access;
use std::sync::Arc;
use tonic::{Request, Response, Status};

pub(super) async fn expand(
    service: &ControllerService,
    request: Request<ControllerExpandVolumeRequest>,
) -> Result<Response<ControllerExpandVolumeResponse>, Status> {
    let (metadata, _, request) = request.into_parts();
    let handle = volume_handle(&request.volume_id)?;
    if request.capacity_range.is_none() {
        return Err(Status::invalid_argument("capacity_range is missing"));
    }
    let (required, limit) = capacity(request.capacity_range.as_ref())?;
    // A device has its new size when this call ends, or when it is opened next; a filesystem follows on its node.
    let block = match &request.volume_capability {
        None => false,
        Some(given) => capability::one(Some(given))?.access == Access::Block,
    };
    let key = handle.volume.to_string();
    let call = Call { method: "ControllerExpandVolume", key: &key, patience: Patience::Short };
    let shares = Arc::clone(&service.shares);
    service
        .caller
        .run(call, &metadata, move || {
            let size = shares.get(&handle.share)?.expand(handle.volume, required, limit)?;
            Ok(ControllerExpandVolumeResponse {
                capacity_bytes: i64::try_from(size).unwrap_or(i64::MAX),
                node_expansion_required: !block,
            })
        })
        .await
}
