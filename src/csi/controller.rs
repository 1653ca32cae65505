//! The Controller service.

use super::call::{Call, Caller, Patience};
use super::placement::Wish;
use super::snapshots::{self, Listing};
use super::{capability, params, shares::Shares, tidy::Tidy};
use crate::rpc::csi::controller_server::Controller;
use crate::rpc::csi::controller_service_capability::rpc::Type as RpcType;
use crate::rpc::csi::controller_service_capability::{Rpc, Type};
use crate::rpc::csi::validate_volume_capabilities_response::Confirmed;
use crate::rpc::csi::volume_content_source::{SnapshotSource, Type as SourceType};
use crate::rpc::csi::*;
use crate::volume::{CreateVolume, NodeId, SnapshotHandle, VolumeHandle, VolumeId, VolumeSource, VolumeView};
use std::collections::HashMap;
use std::sync::Arc;
use tonic::{Request, Response, Status};

const GIB: u64 = 1 << 30;
/// CSI bounds names to 128 bytes.
const MAX_NAME: usize = 128;

/// What the sidecars may use. Each has its method below; the others answer UNIMPLEMENTED.
const CAPABILITIES: &[RpcType] = &[
    RpcType::CreateDeleteVolume,
    RpcType::PublishUnpublishVolume,
    RpcType::CreateDeleteSnapshot,
    RpcType::ListSnapshots,
];

/// Provisioning, attaching and snapshots.
#[derive(Clone)]
pub struct ControllerService {
    shares: Arc<Shares>,
    tidy: Tidy,
    caller: Caller,
}

impl ControllerService {
    /// Over these shares.
    pub fn new(shares: Arc<Shares>, tidy: Tidy) -> Self {
        ControllerService { shares, tidy, caller: Caller::default() }
    }
}

fn unimplemented<T>(method: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!("{method} is not offered; see ControllerGetCapabilities")))
}

fn required<'a>(value: &'a str, what: &str) -> Result<&'a str, Status> {
    if value.is_empty() {
        return Err(Status::invalid_argument(format!("{what} is missing")));
    }
    Ok(value)
}

/// A name becomes part of an id, never of a path; still its length and letters are CSI's.
fn name(value: &str) -> Result<&str, Status> {
    let value = required(value, "name")?;
    if value.len() > MAX_NAME || value.chars().any(char::is_control) {
        return Err(Status::invalid_argument("name has more than 128 bytes, or control characters"));
    }
    Ok(value)
}

/// A handle that is none names a volume that does not exist.
fn volume_handle(value: &str) -> Result<VolumeHandle, Status> {
    required(value, "volume_id")?.parse().map_err(|error| Status::not_found(format!("{error}")))
}

/// Whole GiB at least as large as asked for, within the limit. None: nothing was asked for.
fn capacity(range: Option<&CapacityRange>) -> Result<(Option<u64>, Option<u64>), Status> {
    let Some(range) = range else { return Ok((None, None)) };
    let bound = |value: i64| match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(Status::invalid_argument("a negative capacity")),
    };
    let (asked, limit) = (bound(range.required_bytes)?, bound(range.limit_bytes)?);
    let required = asked
        .map(|bytes| {
            bytes
                .checked_next_multiple_of(GIB)
                .filter(|bytes| i64::try_from(*bytes).is_ok())
                .ok_or_else(|| Status::out_of_range("the capacity is beyond what CSI can say"))
        })
        .transpose()?;
    if let Some(limit) = limit {
        if asked.is_some_and(|asked| asked > limit) {
            return Err(Status::invalid_argument("required_bytes is above limit_bytes"));
        }
        let smallest = required.unwrap_or(GIB);
        if smallest > limit {
            return Err(Status::out_of_range(format!(
                "capacities are whole GiB: {smallest} bytes is the least, and the limit is {limit}"
            )));
        }
    }
    Ok((required, limit))
}

fn content_source(source: Option<&VolumeContentSource>) -> Result<Option<SnapshotHandle>, Status> {
    match source.and_then(|source| source.r#type.as_ref()) {
        None if source.is_some() => Err(Status::invalid_argument("a volume_content_source without a source")),
        None => Ok(None),
        Some(SourceType::Snapshot(snapshot)) => {
            let handle = required(&snapshot.snapshot_id, "snapshot_id")?;
            handle.parse().map(Some).map_err(|error| Status::not_found(format!("{error}")))
        }
        Some(SourceType::Volume(_)) => Err(Status::invalid_argument(
            "cloning a volume is not offered: make a snapshot, and a volume from it",
        )),
    }
}

