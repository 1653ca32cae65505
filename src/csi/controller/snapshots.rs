//! Snapshots are cut, deleted and listed.

use super::ControllerService;
use crate::csi::call::{Call, Patience};
use crate::csi::request::{backup_handle, name, required, volume_handle};
use crate::csi::snapshot_list::Listing;
use crate::csi::{params, wire};
use crate::rpc::csi::*;
use crate::trace;
use crate::volume::{Error, SnapshotHandle, SnapshotId};
use std::sync::Arc;
use tonic::{Request, Response, Status};

pub(super) async fn create(
    service: &ControllerService,
    request: Request<CreateSnapshotRequest>,
) -> Result<Response<CreateSnapshotResponse>, Status> {
    let (metadata, _, request) = request.into_parts();
    let name = name(&request.name)?.to_owned();
    required(&request.source_volume_id, "source_volume_id")?;
    params::snapshot(&request.parameters)?;
    let handle = volume_handle(&request.source_volume_id)?;
    trace::about_snapshot(SnapshotId::from_name(&name));
    let key = handle.volume.to_string();
    let call = Call { method: "CreateSnapshot", key: &key, patience: Patience::Long };
    let (shares, tidy) = (Arc::clone(&service.shares), service.tidy.clone());
    service
        .caller
        .run(call, &metadata, move || {
            let volumes = shares.get(&handle.share)?;
            let view = volumes.snapshot(handle.volume, &name)?;
            // The nameless boundary that was under the active image is now between frozen layers.
            tidy.request(&volumes, handle.volume);
            Ok(CreateSnapshotResponse { snapshot: Some(wire::snapshot(&view)) })
        })
        .await
}

fn about(handle: &SnapshotHandle) {
    trace::about_volume(handle.volume);
    trace::about_snapshot(handle.snapshot);
}

pub(super) async fn delete(
    service: &ControllerService,
    request: Request<DeleteSnapshotRequest>,
) -> Result<Response<DeleteSnapshotResponse>, Status> {
    let (metadata, _, request) = request.into_parts();
    let Ok(handle) = required(&request.snapshot_id, "snapshot_id")?.parse::<SnapshotHandle>() else {
        // No snapshot of ours. A backup's handle too: objects go with their backup, not with this.
        return Ok(Response::new(DeleteSnapshotResponse {}));
    };
    about(&handle);
    let key = handle.volume.to_string();
    let call = Call { method: "DeleteSnapshot", key: &key, patience: Patience::Long };
    let (shares, tidy) = (Arc::clone(&service.shares), service.tidy.clone());
    service
        .caller
        .run(call, &metadata, move || {
            let volumes = shares.get(&handle.share)?;
            volumes.delete_snapshot(handle.volume, handle.snapshot)?;
            tidy.request(&volumes, handle.volume);
            Ok(DeleteSnapshotResponse {})
        })
        .await
}

pub(super) async fn list(
    service: &ControllerService,
    request: Request<ListSnapshotsRequest>,
) -> Result<Response<ListSnapshotsResponse>, Status> {
    let (metadata, _, request) = request.into_parts();
    if let Some(handle) = backup_handle(&request.snapshot_id)? {
        return super::backups::list(service, &metadata, &request, handle).await;
    }
    let listing = Listing::parse(&request)?;
    // Reading holds nobody up: any number at a time.
    let key = format!("listing {}", uuid::Uuid::new_v4());
    let call = Call { method: "ListSnapshots", key: &key, patience: Patience::Long };
    let shares = Arc::clone(&service.shares);
    service.caller.run(call, &metadata, move || listing.run(&shares)).await
}

pub(super) async fn get(
    service: &ControllerService,
    request: Request<GetSnapshotRequest>,
) -> Result<Response<GetSnapshotResponse>, Status> {
    let (metadata, _, request) = request.into_parts();
    let text = required(&request.snapshot_id, "snapshot_id")?;
    if let Some(handle) = backup_handle(text)? {
        return super::backups::get(service, &metadata, handle).await;
    }
    let handle = text.parse::<SnapshotHandle>();
    let handle = handle.map_err(|error| Status::not_found(error.to_string()))?;
    about(&handle);
    let key = format!("{handle}, look {}", uuid::Uuid::new_v4());
    let call = Call { method: "GetSnapshot", key: &key, patience: Patience::Short };
    let shares = Arc::clone(&service.shares);
    service
        .caller
        .run(call, &metadata, move || {
            let found = shares.get(&handle.share)?.get_snapshot(handle.volume, handle.snapshot)?;
            let view =
                found.ok_or(Error::SnapshotNotFound { volume: handle.volume, snapshot: handle.snapshot })?;
            Ok(GetSnapshotResponse { snapshot: Some(wire::snapshot(&view)) })
        })
        .await
}
