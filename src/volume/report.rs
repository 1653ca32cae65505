//! What a person sees of volumes: one line each, or all that is known of one. Nothing here changes anything.

use super::background::Background;
use super::delta_since::DeltaDetail;
use super::error::{Error, VolumeNotFoundSnafu};
use super::id::{LayerId, NodeId, SnapshotHandle, VolumeHandle, VolumeId};
use super::record::{Attachment, Consistency, Intent, Layer, Merge, ParentLayer, Pin, Record, State};
use super::references::{entries, list_ids, parents_in};
use super::view::{VolumeKind, VolumeSource};
use super::volumes::Volumes;
use crate::image::Format;
use jiff::Timestamp;
use serde::Serialize;
use snafu::OptionExt;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Where a volume is in its life, as far as can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Its first image is being made or filled.
    Creating,
    /// In use.
    Ready,
    /// Its data is being brought back from a backup.
    Restoring,
    /// Gone for its users; what snapshots and clones need is still there.
    Deleted,
    /// Its record is missing or cannot be read.
    Damaged,
}

impl From<State> for Condition {
    fn from(state: State) -> Self {
        match state {
            State::Creating => Condition::Creating,
            State::Ready => Condition::Ready,
            State::Restoring => Condition::Restoring,
            State::Deleted => Condition::Deleted,
        }
    }
}

/// A volume in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VolumeSummary {
    /// Share and id.
    pub handle: VolumeHandle,
    /// The CSI name, as far as the record can be read.
    pub name: Option<String>,
    /// Bytes that its users see.
    pub capacity: Option<u64>,
    /// Bytes that the image files in its folder take up.
    pub allocated: u64,
    /// Image files in its folder that belong to it.
    pub layers: usize,
    /// Snapshots of it.
    pub snapshots: usize,
    /// The nodes that it is published to.
    pub attached_to: Vec<NodeId>,
    /// Where it is in its life.
    pub state: Condition,
    /// Why nothing more is known of it.
    pub problem: Option<String>,
}

/// A layer in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerDetail {
    /// Which one.
    pub id: LayerId,
    /// The volume whose folder holds it: a clone's lower layers are another one's.
    pub volume: VolumeId,
    /// Its file.
    pub file: String,
    /// The file's format.
    pub format: Format,
    /// Virtual size in bytes.
    pub size: u64,
    /// Bytes that the file takes up; None if there is no such file.
    pub allocated: Option<u64>,
    /// The layer under it.
    pub parent: Option<ParentLayer>,
    /// It takes the writes.
    pub active: bool,
    /// It is being merged away.
    pub closed: bool,
    /// The snapshots that it holds.
    pub snapshots: Vec<SnapshotHandle>,
    /// Other volumes that stand on it.
    pub clones: Vec<VolumeHandle>,
}

/// A snapshot of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SnapshotDetail {
    /// Share, volume and id.
    pub handle: SnapshotHandle,
    /// The CSI name.
    pub name: String,
    /// The layer that holds its data.
    pub layer: LayerId,
    /// When the data stood still.
    pub created_at: Timestamp,
    /// Bytes.
    pub size: u64,
    /// What the data is worth.
    pub consistency: Consistency,
    /// What changed since the snapshot, or other state, before it.
    pub delta: DeltaDetail,
}

/// All that is known of one volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VolumeDetail {
    /// The line of a list.
    #[serde(flatten)]
    pub summary: VolumeSummary,
    /// The layout that was asked for.
    pub kind: VolumeKind,
    /// What it was made from.
    pub source: Option<VolumeSource>,
    /// The StorageClass's parameters.
    pub parameters: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// No filesystem was ever made on it.
    pub new: bool,
    /// Times that its record was written.
    pub generation: u64,
    /// Times that it was opened.
    pub epoch: u64,
    /// Chains, each from its top down: the active image's first, then what stands beside it.
    pub chains: Vec<Vec<LayerDetail>>,
    /// Points that were asked for.
    pub points: Vec<SnapshotDetail>,
    /// Who reads layers and keeps them as they are.
    pub pins: Vec<Pin>,
    /// Where it is published, and under which epoch it was opened.
    pub attachments: Vec<Attachment>,
    /// The operation that was begun and is not finished.
    pub intent: Option<Intent>,
    /// The merge that was begun and is not finished.
    pub merge: Option<Merge>,
    /// Files that are still to be unlinked.
    pub trash: Vec<String>,
    /// What the background does with it, or what went wrong there.
    pub background: Option<Background>,
    /// What of the chain cannot be followed.
    pub problems: Vec<String>,
}

impl Volumes {
    /// Every volume that has a folder on the share, in one line each; one that is damaged too.
    pub fn summaries(&self) -> Result<Vec<VolumeSummary>, Error> {
        Ok(self.list()?.into_iter().filter_map(|id| self.summary(id)).collect())
    }

    /// None for a folder that a volume left behind: there is nothing of it any more.
    fn summary(&self, id: VolumeId) -> Option<VolumeSummary> {
        let (files, problem) = match self.read(id) {
            Ok(Some(record)) => return Some(self.summary_of(&record)),
            Ok(None) => match self.image_files(id) {
                Ok(files) if files.is_empty() => return None,
                Ok(files) => (files, "it has images, but no record (volume.json)".to_owned()),
                Err(error) => (Vec::new(), error.to_string()),
            },
            Err(error) => (self.image_files(id).unwrap_or_default(), error.to_string()),
        };
        Some(self.damaged(id, &files, problem))
    }

