//! `volume.json`: the single source of truth about a volume.
//!
//! One JSON object, indented so that an operator can read it:
//! `{"schema": 1, "checksum": "<sha256>", "record": {…}}`. The checksum is that of the record's compact form.
//! A file is accepted only if encoding what was read gives the same bytes again: so a change of any byte,
//! white space included, is noticed, and an unknown key is an error instead of being lost at the next write.
//! A damaged record is never replaced by an older one: that would reopen a base image under a live overlay.

use super::id::{LayerId, NodeId, SnapshotId, VolumeId};
use super::view::{VolumeKind, VolumeSource};
use crate::image::Format;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use uuid::Uuid;

/// The layout of this file. A reader refuses any other.
pub const SCHEMA: u32 = 1;

/// Everything that is known about a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Grows by one with each write.
    pub generation: u64,
    /// The volume, and its folder's name.
    pub id: VolumeId,
    /// Ids come from names and names are reused: this tells one life of a name from the next.
    pub incarnation: Uuid,
    /// The CSI name.
    pub name: String,
    /// Bytes.
    pub capacity: u64,
    /// The layout that was asked for.
    pub kind: VolumeKind,
    /// The StorageClass's parameters.
    pub parameters: BTreeMap<String, String>,
    /// What it was made from.
    pub source: Option<VolumeSource>,
    /// Where it is in its life.
    pub state: State,
    /// No filesystem was ever made on it and no pod ever saw its device. Only then may mkfs run.
    pub new: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Counts the times it was opened: tells one attachment from the next.
    pub epoch: u64,
    /// All layers that live in this volume's folder.
    pub layers: Vec<Layer>,
    /// The layer that takes the writes. None once the volume is deleted.
    pub active: Option<LayerId>,
    /// Points that were asked for and not deleted yet.
    pub snapshots: Vec<Snapshot>,
    /// Readers that are not QEMU and so hold no image lock.
    pub pins: Vec<Pin>,
    /// Where it is published.
    pub attachments: Vec<Attachment>,
    /// The operation that was begun and is not finished.
    pub intent: Option<Intent>,
    /// The merge that was begun; apart from the intent, because it holds no lock while it copies.
    pub merge: Option<Merge>,
    /// Files that no layer uses any more and that are still to be unlinked.
    pub trash: Vec<String>,
    /// What an imported volume was filled from: tells a repeated import from another one of the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<Imported>,
    /// How far the restore is that fills it, while its state is `restoring`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
}

/// A backup on its way into a volume; which one, the record's source says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// Bytes of the volume in the backup.
    pub bytes: u64,
    /// One try of it, and the name of the file that it writes. Whoever finds another one here has lost its turn.
    pub run: Uuid,
    /// All of it is fetched, verified and durable; the base and its overlay are in the record.
    pub whole: bool,
    /// When somebody last wanted to know. Nobody for a day: it goes.
    pub asked_at: Timestamp,
    /// Why the last try ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<RestoreFailure>,
}

/// Why a restore ended without a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreFailure {
    /// What can be done about it.
    pub kind: FailureKind,
    /// For people.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// What can be done about a restore that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The backup or its repository does not exist.
    NotFound,
    /// What is stored of it is damaged.
    DataLoss,
    /// The repository or the share does not answer.
    Unavailable,
    /// The share is full.
    NoRoom,
    /// Something else.
    Failed,
}

/// A file that became a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Imported {
    /// Of the file's bytes.
    pub sha256: String,
    /// The file's length.
    pub bytes: u64,
    /// As it was said to be.
    pub format: Format,
}

/// Where a volume is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its base image is being made.
    Creating,
    /// In use.
    Ready,
    /// Its data is being brought back from a backup.
    Restoring,
    /// Gone for its users; what snapshots and clones still need stays.
    Deleted,
}

/// One state of the data. Frozen as soon as it has a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Whichever file holds it.
    pub id: LayerId,
    /// The life of the volume that wrote it.
    pub incarnation: Uuid,
    /// Its file, in the volume's folder. After a merge a name is only a name.
    pub file: String,
    /// The file's format, never probed.
    pub format: Format,
    /// Virtual size in bytes.
    pub size: u64,
    /// The layer under it.
    pub parent: Option<ParentLayer>,
    /// Being merged away: nobody may refer to it any more.
    pub closed: bool,
}