fn volume_to_wire(view: &VolumeView) -> Volume {
    let source = view.source.as_ref().map(|snapshot| VolumeContentSource {
        r#type: Some(SourceType::Snapshot(SnapshotSource { snapshot_id: snapshot.to_string() })),
    });
    Volume {
        capacity_bytes: i64::try_from(view.capacity).unwrap_or(i64::MAX),
        volume_id: view.handle.to_string(),
        volume_context: HashMap::new(),
        content_source: source,
        accessible_topology: Vec::new(),
    }
}

#[tonic::async_trait]
impl Controller for ControllerService {
    async fn create_volume(
        &self,
        request: Request<CreateVolumeRequest>,
    ) -> Result<Response<CreateVolumeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let name = name(&request.name)?.to_owned();
        capability::all(&request.volume_capabilities)?;
        let class = params::volume(&request.parameters)?;
        if !request.mutable_parameters.is_empty() {
            return Err(Status::invalid_argument("mutable_parameters are not offered"));
        }
        let (required, limit) = capacity(request.capacity_range.as_ref())?;
        let source = content_source(request.volume_content_source.as_ref())?;
        let id = VolumeId::from_name(&name).to_string();
        let call = Call { method: "CreateVolume", key: &id, patience: Patience::Short };
        let shares = Arc::clone(&self.shares);
        self.caller
            .run(call, &metadata, move || {
                let wish = match (&source, class.share.as_deref()) {
                    (Some(snapshot), _) => Wish::Of(&snapshot.share),
                    (None, Some(share)) => Wish::Named(share),
                    (None, None) => Wish::Any { kind: class.kind, size: required.unwrap_or(GIB) },
                };
                let volumes = shares.place(&name, wish)?;
                let view = volumes.create(&CreateVolume {
                    name,
                    required,
                    limit,
                    kind: class.kind,
                    source: source.map(VolumeSource::Snapshot),
                    parameters: request.parameters.into_iter().collect(),
                })?;
                Ok(CreateVolumeResponse { volume: Some(volume_to_wire(&view)) })
            })
            .await
    }

    async fn delete_volume(
        &self,
        request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let Ok(handle) = required(&request.volume_id, "volume_id")?.parse::<VolumeHandle>() else {
            // No volume of ours can have that id: it is gone already.
            return Ok(Response::new(DeleteVolumeResponse {}));
        };
        let key = handle.volume.to_string();
        let call = Call { method: "DeleteVolume", key: &key, patience: Patience::Short };
        let (shares, tidy) = (Arc::clone(&self.shares), self.tidy.clone());
        self.caller
            .run(call, &metadata, move || {
                let volumes = shares.get(&handle.share)?;
                volumes.delete(handle.volume)?;
                tidy.request(&volumes, handle.volume);
                Ok(DeleteVolumeResponse {})
            })
            .await
    }

    async fn controller_publish_volume(
        &self,
        request: Request<ControllerPublishVolumeRequest>,
    ) -> Result<Response<ControllerPublishVolumeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        required(&request.volume_id, "volume_id")?;
        let node = required(&request.node_id, "node_id")?;
        capability::one(request.volume_capability.as_ref())?;
        if request.readonly {
            return Err(Status::invalid_argument("attaching read-only is not offered"));
        }
        let handle = volume_handle(&request.volume_id)?;
        let node = node.parse::<NodeId>().map_err(|error| Status::not_found(error.to_string()))?;
        let key = handle.volume.to_string();
        let call = Call { method: "ControllerPublishVolume", key: &key, patience: Patience::Short };
        let shares = Arc::clone(&self.shares);
        self.caller
            .run(call, &metadata, move || {
                shares.get(&handle.share)?.publish(handle.volume, &node)?;
                Ok(ControllerPublishVolumeResponse::default())
            })
            .await
    }

    async fn controller_unpublish_volume(
        &self,
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
        let (shares, tidy) = (Arc::clone(&self.shares), self.tidy.clone());
        self.caller
            .run(call, &metadata, move || {
                let volumes = shares.get(&handle.share)?;
                volumes.unpublish(handle.volume, node.as_ref())?;
                tidy.request(&volumes, handle.volume);
                Ok(ControllerUnpublishVolumeResponse {})
            })
            .await
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<ValidateVolumeCapabilitiesResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        required(&request.volume_id, "volume_id")?;
        if request.volume_capabilities.is_empty() {
            return Err(Status::invalid_argument("volume capabilities are missing"));
        }
        let handle = volume_handle(&request.volume_id)?;
        let key = format!("validation of {}", handle.volume);
        let call = Call { method: "ValidateVolumeCapabilities", key: &key, patience: Patience::Short };
        let shares = Arc::clone(&self.shares);
        self.caller
            .run(call, &metadata, move || {
                shares.get(&handle.share)?.get(handle.volume)?;
                let parameters = params::volume(&request.parameters).err().map(|s| s.message().to_owned());
                let unoffered = capability::unoffered(&request.volume_capabilities).or(parameters);
                Ok(match unoffered {
                    Some(message) => ValidateVolumeCapabilitiesResponse { confirmed: None, message },
                    None => ValidateVolumeCapabilitiesResponse {
                        confirmed: Some(Confirmed {
                            volume_context: request.volume_context,
                            volume_capabilities: request.volume_capabilities,
                            parameters: request.parameters,
                            mutable_parameters: HashMap::new(),
                        }),
                        message: String::new(),
                    },
                })
            })
            .await
    }

    async fn create_snapshot(
        &self,
        request: Request<CreateSnapshotRequest>,
    ) -> Result<Response<CreateSnapshotResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let name = name(&request.name)?.to_owned();
        required(&request.source_volume_id, "source_volume_id")?;
        params::snapshot(&request.parameters)?;
        let handle = volume_handle(&request.source_volume_id)?;
        let key = handle.volume.to_string();
        let call = Call { method: "CreateSnapshot", key: &key, patience: Patience::Long };
        let shares = Arc::clone(&self.shares);
        self.caller
            .run(call, &metadata, move || {
                let view = shares.get(&handle.share)?.snapshot(handle.volume, &name)?;
                Ok(CreateSnapshotResponse { snapshot: Some(snapshots::to_wire(&view)) })
            })
            .await
    }

    async fn delete_snapshot(
        &self,
        request: Request<DeleteSnapshotRequest>,
    ) -> Result<Response<DeleteSnapshotResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let Ok(handle) = required(&request.snapshot_id, "snapshot_id")?.parse::<SnapshotHandle>() else {
            // No snapshot of ours. A backup's handle too: objects go with their backup, not with this.
            return Ok(Response::new(DeleteSnapshotResponse {}));
        };
        let key = handle.volume.to_string();
        let call = Call { method: "DeleteSnapshot", key: &key, patience: Patience::Long };
        let (shares, tidy) = (Arc::clone(&self.shares), self.tidy.clone());
        self.caller
            .run(call, &metadata, move || {
                let volumes = shares.get(&handle.share)?;
                volumes.delete_snapshot(handle.volume, handle.snapshot)?;
                tidy.request(&volumes, handle.volume);
                Ok(DeleteSnapshotResponse {})
            })
            .await
    }

    async fn list_snapshots(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<ListSnapshotsResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let listing = Listing::parse(&request)?;
        // Reading holds nobody up: any number at a time.
        let key = format!("listing {}", uuid::Uuid::new_v4());
        let call = Call { method: "ListSnapshots", key: &key, patience: Patience::Long };
        let shares = Arc::clone(&self.shares);
        self.caller.run(call, &metadata, move || listing.run(&shares)).await
    }

    async fn controller_get_capabilities(
        &self,
        _request: Request<ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<ControllerGetCapabilitiesResponse>, Status> {
        let capabilities = CAPABILITIES
            .iter()
            .map(|rpc| ControllerServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: (*rpc).into() })) })
            .collect();
        Ok(Response::new(ControllerGetCapabilitiesResponse { capabilities }))
    }

    async fn list_volumes(
        &self,
        _request: Request<ListVolumesRequest>,
    ) -> Result<Response<ListVolumesResponse>, Status> {
        unimplemented("ListVolumes")
    }

    async fn get_capacity(
        &self,
        _request: Request<GetCapacityRequest>,
    ) -> Result<Response<GetCapacityResponse>, Status> {
        unimplemented("GetCapacity")
    }

    async fn get_snapshot(
        &self,
        _request: Request<GetSnapshotRequest>,
    ) -> Result<Response<GetSnapshotResponse>, Status> {
        unimplemented("GetSnapshot")
    }

    async fn controller_expand_volume(
        &self,
        _request: Request<ControllerExpandVolumeRequest>,
    ) -> Result<Response<ControllerExpandVolumeResponse>, Status> {
        unimplemented("ControllerExpandVolume")
    }

    async fn controller_get_volume(
        &self,
        _request: Request<ControllerGetVolumeRequest>,
    ) -> Result<Response<ControllerGetVolumeResponse>, Status> {
        unimplemented("ControllerGetVolume")
    }

    async fn controller_modify_volume(
        &self,
        _request: Request<ControllerModifyVolumeRequest>,
    ) -> Result<Response<ControllerModifyVolumeResponse>, Status> {
        unimplemented("ControllerModifyVolume")
    }
}

#[cfg(test)]
#[path = "controller_tests.rs"]
mod tests;
