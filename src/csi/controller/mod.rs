//! The Controller service: one method for each RPC, which the files of this folder hold group by group.

mod attach;
mod backups;
mod expand;
mod inventory;
mod snapshots;
mod volumes;

use super::call::Caller;
use super::{restore::Restores, shares::Shares, tidy::Tidy};
use crate::metrics::Calls;
use crate::rpc::csi::controller_server::Controller;
use crate::rpc::csi::controller_service_capability::rpc::Type as RpcType;
use crate::rpc::csi::controller_service_capability::{Rpc, Type};
use crate::rpc::csi::*;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// What the sidecars may use. The others answer UNIMPLEMENTED.
const CAPABILITIES: &[RpcType] = &[
    RpcType::CreateDeleteVolume,
    RpcType::PublishUnpublishVolume,
    RpcType::PublishReadonly,
    RpcType::CreateDeleteSnapshot,
    RpcType::ListSnapshots,
    RpcType::CloneVolume,
    RpcType::SingleNodeMultiWriter,
    RpcType::ExpandVolume,
    RpcType::ListVolumes,
    RpcType::ListVolumesPublishedNodes,
    RpcType::GetVolume,
    RpcType::GetSnapshot,
    RpcType::GetCapacity,
    RpcType::VolumeCondition,
];

/// Provisioning, attaching and snapshots.
#[derive(Clone)]
pub struct ControllerService {
    shares: Arc<Shares>,
    tidy: Tidy,
    restores: Restores,
    caller: Caller,
}

impl ControllerService {
    /// Over these shares.
    pub fn new(shares: Arc<Shares>, tidy: Tidy, restores: Restores) -> Self {
        ControllerService { shares, tidy, restores, caller: Caller::default() }
    }
}

impl ControllerService {
    /// Counts its calls there.
    pub fn counting(self, calls: Calls) -> Self {
        ControllerService { caller: Caller::counting(calls), ..self }
    }
}

fn unimplemented<T>(method: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!("{method} is not offered; see ControllerGetCapabilities")))
}

#[tonic::async_trait]
impl Controller for ControllerService {
    async fn create_volume(
        &self,
        request: Request<CreateVolumeRequest>,
    ) -> Result<Response<CreateVolumeResponse>, Status> {
        volumes::create(self, request).await
    }

    async fn delete_volume(
        &self,
        request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        volumes::delete(self, request).await
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<ValidateVolumeCapabilitiesResponse>, Status> {
        volumes::validate(self, request).await
    }

    async fn controller_publish_volume(
        &self,
        request: Request<ControllerPublishVolumeRequest>,
    ) -> Result<Response<ControllerPublishVolumeResponse>, Status> {
        attach::publish(self, request).await
    }

    async fn controller_unpublish_volume(
        &self,
        request: Request<ControllerUnpublishVolumeRequest>,
    ) -> Result<Response<ControllerUnpublishVolumeResponse>, Status> {
        attach::unpublish(self, request).await
    }

    async fn create_snapshot(
        &self,
        request: Request<CreateSnapshotRequest>,
    ) -> Result<Response<CreateSnapshotResponse>, Status> {
        snapshots::create(self, request).await
    }

    async fn delete_snapshot(
        &self,
        request: Request<DeleteSnapshotRequest>,
    ) -> Result<Response<DeleteSnapshotResponse>, Status> {
        snapshots::delete(self, request).await
    }

    async fn list_snapshots(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<ListSnapshotsResponse>, Status> {
        snapshots::list(self, request).await
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
        request: Request<ListVolumesRequest>,
    ) -> Result<Response<ListVolumesResponse>, Status> {
        inventory::list(self, request).await
    }

    async fn get_capacity(
        &self,
        request: Request<GetCapacityRequest>,
    ) -> Result<Response<GetCapacityResponse>, Status> {
        inventory::capacity(self, request).await
    }

    async fn get_snapshot(
        &self,
        request: Request<GetSnapshotRequest>,
    ) -> Result<Response<GetSnapshotResponse>, Status> {
        snapshots::get(self, request).await
    }

    async fn controller_expand_volume(
        &self,
        request: Request<ControllerExpandVolumeRequest>,
    ) -> Result<Response<ControllerExpandVolumeResponse>, Status> {
        expand::expand(self, request).await
    }

    async fn controller_get_volume(
        &self,
        request: Request<ControllerGetVolumeRequest>,
    ) -> Result<Response<ControllerGetVolumeResponse>, Status> {
        inventory::get(self, request).await
    }

    async fn controller_modify_volume(
        &self,
        _request: Request<ControllerModifyVolumeRequest>,
    ) -> Result<Response<ControllerModifyVolumeResponse>, Status> {
        unimplemented("ControllerModifyVolume")
    }
}