/// A layer by volume, because a clone's lowest layer stands on one of another volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParentLayer {
    /// The volume whose folder holds it.
    pub volume: VolumeId,
    /// The layer.
    pub layer: LayerId,
}

/// What a snapshot's data is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Nothing had it open.
    Detached,
    /// Its filesystem was frozen: it mounts without a replay of lost writes.
    Filesystem,
    /// As after a power cut: raw block use, or the watchdog thawed before the switch.
    Crash,
}

/// A point in time that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// From the name.
    pub id: SnapshotId,
    /// The CSI name.
    pub name: String,
    /// The frozen layer that holds its data.
    pub layer: LayerId,
    /// The life of the volume that it was taken of.
    pub incarnation: Uuid,
    /// When the data stood still.
    pub created_at: Timestamp,
    /// Bytes.
    pub size: u64,
    /// What the data is worth.
    pub consistency: Consistency,
    /// The volume was still new: there is no filesystem, and who makes a volume from it makes a new one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub blank: bool,
}

/// Keeps a layer and all under it as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Names the pin.
    pub id: Uuid,
    /// The topmost layer that is read.
    pub layer: LayerId,
    /// Who reads, for the operator.
    pub owner: String,
    /// Another one after each renewal: when its lease would end, by its owner's clock. See `lease`.
    pub until: Timestamp,
}

/// A volume published to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// The node.
    pub node: NodeId,
    /// When.
    pub published_at: Timestamp,
    /// The epoch under which the node opened the image; None until it does.
    pub opened: Option<u64>,
    /// What it may do with it. One node writes, or many read, never both.
    #[serde(default, skip_serializing_if = "Role::is_default")]
    pub role: Role,
    /// The layer that a reader has opened: it stays on that one when the volume is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<LayerId>,
}

/// What a node may do with a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Read and write, alone.
    #[default]
    Writer,
    /// Read, beside others.
    Reader,
}

impl Role {
    fn is_default(&self) -> bool {
        *self == Role::default()
    }
}

/// An operation that was begun. Whoever takes the lock next finishes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase", tag = "operation")]
pub enum Intent {
    /// The active layer is to be frozen under a new one.
    Cut {
        /// The snapshot that asked.
        snapshot: SnapshotId,
        /// The layer to freeze.
        frozen: LayerId,
        /// The layer to take the writes.
        overlay: LayerId,
        /// The new layer's file.
        file: String,
    },
}

/// How two layers become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The child's clusters are copied down into the lower layer's file.
    Commit,
    /// The lower layer's clusters are copied up into the child's file.
    Stream,
    /// Everything below, which lies in other volumes, is copied up: a clone stands on its own feet.
    Flatten,
}

/// The daemon that has a volume's layers open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Its node.
    pub node: NodeId,
    /// The attachment.
    pub epoch: u64,
}

/// A merge of a layer that nothing refers to with its only, frozen, child; or of a clone's lowest layer with all
/// that it stands on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Merge {
    /// The layer that goes; of a clone that is flattened, the other volume's layer that it stands on.
    pub lower: LayerId,
    /// Its only child: keeps its id and its contents.
    pub upper: LayerId,
    /// Which file stays.
    pub direction: Direction,
    /// Tells one run of a merge from the next, and names its daemon.
    pub run: Uuid,
    /// Somebody needs the volume: the runner is to stop.
    pub cancelled: bool,
    /// When it began.
    pub started_at: Timestamp,
    /// The daemon that merges, while the volume is attached; None: one of the merge's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Site>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    schema: u32,
    checksum: String,
    record: Record,
}

/// The bytes of a record's file.
pub fn encode(record: &Record) -> Vec<u8> {
    let compact = serde_json::to_vec(record).expect("a record has only string keys");
    let checksum = Sha256::digest(&compact).iter().map(|byte| format!("{byte:02x}")).collect();
    let file = File { schema: SCHEMA, checksum, record: record.clone() };
    let mut bytes = serde_json::to_vec_pretty(&file).expect("a record has only string keys");
    bytes.push(b'\n');
    bytes
}

