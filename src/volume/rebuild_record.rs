//! What a rebuilt record says, once the images, their order and their ids are known.

use super::id::{LayerId, SnapshotId, VolumeId};
use super::lease::until;
use super::rebuild::Rebuild;
use super::record::{Consistency, Layer, ParentLayer, Pin, Record, Snapshot, State};
use super::scan::{Below, Found};
use super::view::VolumeKind;
use crate::image::Format;
use jiff::Timestamp;
use std::collections::BTreeMap;
use uuid::Uuid;

impl Rebuild<'_> {
    fn parent(&self, found: &Found, ids: &BTreeMap<String, LayerId>) -> Result<Option<ParentLayer>, String> {
        match &found.below {
            None => Ok(None),
            Some(Below::Here(file)) => Ok(Some(ParentLayer { volume: self.id, layer: ids[file] })),
            Some(Below::Other(volume, file)) => {
                let record = self.volumes.read(*volume).map_err(|error| error.to_string())?;
                let record =
                    record.ok_or_else(|| format!("volume {volume}, which it stands on, is not there"))?;
                let layer = record.layers.iter().find(|layer| layer.file == *file);
                let layer = layer.filter(|layer| found.below_format == Some(layer.format));
                let missing =
                    || format!("{} stands on {file}, which volume {volume} does not have so", found.file);
                Ok(Some(ParentLayer { volume: *volume, layer: layer.ok_or_else(missing)?.id }))
            }
        }
    }

    pub(super) fn assemble(
        &mut self,
        active: Option<String>,
        overlays: &BTreeMap<SnapshotId, String>,
        ids: &BTreeMap<String, LayerId>,
        written: u64,
    ) -> Result<Record, String> {
        let incarnation = Uuid::new_v4();
        let mut layers = Vec::new();
        for found in self.found.values() {
            layers.push(Layer {
                id: ids[&found.file],
                incarnation: self.life(
                    self.salvage.layers.iter().find(|layer| layer.file == found.file).map(|l| l.incarnation),
                    incarnation,
                ),
                file: found.file.clone(),
                format: found.format,
                size: found.size,
                parent: self.parent(found, ids)?,
                closed: false,
            });
        }
        let snapshots = self.snapshots(overlays, ids, incarnation)?;
        let name = self
            .salvage
            .name
            .clone()
            .filter(|name| self.salvage.whole || VolumeId::from_name(name) == self.id);
        if name.is_none() {
            self.unknown.push("its name: its id stands for it".to_owned());
        }
        let kind = self.salvage.kind.unwrap_or_else(|| {
            let raw = self.found.values().any(|found| found.format == Format::Raw);
            if raw { VolumeKind::RawSparse } else { VolumeKind::Qcow2 }
        });
        let used = "whether it was ever used: it counts as used, and no filesystem will be made on it";
        self.unknown.push(used.to_owned());
        if self.salvage.parameters.is_none() {
            self.unknown.push("the parameters that it was made with".to_owned());
        }
        if self.salvage.attachments.is_none() {
            self.unknown.push("where it was attached: attach it anew".to_owned());
        }
        let now = Timestamp::now();
        let tops = layers.iter().filter(|layer| {
            let parent = Some(ParentLayer { volume: self.id, layer: layer.id });
            !layers.iter().any(|other| other.parent == parent)
        });
        // Who read when the record was lost may go on: no layer is merged before their leases are over.
        let pin = |layer: &Layer| Pin {
            id: Uuid::new_v4(),
            layer: layer.id,
            owner: "strata volume check --repair, for readers that the lost record named".to_owned(),
            until: until(),
        };
        let pins = tops.map(pin).collect();
        let size = |file: &String| self.found[file].size;
        let capacity = active.as_ref().map(size).or_else(|| self.found.values().map(|f| f.size).max());
        Ok(Record {
            generation: self.salvage.generation.unwrap_or(0).max(written) + 1,
            id: self.id,
            incarnation,
            name: name.unwrap_or_else(|| self.id.to_string()),
            capacity: capacity.unwrap_or(0),
            kind,
            parameters: self.salvage.parameters.clone().unwrap_or_default(),
            source: self.salvage.source.clone(),
            state: if active.is_some() { State::Ready } else { State::Deleted },
            new: false,
            created_at: self.salvage.created_at.unwrap_or(now),
            // Later than any that a node may remember: no volume is opened once a second.
            epoch: self.salvage.epoch.unwrap_or_else(|| now.as_second().max(0) as u64),
            active: active.map(|file| ids[&file]),
            layers,
            snapshots,
            pins,
            attachments: self.salvage.attachments.clone().unwrap_or_default(),
            intent: None,
            merge: None,
            trash: Vec::new(),
            imported: None,
            restore: None,
        })
    }

    /// What a former volume of the same name left keeps its mark; this one's life begins anew.
    fn life(&self, recorded: Option<Uuid>, fresh: Uuid) -> Uuid {
        recorded.filter(|life| self.salvage.incarnation.is_some_and(|ours| ours != *life)).unwrap_or(fresh)
    }

    fn snapshots(
        &mut self,
        overlays: &BTreeMap<SnapshotId, String>,
        ids: &BTreeMap<String, LayerId>,
        incarnation: Uuid,
    ) -> Result<Vec<Snapshot>, String> {
        let mut snapshots = Vec::new();
        for (id, overlay) in overlays {
            let Some(Below::Here(data)) = &self.found[overlay].below else {
                return Err(format!(
                    "{overlay}, the overlay of snapshot {id}, stands on no image of the volume"
                ));
            };
            let recorded = self.salvage.snapshots.iter().find(|snapshot| snapshot.id == *id).cloned();
            if recorded.is_none() {
                self.unknown
                    .push(format!("snapshot {id}: its name and time, and whether its filesystem was frozen"));
            }
            let life = self.life(recorded.as_ref().map(|snapshot| snapshot.incarnation), incarnation);
            let made = || std::fs::metadata(self.folder.join(overlay)).and_then(|meta| meta.modified()).ok();
            let made =
                || made().and_then(|time| Timestamp::try_from(time).ok()).unwrap_or_else(Timestamp::now);
            snapshots.push(Snapshot {
                id: *id,
                name: recorded.as_ref().map_or_else(|| id.to_string(), |snapshot| snapshot.name.clone()),
                layer: ids[data],
                incarnation: life,
                created_at: recorded.as_ref().map_or_else(made, |snapshot| snapshot.created_at),
                size: self.found[data].size,
                consistency: recorded.as_ref().map_or(Consistency::Crash, |snapshot| snapshot.consistency),
                blank: recorded.as_ref().is_some_and(|snapshot| snapshot.blank),
            });
        }
        for recorded in self.salvage.snapshots.iter().filter(|s| !overlays.contains_key(&s.id)) {
            let layer = self.salvage.layers.iter().find(|layer| layer.id == recorded.layer);
            let layer = layer.and_then(|layer| ids.get(&layer.file));
            let layer =
                *layer.ok_or_else(|| format!("which layer holds snapshot {} is not known", recorded.id))?;
            let life = self.life(Some(recorded.incarnation), incarnation);
            snapshots.push(Snapshot { layer, incarnation: life, ..recorded.clone() });
        }
        snapshots.sort_by_key(|snapshot| snapshot.created_at);
        Ok(snapshots)
    }
}
