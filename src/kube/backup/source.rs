//! From a VolumeBackup to the snapshot that it reads, which is held from then on.

use super::failure::Failure;
use super::owner::{Owner, owner};
use super::status::StatusWriter;
use crate::kube::context::Context;
use crate::kube::crd::snapshot::VolumeSnapshot;
use crate::kube::error::ApiSnafu;
use crate::kube::names::named;
use crate::kube::trigger::handle_of;
use crate::trace;
use crate::volume::{Error as VolumeError, LayerId, Pinned, SnapshotHandle, Volumes};
use ::kube::{Api, ResourceExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use snafu::ResultExt;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Finds the snapshot, notes what it is, and pins its layers. From here on nobody needs the VolumeSnapshot.
pub(super) async fn hold(context: &Context, writer: &mut StatusWriter) -> Result<Arc<Pinned>, Failure> {
    if writer.status.snapshot_handle.is_none() {
        find(context, writer).await?;
    }
    let text = writer.status.snapshot_handle.clone().unwrap_or_default();
    let handle: SnapshotHandle =
        text.parse().map_err(|error| Failure::stays("BadHandle", format!("{error}")))?;
    let share = &handle.share;
    let away = || Failure::heals("ShareAway", format!("the share {share} is not open in this process"));
    let volumes = context.volumes(share).ok_or_else(away)?;
    let layer = writer.status.layer_id.and_then(|layer| layer.to_string().parse().ok());
    trace::about_volume(handle.volume);
    trace::about_snapshot(handle.snapshot);
    let owner = named(&writer.object);
    let pin_handle = handle.clone();
    let pinned =
        tokio::task::spawn_blocking(trace::within(move || pin(&volumes, &pin_handle, layer, &owner)));
    let pinned =
        pinned.await.map_err(|error| Failure::heals("Broken", format!("pinning broke off: {error}")))??;
    let status = &mut writer.status;
    status.layer_id = Some(pinned.state().layer);
    status.volume_id = Some(handle.volume.uuid());
    status.bytes_total = Some(pinned.size);
    let taken = pinned.snapshot.as_ref().map(|snapshot| snapshot.created_at);
    status.snapshot_time = status.snapshot_time.or(taken);
    let pinned = Arc::new(pinned);
    if let Err(failure) = writer.write().await {
        release(pinned).await;
        return Err(failure);
    }
    Ok(pinned)
}

/// Lets go of it; whoever else holds it lets go later.
pub(super) async fn release(pinned: Arc<Pinned>) {
    // Unpinning waits for locks on the share.
    if let Err(error) = tokio::task::spawn_blocking(trace::within(move || drop(pinned))).await {
        tracing::warn!(%error, "a pin was not removed; it ends with its lease");
    }
}

/// By the snapshot; once that is gone, by its layer.
fn pin(
    volumes: &Volumes,
    handle: &SnapshotHandle,
    layer: Option<LayerId>,
    owner: &str,
) -> Result<Pinned, VolumeError> {
    match (volumes.pin_snapshot(handle.volume, handle.snapshot, owner), layer) {
        (Err(VolumeError::SnapshotNotFound { .. }), Some(layer)) => {
            volumes.pin_layer(handle.volume, handle.snapshot, layer, owner)
        }
        (pinned, _) => pinned,
    }
}

async fn find(context: &Context, writer: &mut StatusWriter) -> Result<(), Failure> {
    let Some(wanted) = writer.object.spec.volume_snapshot.clone() else {
        return Err(Failure::stays("NoSource", "spec.volumeSnapshot names no snapshot"));
    };
    let (name, namespace) = (&wanted.name, writer.object.namespace().unwrap_or_default());
    let api: Api<VolumeSnapshot> = Api::namespaced(context.client.clone(), &namespace);
    let found = api.get_opt(name).await.context(ApiSnafu { doing: "read a VolumeSnapshot" })?;
    let found = found.filter(|found| wanted.uid.is_none() || wanted.uid == found.metadata.uid);
    let gone =
        || Failure::stays("SnapshotGone", format!("there is no VolumeSnapshot {name} of that uid any more"));
    let snapshot = found.ok_or_else(gone)?;
    let status = snapshot.status.clone().unwrap_or_default();
    if status.ready_to_use != Some(true) {
        return Err(Failure::heals("SnapshotNotReady", format!("VolumeSnapshot {name} is not ready yet")));
    }
    if let Owner::Another(_) = owner(&writer.object, context).await? {
        return Err(Failure::cancelled());
    }
    let driver = &context.settings.driver;
    let Some(handle) = handle_of(&context.client, &snapshot, driver).await? else {
        return Err(Failure::stays("NotOurs", format!("VolumeSnapshot {name} is no snapshot of {driver}")));
    };
    writer.status.snapshot_handle = Some(handle.to_string());
    writer.status.claim = snapshot.spec.source.persistent_volume_claim_name.clone();
    writer.status.snapshot_time = status.creation_time;
    Ok(())
}

/// When the state stood still, as well as is known.
pub(super) fn taken(writer: &StatusWriter) -> Timestamp {
    let created = writer.object.metadata.creation_timestamp.as_ref().map(|time| time.0);
    writer.status.snapshot_time.or(created).unwrap_or_else(Timestamp::now)
}

/// What is told of the claim, beside what the volume's record tells.
pub(super) async fn claim_meta(
    context: &Context,
    writer: &StatusWriter,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut meta = BTreeMap::new();
    let namespace = writer.object.namespace().unwrap_or_default();
    let Some(name) = &writer.status.claim else { return Ok(meta) };
    let mut tell = |key: &str, value: String| meta.insert(format!("kubernetes.{key}"), value);
    tell("namespace", namespace.clone());
    tell("claim", name.clone());
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &namespace);
    let claim = claims.get_opt(name).await.context(ApiSnafu { doing: "read a PersistentVolumeClaim" })?;
    let Some(claim) = claim else { return Ok(meta) };
    for (key, value) in claim.labels() {
        tell(&format!("label.{key}"), value.clone());
    }
    let spec = claim.spec.unwrap_or_default();
    let facts = [
        ("storage-class", spec.storage_class_name),
        ("volume-mode", spec.volume_mode),
        ("access-modes", spec.access_modes.map(|modes| modes.join(","))),
    ];
    for (key, value) in facts {
        value.map(|value| tell(key, value));
    }
    if let Some(volume) = spec.volume_name {
        let volumes: Api<PersistentVolume> = Api::all(context.client.clone());
        let found = volumes.get_opt(&volume).await.context(ApiSnafu { doing: "read a PersistentVolume" })?;
        let filesystem = found.and_then(|found| found.spec?.csi?.fs_type);
        filesystem.map(|filesystem| tell("fs-type", filesystem));
    }
    Ok(meta)
}