/// Reads a record's file; the error says what is wrong with it.
pub fn decode(bytes: &[u8]) -> Result<Record, String> {
    #[derive(Deserialize)]
    struct Version {
        schema: u32,
    }
    let version: Version = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if version.schema != SCHEMA {
        return Err(format!("schema {} where this version of strata reads {SCHEMA}", version.schema));
    }
    let file: File = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if encode(&file.record) != bytes {
        return Err("its checksum does not match its contents".to_owned());
    }
    file.record.consistent()?;
    Ok(file.record)
}

impl Record {
    /// A layer of this volume.
    pub fn layer(&self, id: LayerId) -> Option<&Layer> {
        self.layers.iter().find(|layer| layer.id == id)
    }

    /// A layer of this volume, to change.
    pub fn layer_mut(&mut self, id: LayerId) -> Option<&mut Layer> {
        self.layers.iter_mut().find(|layer| layer.id == id)
    }

    /// The layer that takes the writes.
    pub fn active_layer(&self) -> Option<&Layer> {
        self.active.and_then(|id| self.layer(id))
    }

    /// The node that has the volume open for writing, and the epoch under which.
    pub fn writer(&self) -> Option<(NodeId, u64)> {
        let writers = self.attachments.iter().filter(|attachment| attachment.role == Role::Writer);
        writers.filter_map(|attachment| Some((attachment.node.clone(), attachment.opened?))).next()
    }

    /// A node that the volume is published to for reading.
    pub fn reader(&self) -> Option<&NodeId> {
        self.attachments.iter().find(|attachment| attachment.role == Role::Reader).map(|reader| &reader.node)
    }

    /// A snapshot of this volume.
    pub fn snapshot(&self, id: SnapshotId) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.id == id)
    }

    /// The layers of this volume that stand on the given one.
    pub fn children(&self, id: LayerId) -> impl Iterator<Item = &Layer> {
        let parent = ParentLayer { volume: self.id, layer: id };
        self.layers.iter().filter(move |layer| layer.parent == Some(parent))
    }

    /// Whether any layer or the trash uses this file name.
    pub fn uses_file(&self, file: &str) -> bool {
        let intended = matches!(&self.intent, Some(Intent::Cut { file: f, .. }) if f == file);
        intended || self.layers.iter().any(|layer| layer.file == file) || self.trash.iter().any(|f| f == file)
    }

    /// Cinder's table: each snapshot's overlay (whose backing file is the snapshot's data) and `active`.
    pub fn info_table(&self) -> BTreeMap<String, String> {
        let mut table = BTreeMap::new();
        if let Some(active) = self.active_layer() {
            table.insert("active".to_owned(), active.file.clone());
        }
        for snapshot in &self.snapshots {
            if let Some(overlay) = self.children(snapshot.layer).next() {
                table.insert(snapshot.id.to_string(), overlay.file.clone());
            }
        }
        table
    }

    /// What must hold in every record, whoever wrote it.
    fn consistent(&self) -> Result<(), String> {
        for layer in &self.layers {
            if !plain_file_name(&layer.file) {
                return Err(format!(
                    "layer {} names the file {:?}, which leaves the folder",
                    layer.id, layer.file
                ));
            }
            if let Some(parent) = layer.parent
                && parent.volume == self.id
                && self.layer(parent.layer).is_none()
            {
                return Err(format!("layer {} stands on {}, which is not there", layer.id, parent.layer));
            }
        }
        if let Some(file) = self.trash.iter().find(|file| !plain_file_name(file)) {
            return Err(format!("its trash names {file:?}, which leaves the folder"));
        }
        if self.active.is_some() && self.active_layer().is_none() {
            return Err("its active layer is not there".to_owned());
        }
        match self.snapshots.iter().find(|snapshot| self.layer(snapshot.layer).is_none()) {
            Some(snapshot) => Err(format!("snapshot {} has no layer", snapshot.id)),
            None => Ok(()),
        }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

pub(super) fn plain_file_name(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    name.starts_with("volume-") && name.chars().all(fine) && !name.contains("..")
}

#[cfg(test)]
#[path = "record_tests.rs"]
pub(crate) mod tests;
