//! What the domain is asked for, and what it answers with.

use super::backup_handle::BackupHandle;
use super::id::{NodeId, SnapshotHandle, VolumeHandle};
use super::record::Consistency;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a new volume's base image is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeKind {
    /// qcow2: grows as it is written to.
    #[default]
    Qcow2,
    /// A raw file with holes.
    RawSparse,
    /// A raw file with every block allocated.
    RawFull,
}

/// What a new volume starts as: a copy, made by reference, or brought back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum VolumeSource {
    /// Of a snapshot.
    Snapshot(SnapshotHandle),
    /// Of a volume, in use or not, as it is at that moment.
    Volume(VolumeHandle),
    /// Of a backup, every byte of which is fetched and verified before the volume is ready.
    Backup(BackupHandle),
}

impl std::fmt::Display for VolumeSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            VolumeSource::Snapshot(snapshot) => snapshot.fmt(f),
            VolumeSource::Volume(volume) => volume.fmt(f),
            VolumeSource::Backup(backup) => backup.fmt(f),
        }
    }
}

impl VolumeSource {
    /// The volume that it is, or was taken of; none that is on a share, if it is a backup.
    pub fn volume(&self) -> Option<VolumeHandle> {
        match self {
            VolumeSource::Snapshot(snapshot) => Some(snapshot.volume_handle()),
            VolumeSource::Volume(volume) => Some(volume.clone()),
            VolumeSource::Backup(_) => None,
        }
    }
}

/// A volume to be made.
#[derive(Clone, Debug)]
pub struct CreateVolume {
    /// The CSI name: the key of idempotency.
    pub name: String,
    /// Bytes wanted at least; None takes the source's size, or 1 GiB.
    pub required: Option<u64>,
    /// Bytes allowed at most.
    pub limit: Option<u64>,
    /// The layout of the base image. A volume with a source is always an overlay.
    pub kind: VolumeKind,
    /// What to start from.
    pub source: Option<VolumeSource>,
    /// The StorageClass's parameters, kept for the operator and for backups.
    pub parameters: BTreeMap<String, String>,
}

/// A volume as callers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeView {
    /// Share and id.
    pub handle: VolumeHandle,
    /// The CSI name.
    pub name: String,
    /// Bytes.
    pub capacity: u64,
    /// What it was made from.
    pub source: Option<VolumeSource>,
    /// The nodes it is published to.
    pub nodes: Vec<NodeId>,
    /// As given at creation.
    pub parameters: BTreeMap<String, String>,
}

/// A snapshot as callers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotView {
    /// Share, volume and id.
    pub handle: SnapshotHandle,
    /// The CSI name.
    pub name: String,
    /// Bytes that a volume made from it needs at least.
    pub size: u64,
    /// When the data stood still.
    pub created_at: jiff::Timestamp,
    /// What the data is worth.
    pub consistency: Consistency,
}

/// The space on a share, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// In all.
    pub total: u64,
    /// Not in use.
    pub free: u64,
}