    fn summary_of(&self, record: &Record) -> VolumeSummary {
        let taken = |layer: &Layer| allocated(&self.layout.image(record.id, &layer.file)).unwrap_or(0);
        VolumeSummary {
            handle: self.handle(record.id),
            name: Some(record.name.clone()),
            capacity: Some(record.capacity),
            allocated: record.layers.iter().map(taken).sum(),
            layers: record.layers.len(),
            snapshots: record.snapshots.len(),
            attached_to: record.attachments.iter().map(|attachment| attachment.node.clone()).collect(),
            state: record.state.into(),
            problem: None,
        }
    }

    fn damaged(&self, id: VolumeId, files: &[String], problem: String) -> VolumeSummary {
        let taken = files.iter().filter_map(|file| allocated(&self.layout.image(id, file)));
        VolumeSummary {
            handle: self.handle(id),
            name: None,
            capacity: None,
            allocated: taken.sum(),
            layers: files.len(),
            snapshots: 0,
            attached_to: Vec::new(),
            state: Condition::Damaged,
            problem: Some(problem),
        }
    }

    /// The names of all images in a volume's folder, known to a record or not.
    pub(super) fn image_files(&self, id: VolumeId) -> Result<Vec<String>, Error> {
        let entries = entries(&self.layout.volume(id))?;
        let names = entries.iter().filter_map(|path| path.file_name()?.to_str());
        let mut names: Vec<String> =
            names.filter(|name| name.starts_with("volume-")).map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// All that is known of one volume.
    pub fn detail(&self, id: VolumeId) -> Result<VolumeDetail, Error> {
        let record = self.read(id)?.context(VolumeNotFoundSnafu { volume: id })?;
        let mut problems = Vec::new();
        let clones = self.clones(id, &mut problems)?;
        let mut chains: Vec<Vec<LayerDetail>> = Vec::new();
        for top in tops(&record) {
            let chain = match self.chain(&record, top) {
                Ok(chain) => chain,
                Err(error) => {
                    problems.push(error.to_string());
                    continue;
                }
            };
            let mut shown = Vec::new();
            for link in chain {
                // From here on down it is the same as in a chain before.
                if chains.iter().flatten().any(|layer| layer.id == link.layer.id) {
                    break;
                }
                shown.push(self.layer_detail(&record, link.volume, &link.layer, &clones));
            }
            chains.push(shown);
        }
        let points = record.snapshots.iter().map(|snapshot| SnapshotDetail {
            handle: self.snapshot_handle(id, snapshot.id),
            name: snapshot.name.clone(),
            layer: snapshot.layer,
            created_at: snapshot.created_at,
            size: snapshot.size,
            consistency: snapshot.consistency,
            delta: self.delta_detail(&record, snapshot.layer),
        });
        let background = self.background(id).unwrap_or_else(|error| {
            problems.push(error.to_string());
            None
        });
        Ok(VolumeDetail {
            summary: self.summary_of(&record),
            kind: record.kind,
            source: record.source.clone(),
            parameters: record.parameters.clone(),
            created_at: record.created_at,
            new: record.new,
            generation: record.generation,
            epoch: record.epoch,
            chains,
            points: points.collect(),
            pins: record.pins,
            attachments: record.attachments,
            intent: record.intent,
            merge: record.merge,
            trash: record.trash,
            background,
            problems,
        })
    }

    fn layer_detail(
        &self,
        record: &Record,
        volume: VolumeId,
        layer: &Layer,
        clones: &[(VolumeId, LayerId)],
    ) -> LayerDetail {
        let own = volume == record.id;
        let points = record.snapshots.iter().filter(|snapshot| own && snapshot.layer == layer.id);
        let standing = clones.iter().filter(|(_, on)| own && *on == layer.id);
        LayerDetail {
            id: layer.id,
            volume,
            file: layer.file.clone(),
            format: layer.format,
            size: layer.size,
            allocated: allocated(&self.layout.image(volume, &layer.file)),
            parent: layer.parent,
            active: own && record.active == Some(layer.id),
            closed: layer.closed,
            snapshots: points.map(|snapshot| self.snapshot_handle(volume, snapshot.id)).collect(),
            clones: standing.map(|(clone, _)| self.handle(*clone)).collect(),
        }
    }

    /// The volumes that stand on layers of this one, and on which. A look without a lock.
    fn clones(&self, id: VolumeId, problems: &mut Vec<String>) -> Result<Vec<(VolumeId, LayerId)>, Error> {
        let mut clones = Vec::new();
        for clone in list_ids::<VolumeId>(&self.layout.children(id))? {
            match self.read(clone) {
                Ok(record) => {
                    let parents = record.iter().flat_map(|record| parents_in(record, id));
                    clones.extend(parents.map(|layer| (clone, layer)));
                }
                Err(error) => problems.push(format!("perhaps a clone of it: {error}")),
            }
        }
        Ok(clones)
    }
}

/// The layers that nothing in the record stands on: the active one first.
pub(super) fn tops(record: &Record) -> Vec<LayerId> {
    let beside = record.layers.iter().map(|layer| layer.id);
    let beside = beside.filter(|id| record.active != Some(*id) && record.children(*id).next().is_none());
    record.active.into_iter().chain(beside).collect()
}

/// The bytes that a file takes up.
pub(super) fn allocated(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|meta| meta.blocks() * 512)
}
