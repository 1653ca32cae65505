//! `VolumeBackup`: the backup of one snapshot.

use super::Condition;
use jiff::Timestamp;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

/// The backup of one VolumeSnapshot into one repository.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "strata.dev",
    version = "v1alpha1",
    kind = "VolumeBackup",
    namespaced,
    shortname = "vb",
    category = "strata",
    status = "VolumeBackupStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "The backup of one VolumeSnapshot into one repository. Deleting it stops a running backup, and removes what it stored unless its deletion policy is Retain.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Progress", type_ = "integer", json_path = ".status.progress"),
    printcolumn(name = "Repository", type_ = "string", json_path = ".spec.repository"),
    printcolumn(name = "Snapshot", type_ = "string", json_path = ".spec.volumeSnapshot.name"),
    printcolumn(name = "Claim", type_ = "string", json_path = ".status.claim", priority = "1"),
    printcolumn(name = "Total", type_ = "integer", json_path = ".status.bytesTotal", priority = "1"),
    printcolumn(name = "Uploaded", type_ = "integer", json_path = ".status.bytesUploaded"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = "1"),
    printcolumn(name = "Handle", type_ = "string", json_path = ".status.handle", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeBackupSpec {
    /// What is backed up: a snapshot in the same namespace. Absent where the object was made from what a repository holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_snapshot: Option<SnapshotRef>,
    /// The BackupRepository.
    #[schemars(length(min = 1, max = 40))]
    pub repository: String,
    /// The driver whose snapshot it is; Strata installed under another name leaves it alone. Without it: filled in by the
    /// installation whose driver has the snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub driver: Option<String>,
    /// On which backup it is made: `latest` of the same volume in the repository, `none` for a full one, or a backup's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(
        pattern = r"^(latest|none|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$"
    ))]
    pub parent: Option<String>,
    /// What becomes of the stored data when this object is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// What happens at a deletion while other backups are made on this one.
    #[serde(default)]
    pub dependents: Dependents,
}

/// A VolumeSnapshot in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its uid: another snapshot of the same name is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// What becomes of the data when the object goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// They are removed with it.
    #[default]
    Delete,
    /// They stay in the repository; an unfinished backup is removed all the same.
    Retain,
}

/// What happens at a deletion while other backups are made on this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Dependents {
    /// The deletion waits until those are gone.
    #[default]
    Wait,
    /// Those are made whole without this one first, which copies what they need of it.
    Rebase,
}

/// Where a backup is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// It waits for its turn, or for something that its message tells.
    #[default]
    Pending,
    /// It is being made.
    Running,
    /// It is in the repository, whole.
    Completed,
    /// It failed. With `retryAt` it will be tried again.
    Failed,
    /// It is being deleted.
    Deleting,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What is known of a backup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeBackupStatus {
    /// Where it is in its life.
    pub phase: Phase,
    /// Why, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Percent of the volume that is dealt with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub progress: Option<u32>,
    /// The volume's size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
    /// Read from the snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_read: Option<u64>,
    /// Of the volume, stored in this backup: what had changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_changed: Option<u64>,
    /// Put into the repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_uploaded: Option<u64>,
    /// The backup whose objects the store has copied for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub copied_from: Option<Uuid>,
    /// Copied within the repository: neither read nor put.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_copied: Option<u64>,
    /// Bytes of the volume per second, so far or in the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Why it is a full one although a parent was looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_because: Option<String>,
    /// Why everything was read although there is a parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_all_because: Option<String>,
    /// Whether what was stored was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    /// The id in the repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub backup_id: Option<Uuid>,
    /// The backup that it is made on; absent for a full one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub parent_id: Option<Uuid>,
    /// What a VolumeSnapshotContent names to restore it: `bak://REPOSITORY/VOLUME/BACKUP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// The snapshot's handle with the driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_handle: Option<String>,
    /// The volume's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub volume_id: Option<Uuid>,
    /// The frozen layer that is read, by which it is found even after its snapshot was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub layer_id: Option<Uuid>,
    /// The claim that the snapshot was taken of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// When the snapshot was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::time")]
    pub snapshot_time: Option<Timestamp>,
    /// When the last try began.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::time")]
    pub started_at: Option<Timestamp>,
    /// When it was complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::time")]
    pub completed_at: Option<Timestamp>,
    /// Tries that failed since the spec was last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<u32>,
    /// When it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::time")]
    pub retry_at: Option<Timestamp>,
    /// Who works on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// The generation of the spec that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Complete`, and while it is deleted `Deletable`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A look at what was stored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// Nothing is damaged, as far as it was looked at.
    pub good: bool,
    /// Percent of the objects that were read back.
    pub percent: u32,
    /// When.
    #[schemars(schema_with = "super::time")]
    pub checked_at: Timestamp,
    /// What is damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
