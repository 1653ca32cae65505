//! Backups in the place of snapshots: looked at, and made volumes of (K10).

use super::ControllerService;
use crate::csi::call::{Call, Patience, limit};
use crate::csi::placement::Wish;
use crate::csi::restore::Restores;
use crate::csi::shares::Shares;
use crate::csi::{restore, wire};
use crate::rpc::csi::list_snapshots_response::Entry;
use crate::rpc::csi::*;
use crate::trace;
use crate::volume::record::FailureKind;
use crate::volume::{BackupHandle, CreateVolume, VolumeId, VolumeView};
use std::sync::Arc;
use std::time::Duration;
use tonic::metadata::MetadataMap;
use tonic::{Response, Status};

/// What a store may take for its manifests before a call is answered without them.
const LOOK: Duration = Duration::from_secs(8);
/// The same where a volume waits; the look goes on, and the next call has what came of it.
const LOOK_FOR_A_VOLUME: Duration = Duration::from_secs(2);

/// A volume that is wanted from a backup.
pub(super) struct Wanted {
    pub(super) handle: BackupHandle,
    pub(super) wanted: CreateVolume,
    /// The share that its class names.
    pub(super) share: Option<String>,
    /// How it is to be used.
    pub(super) usage: Vec<VolumeCapability>,
}

pub(super) async fn create(
    service: &ControllerService,
    metadata: &MetadataMap,
    wanted: Wanted,
) -> Result<Response<CreateVolumeResponse>, Status> {
    let id = VolumeId::from_name(&wanted.wanted.name).to_string();
    trace::about_volume(&id);
    let call = Call { method: "CreateVolume", key: &id, patience: Patience::Restore };
    let (shares, restores) = (Arc::clone(&service.shares), service.restores.clone());
    service
        .caller
        .run(call, metadata, move || {
            let view = bring_back(&shares, &restores, &wanted)?;
            Ok(CreateVolumeResponse { volume: Some(wire::volume(&view)) })
        })
        .await
}

fn bring_back(shares: &Shares, restores: &Restores, wanted: &Wanted) -> Result<VolumeView, Status> {
    let Wanted { handle, wanted, share, usage } = wanted;
    let place = |size: u64| {
        let wish = match share.as_deref() {
            Some(share) => Wish::Named(share),
            None => Wish::Any { kind: wanted.kind, size },
        };
        shares.place(&wanted.name, wish)
    };
    let begun = match shares.has(&wanted.name)? {
        true => {
            let volumes = place(0)?;
            volumes.find_restored(wanted)?.map(|_| volumes)
        }
        false => None,
    };
    let volumes = match begun {
        Some(volumes) => volumes,
        None => {
            let point = restores.look(handle, LOOK_FOR_A_VOLUME)?;
            restore::fits(handle, &point, usage)?;
            let volumes = place(wanted.required.unwrap_or(0).max(point.bytes))?;
            volumes.begin_restore(wanted, point.bytes)?;
            volumes
        }
    };
    restores.bring_back(&volumes, wanted)
}

pub(super) async fn list(
    service: &ControllerService,
    metadata: &MetadataMap,
    request: &ListSnapshotsRequest,
    handle: BackupHandle,
) -> Result<Response<ListSnapshotsResponse>, Status> {
    if request.max_entries < 0 {
        return Err(Status::invalid_argument("max_entries is negative"));
    }
    if !request.starting_token.is_empty() {
        return Err(Status::aborted("starting_token is none that was given here: start over"));
    }
    let source = Some(request.source_volume_id.clone()).filter(|source| !source.is_empty());
    let found = look(service, metadata, "ListSnapshots", handle).await?.into_inner();
    let found = found.filter(|found| source.is_none_or(|source| source == found.source_volume_id));
    let entries = found.map(|snapshot| Entry { snapshot: Some(snapshot) }).into_iter().collect();
    Ok(Response::new(ListSnapshotsResponse { entries, next_token: String::new() }))
}

pub(super) async fn get(
    service: &ControllerService,
    metadata: &MetadataMap,
    handle: BackupHandle,
) -> Result<Response<GetSnapshotResponse>, Status> {
    let gone = format!("backup {} is not in the repository {}", handle.backup, handle.repository);
    let found = look(service, metadata, "GetSnapshot", handle).await?.into_inner();
    let snapshot = found.ok_or_else(|| Status::not_found(gone))?;
    Ok(Response::new(GetSnapshotResponse { snapshot: Some(snapshot) }))
}

/// A backup as CSI has a snapshot. None: its repository is there, and has none of that id.
async fn look(
    service: &ControllerService,
    metadata: &MetadataMap,
    method: &'static str,
    handle: BackupHandle,
) -> Result<Response<Option<Snapshot>>, Status> {
    // Reading holds nobody up: any number at a time.
    let key = format!("{handle}, look {}", uuid::Uuid::new_v4());
    // Before the call's own end, so that the answer says what is waited for.
    let wait = LOOK.min(limit(Patience::Short, metadata) * 4 / 5);
    let call = Call { method, key: &key, patience: Patience::Short };
    let restores = service.restores.clone();
    service
        .caller
        .run(call, metadata, move || match restores.look(&handle, wait) {
            Ok(point) => Ok(Some(wire::backup(&handle, &point))),
            Err(refusal) if refusal.incomplete => Ok(Some(wire::incomplete_backup(&handle))),
            Err(refusal) if refusal.kind == FailureKind::NotFound && refusal.is_of_backup => Ok(None),
            Err(refusal) => Err(refusal.into()),
        })
        .await
}
