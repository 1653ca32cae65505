//! A record made anew from what lies beside it: headers, volume.info, what clones say, and what the damaged one still shows.
//!
//! The order of trust: a header tells what its file stands on and in which format; a clone tells which layer it stands on;
//! volume.info tells the active file and which overlay belongs to which snapshot; the damaged record gives names and ids
//! that none of them contradicts. What they do not agree on is refused, with both sides named.

use super::id::{LayerId, SnapshotId, VolumeId};
use super::info_table;
use super::record::{Layer, Record, Snapshot, State};
use super::salvage::{Salvage, salvage};
use super::scan::{Below, Found, below, look, walk};
use super::store::read_if_exists;
use super::volumes::Volumes;
use crate::image::Format;
use crate::image::header::Header;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// A layer of ours that another volume stands on.
struct Standing {
    file: String,
    format: Format,
    layer: LayerId,
}

/// What is known before the record is made.
pub(super) struct Rebuild<'a> {
    pub(super) volumes: &'a Volumes,
    pub(super) id: VolumeId,
    pub(super) folder: PathBuf,
    pub(super) salvage: Salvage,
    /// There is a record, whatever is left of it.
    damaged: bool,
    info: Option<BTreeMap<String, String>>,
    /// What the caller says of a lone base.
    format: Option<Format>,
    /// The images of its chains, by file.
    pub(super) found: BTreeMap<String, Found>,
    /// What could not be known, in words.
    pub(super) unknown: Vec<String>,
}

impl<'a> Rebuild<'a> {
    /// Under the graph lock and the volume's.
    pub(super) fn new(
        volumes: &'a Volumes,
        id: VolumeId,
        damaged: Option<&[u8]>,
        format: Option<Format>,
    ) -> Result<Self, String> {
        let path = volumes.layout.info(id);
        let info = read_if_exists(&path).map_err(|error| error.to_string())?;
        let info = info.map(|bytes| info_table::parse("volume.info", &bytes)).transpose()?;
        Ok(Rebuild {
            volumes,
            id,
            folder: volumes.layout.volume(id),
            salvage: damaged.map(salvage).unwrap_or_default(),
            damaged: damaged.is_some(),
            info,
            format,
            found: BTreeMap::new(),
            unknown: Vec::new(),
        })
    }

    /// The record; `written` is the last generation that the lock file tells of.
    pub(super) fn record(&mut self, written: u64) -> Result<Record, String> {
        if self.salvage.state == Some(State::Restoring) {
            return Err("it was being restored: what it holds is no whole disk; delete it".to_owned());
        }
        self.no_adoption()?;
        let standing = self.standing()?;
        let active = self.active()?;
        if let Some(active) = &active {
            let format = self.format_of(active, &standing)?;
            self.add(active, format)?;
        }
        let overlays = self.overlays()?;
        self.true_snapshots(&overlays)?;
        for overlay in overlays.values() {
            // What stands on something is never raw.
            self.add(overlay, Format::Qcow2)?;
        }
        for layer in &standing {
            self.add(&layer.file, layer.format)?;
        }
        for layer in self.layers_of_snapshots(&overlays)? {
            self.add(&layer.file, layer.format)?;
        }
        self.nothing_on(active.as_deref())?;
        self.snapshots_are_known(active.as_deref())?;
        let ids = self.ids(&standing)?;
        self.assemble(active, &overlays, &ids, written)
    }

