//! What there is, and what there is room for.

use super::ControllerService;
use crate::csi::call::{Call, Patience};
use crate::csi::request::{required, volume_handle};
use crate::csi::volume_list::VolumeListing;
use crate::csi::{capacity, wire};
use crate::rpc::csi::controller_get_volume_response::VolumeStatus;
use crate::rpc::csi::*;
use std::sync::Arc;
use tonic::{Request, Response, Status};
use uuid::Uuid;

pub(super) async fn list(
    service: &ControllerService,
    request: Request<ListVolumesRequest>,
) -> Result<Response<ListVolumesResponse>, Status> {
    let (metadata, _, request) = request.into_parts();
    let listing = VolumeListing::parse(&request)?;
    // Reading holds nobody up: any number at a time.
    let key = format!("listing {}", Uuid::new_v4());
    let call = Call { method: "ListVolumes", key: &key, patience: Patience::Long };
    let shares = Arc::clone(&service.shares);
    service.caller.run(call, &metadata, move || listing.run(&shares)).await
}

pub(super) async fn get(
    service: &ControllerService,
    request: Request<ControllerGetVolumeRequest>,
) -> Result<Response<ControllerGetVolumeResponse>, Status> {
    let (metadata, _, request) = request.into_parts();
    required(&request.volume_id, "volume_id")?;
    let handle = volume_handle(&request.volume_id)?;
    let key = format!("{handle}, look {}", Uuid::new_v4());
    let call = Call { method: "ControllerGetVolume", key: &key, patience: Patience::Short };
    let shares = Arc::clone(&service.shares);
    service
        .caller
        .run(call, &metadata, move || {
            let examined = shares.get(&handle.share)?.examine(handle.volume)?;
            let volume = match &examined.view {
                Some(view) => wire::volume(view),
                None => Volume { volume_id: handle.to_string(), ..Volume::default() },
            };
            let status = VolumeStatus {
                published_node_ids: examined.view.as_ref().map(wire::nodes).unwrap_or_default(),
                volume_condition: Some(wire::condition(&examined.health)),
            };
            Ok(ControllerGetVolumeResponse { volume: Some(volume), status: Some(status) })
        })
        .await
}

pub(super) async fn capacity(
    service: &ControllerService,
    request: Request<GetCapacityRequest>,
) -> Result<Response<GetCapacityResponse>, Status> {
    let (metadata, _, request) = request.into_parts();
    let key = format!("counting {}", Uuid::new_v4());
    let call = Call { method: "GetCapacity", key: &key, patience: Patience::Short };
    let shares = Arc::clone(&service.shares);
    service.caller.run(call, &metadata, move || capacity::of(&request, &shares)).await
}
