//! Volumes are made, deleted and asked about.

use super::ControllerService;
use super::backups::Wanted;
use crate::csi::call::{Call, Patience};
use crate::csi::placement::Wish;
use crate::csi::request::{GIB, capacity, content_source, name, required, volume_handle};
use crate::csi::{capability, params, restore, wire};
use crate::rpc::csi::validate_volume_capabilities_response::Confirmed;
use crate::rpc::csi::*;
use crate::trace;
use crate::volume::{CreateVolume, VolumeHandle, VolumeId, VolumeSource};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tonic::{Request, Response, Status};

pub(super) async fn create(
    service: &ControllerService,
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
    if source.is_none() && capability::stays_empty(&request.volume_capabilities) {
        return Err(Status::invalid_argument(
            "an empty volume that is only read never gets a filesystem: name a snapshot or a volume as its source,              or ask for a mode that writes",
        ));
    }
    let mut parameters: BTreeMap<String, String> = request.parameters.into_iter().collect();
    parameters.extend(restore::parameters(&request.volume_capabilities));
    if let Some(VolumeSource::Backup(handle)) = source.clone() {
        let wanted = CreateVolume { name, required, limit, kind: class.kind, source, parameters };
        let wanted = Wanted { handle, wanted, share: class.share, usage: request.volume_capabilities };
        return super::backups::create(service, &metadata, wanted).await;
    }
    let id = VolumeId::from_name(&name).to_string();
    trace::about_volume(&id);
    let call = Call { method: "CreateVolume", key: &id, patience: Patience::Short };
    let (shares, tidy) = (Arc::clone(&service.shares), service.tidy.clone());
    service
        .caller
        .run(call, &metadata, move || {
            let origin = source.as_ref().and_then(|source| Some(source.volume()?.share));
            let wish = match (&origin, class.share.as_deref()) {
                (Some(share), _) => Wish::Of(share),
                (None, Some(share)) => Wish::Named(share),
                (None, None) => Wish::Any { kind: class.kind, size: required.unwrap_or(GIB) },
            };
            let volumes = shares.place(&name, wish)?;
            let made_from = source.is_some();
            let view = volumes.create(&CreateVolume {
                name,
                required,
                limit,
                kind: class.kind,
                source,
                parameters,
            })?;
            if made_from {
                // Its chain may be longer than it should be.
                tidy.request(&volumes, view.handle.volume);
            }
            Ok(CreateVolumeResponse { volume: Some(wire::volume(&view)) })
        })
        .await
}

pub(super) async fn delete(
    service: &ControllerService,
    request: Request<DeleteVolumeRequest>,
) -> Result<Response<DeleteVolumeResponse>, Status> {
    let (metadata, _, request) = request.into_parts();
    let Ok(handle) = required(&request.volume_id, "volume_id")?.parse::<VolumeHandle>() else {
        // No volume of ours can have that id: it is gone already.
        return Ok(Response::new(DeleteVolumeResponse {}));
    };
    let key = handle.volume.to_string();
    let call = Call { method: "DeleteVolume", key: &key, patience: Patience::Short };
    let (shares, tidy) = (Arc::clone(&service.shares), service.tidy.clone());
    service
        .caller
        .run(call, &metadata, move || {
            let volumes = shares.get(&handle.share)?;
            volumes.delete(handle.volume)?;
            tidy.request(&volumes, handle.volume);
            Ok(DeleteVolumeResponse {})
        })
        .await
}

pub(super) async fn validate(
    service: &ControllerService,
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
    let shares = Arc::clone(&service.shares);
    service
        .caller
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