    /// Images that all have other names are Cinder's still: of a half-done adoption there was never a record.
    fn no_adoption(&self) -> Result<(), String> {
        let linked = |file: &String| {
            let path = self.folder.join(file);
            std::fs::symlink_metadata(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let files = self.image_files()?;
        let linked = files.iter().map(linked).collect::<Result<Vec<_>, String>>()?;
        if self.damaged || files.is_empty() || linked.iter().any(|meta| meta.nlink() < 2) {
            return Ok(());
        }
        let id = self.id;
        Err(format!(
            "its images have other names, too, as an adoption that was broken off leaves them: finish that by \
             `strata volume import --cinder {id}`, or remove the other names if they are none of Cinder's"
        ))
    }

    fn image_files(&self) -> Result<Vec<String>, String> {
        self.volumes.image_files(self.id).map_err(|error| error.to_string())
    }

    /// A frozen layer whose snapshot is forgotten would be merged away for good.
    fn snapshots_are_known(&self, active: Option<&str>) -> Result<(), String> {
        if self.info.is_some() || self.salvage.snapshots_known {
            return Ok(());
        }
        let files = self.image_files()?;
        let frozen: Vec<&str> =
            files.iter().map(String::as_str).filter(|file| Some(*file) != active).collect();
        if frozen.is_empty() {
            return Ok(());
        }
        Err(format!(
            "there is no volume.info, and no record that shows the snapshots, so that nobody knows which of them {} \
             hold; write {} by hand: {{\"active\": \"<the file that takes the writes>\", \"<snapshot's id>\": \"<the \
             overlay made by its cut, whose backing file is its data>\", …}}, with \"active\" alone if there are none",
            frozen.join(", "),
            self.volumes.layout.info(self.id).display()
        ))
    }

    /// Adds a chain from its top down.
    fn add(&mut self, top: &str, format: Format) -> Result<(), String> {
        for found in walk(&self.folder, top, format)? {
            let known = self.salvage.layers.iter().find(|layer| layer.file == found.file);
            if let Some(known) = known.filter(|known| known.format != found.format) {
                let (file, header) = (&found.file, found.format);
                return Err(format!(
                    "{file} is {header} by what stands on it, but {} in the record",
                    known.format
                ));
            }
            let before = self.found.insert(found.file.clone(), found.clone());
            if before.is_some_and(|before| before.format != found.format) {
                return Err(format!("{} is raw by one header and qcow2 by another", found.file));
            }
        }
        Ok(())
    }

    /// The file that takes the writes: volume.info's, or else the only one that no other stands on.
    fn active(&mut self) -> Result<Option<String>, String> {
        if self.salvage.state == Some(State::Deleted) {
            return Ok(None);
        }
        match &self.info {
            Some(info) => match info.get("active") {
                Some(active) => Ok(Some(active.clone())),
                None => Err("volume.info names no active file, so that it may have been deleted".to_owned()),
            },
            None => {
                let reason = "there is no volume.info: snapshots are known only as far as the damaged record shows them";
                self.unknown.push(reason.to_owned());
                let files = self.image_files()?;
                let headers =
                    files.iter().filter_map(|file| look(&self.folder, file.clone(), Format::Qcow2).ok());
                let stood_on: Vec<_> = headers.filter_map(|found| found.below).collect();
                let mut tops = files.iter().filter(|file| !stood_on.contains(&Below::Here((*file).clone())));
                match (tops.next(), tops.next()) {
                    (Some(top), None) => Ok(Some(top.clone())),
                    (None, _) => Err("no image is the top of a chain".to_owned()),
                    (Some(one), Some(other)) => Err(format!("{one} and {other} are both tops of chains")),
                }
            }
        }
    }

    /// The format of the active file, which no header tells.
    fn format_of(&self, file: &str, standing: &[Standing]) -> Result<Format, String> {
        let of_cut = file.strip_prefix(&format!("volume-{}.", self.id)).and_then(|rest| rest.get(..36));
        let of_cut = of_cut.is_some_and(|uuid| uuid.parse::<SnapshotId>().is_ok());
        let of_snapshot = self.info.iter().flatten().any(|(key, overlay)| key != "active" && overlay == file);
        let overlay = (of_cut || of_snapshot).then_some(Format::Qcow2);
        let recorded = self.salvage.layers.iter().find(|layer| layer.file == file).map(|layer| layer.format);
        let of_clone = standing.iter().find(|layer| layer.file == file).map(|layer| layer.format);
        let mut told = [overlay, recorded, of_clone, self.format].into_iter().flatten();
        let first = told.next().ok_or_else(|| {
            format!("nobody tells whether {file} is raw or qcow2: say so with --format (it is never guessed)")
        })?;
        match told.find(|other| *other != first) {
            Some(other) => Err(format!("{file} is {first} by one account and {other} by another")),
            None => Ok(first),
        }
    }

    /// The overlays that volume.info names, by snapshot.
    fn overlays(&self) -> Result<BTreeMap<SnapshotId, String>, String> {
        let entries = self.info.iter().flatten().filter(|(key, _)| *key != "active");
        let parsed = entries.map(|(key, file)| {
            let id =
                key.parse().map_err(|_| format!("volume.info has an entry {key:?}, which is no snapshot"))?;
            Ok((id, file.clone()))
        });
        parsed.collect()
    }

    /// A snapshot of the damaged record counts under an id that something else bears out: volume.info, the note of whose it
    /// is, or its name.
    fn true_snapshots(&mut self, overlays: &BTreeMap<SnapshotId, String>) -> Result<(), String> {
        let ours = self.id.to_string().into_bytes();
        let noted = |id: &SnapshotId| {
            std::fs::read(self.volumes.layout.snapshot_owner(*id)).is_ok_and(|owner| owner == ours)
        };
        let mut snapshots: BTreeMap<SnapshotId, Snapshot> = BTreeMap::new();
        for snapshot in &self.salvage.snapshots {
            let named = SnapshotId::from_name(&snapshot.name);
            let known = |id: &SnapshotId| overlays.contains_key(id) || noted(id) || named == snapshot.id;
            let id = [snapshot.id, named].into_iter().find(known);
            let reason = || format!("nothing but the damaged record knows of snapshot {}", snapshot.id);
            let id = id.ok_or_else(reason)?;
            snapshots.insert(id, Snapshot { id, ..snapshot.clone() });
        }
        self.salvage.snapshots = snapshots.into_values().collect();
        Ok(())
    }

    /// The layers of snapshots that volume.info does not have: the newest, of a volume that was deleted.
    fn layers_of_snapshots(&mut self, overlays: &BTreeMap<SnapshotId, String>) -> Result<Vec<Layer>, String> {
        let mut layers = Vec::new();
        for snapshot in self.salvage.snapshots.iter().filter(|snapshot| !overlays.contains_key(&snapshot.id))
        {
            let layer = self.salvage.layers.iter().find(|layer| layer.id == snapshot.layer);
            let missing = || format!("which layer holds snapshot {} is not known", snapshot.id);
            layers.push(layer.ok_or_else(missing)?.clone());
        }
        Ok(layers)
    }

    /// An overlay on the active file may have taken its writes already.
    fn nothing_on(&self, active: Option<&str>) -> Result<(), String> {
        let Some(active) = active else { return Ok(()) };
        for file in self.image_files()? {
            let header = Header::read(&self.folder.join(&file)).ok();
            let on = header.and_then(|header| below(&header.backing_file?));
            if on == Some(Below::Here(active.to_owned())) && self.is_image(&file) {
                return Err(format!("volume.info says that {active} is active, but {file} stands on it"));
            }
        }
        Ok(())
    }

    /// A known raw file's bytes are its user's, whatever they look like.
    fn is_image(&self, file: &str) -> bool {
        self.found.get(file).is_none_or(|found| found.format == Format::Qcow2)
    }

    /// What clones say of our layers: by their records which layer, by their headers which file.
    fn standing(&mut self) -> Result<Vec<Standing>, String> {
        let mut standing: Vec<Standing> = Vec::new();
        let children = super::references::list_ids::<VolumeId>(&self.volumes.layout.children(self.id));
        for clone in children.map_err(|error| error.to_string())? {
            let record = match self.volumes.read(clone) {
                Ok(Some(record)) => record,
                Ok(None) => continue,
                Err(error) if self.salvage.whole => {
                    self.unknown.push(format!("whether {clone} stands on it: {error}"));
                    continue;
                }
                Err(error) => return Err(format!("its layers may be those of its clone, but {error}")),
            };
            for layer in &record.layers {
                let Some(parent) = layer.parent.filter(|parent| parent.volume == self.id) else { continue };
                let folder = self.volumes.layout.volume(clone);
                let found = look(&folder, layer.file.clone(), layer.format)
                    .map_err(|reason| format!("its clone {clone}: {reason}"))?;
                let (Some(Below::Other(volume, file)), Some(format)) = (found.below, found.below_format)
                else {
                    return Err(format!("{} of its clone {clone} stands on nothing of it", layer.file));
                };
                if volume != self.id {
                    return Err(format!("{} of its clone {clone} stands on volume {volume}", layer.file));
                }
                standing.push(Standing { file, format, layer: parent.layer });
            }
        }
        Ok(standing)
    }

    /// An id for each file: clones refer to layers by it.
    fn ids(&mut self, standing: &[Standing]) -> Result<BTreeMap<String, LayerId>, String> {
        let mut ids: BTreeMap<String, LayerId> = BTreeMap::new();
        for layer in standing {
            if ids.insert(layer.file.clone(), layer.layer).is_some_and(|other| other != layer.layer) {
                return Err(format!("two clones name the layer of {} differently", layer.file));
            }
        }
        for file in self.found.keys().filter(|file| !standing.iter().any(|layer| layer.file == **file)) {
            let recorded = self.salvage.layers.iter().find(|layer| layer.file == *file).map(|layer| layer.id);
            let free = recorded.filter(|id| !ids.values().any(|other| other == id));
            ids.insert(file.clone(), free.unwrap_or_else(LayerId::random));
        }
        Ok(ids)
    }
}
