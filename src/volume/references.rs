//! Who refers to a layer, and freeing those that nobody refers to.
//!
//! A clone's record names the layer that it stands on. So that this can be found without reading every record of
//! a share, the source's folder has `children/<clone-id>`, made before the clone's record and removed after
//! it: always all of the clones, perhaps some that no longer are; each is checked against its record.

use super::error::{DamagedRecordSnafu, Error};
use super::id::{LayerId, VolumeId};
use super::lock::Mode;
use super::provision::make_folder;
use super::record::{ParentLayer, Record, State};
use super::repair::DAMAGED;
use super::steps::{Step, reached};
use super::store::{Locked, exists, remove_file};
use super::volumes::Volumes;
use crate::host::fsio;
use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

impl Volumes {
    /// Notes in the source's folder that a clone is about to stand on one of its layers.
    pub(super) fn announce_child(&self, source: VolumeId, clone: VolumeId) -> Result<(), Error> {
        let folder = self.layout.children(source);
        make_folder(&folder)?;
        Ok(fsio::write_atomic(&folder.join(clone.to_string()), b"")?)
    }

    /// The layers of a volume that other volumes stand on. Under the graph lock.
    pub(super) fn outside_references(&self, id: VolumeId) -> Result<HashSet<LayerId>, Error> {
        let (referred, gone) = self.clones_of(id)?;
        for child in gone {
            // A clone that was never finished, or is gone. Nobody can be about to write it: that
            // would hold the graph lock.
            remove_file(&self.layout.children(id).join(child.to_string()))?;
        }
        Ok(referred)
    }

    /// The layers of a volume that its clones stand on, and those who were announced as clones and are none. A clone that has
    /// images and no record stands on nobody knows what: an error, for a repair of it needs these layers.
    pub(super) fn clones_of(&self, id: VolumeId) -> Result<(HashSet<LayerId>, Vec<VolumeId>), Error> {
        let (mut referred, mut gone) = (HashSet::new(), Vec::new());
        for child in list_ids(&self.layout.children(id))? {
            let parents = match self.read(child)? {
                Some(record) => parents_in(&record, id),
                None if self.image_files(child)?.is_empty() => BTreeSet::new(),
                None => {
                    let reason = format!("it is missing, and its images may stand on layers of volume {id}");
                    return DamagedRecordSnafu { volume: child, reason }.fail();
                }
            };
            if parents.is_empty() {
                gone.push(child);
            }
            referred.extend(parents);
        }
        Ok((referred, gone))
    }

    /// Frees every layer that nothing refers to; of a deleted volume, in the end, all. Then the same
    /// for the volumes that it stood on.
    pub(super) fn sweep(&self, id: VolumeId) -> Result<(), Error> {
        let mut queue: Vec<VolumeId> = self.sweep_one(id)?.into_iter().collect();
        while let Some(source) = queue.pop() {
            // With a reference less it may have layers to merge; and one that is busy is freed then.
            self.note_due(source);
            match self.sweep_one(source) {
                Ok(more) => queue.extend(more),
                Err(error) => {
                    tracing::debug!(volume = %source, %error, "what it no longer needs is freed later")
                }
            }
        }
        Ok(())
    }

    /// Answers the volumes that have perhaps lost a reference.
    fn sweep_one(&self, id: VolumeId) -> Result<BTreeSet<VolumeId>, Error> {
        self.settle(id)?;
        let graph = self.graph(Mode::Exclusive, id)?;
        let mut locked = match self.lock_settled(id) {
            Err(Error::VolumeNotFound { .. }) => {
                self.remove_leftovers(id)?;
                return Ok(BTreeSet::new());
            }
            locked => locked?,
        };
        let outside = self.outside_references(id)?;
        let before = sources(&locked.record);
        let mut freed = Vec::new();
        while let Some(index) = self.unreferenced(&locked.record, &outside) {
            let layer = locked.record.layers.remove(index);
            freed.push(layer.id);
            // A layer that shares its file with another one cannot be; still, look before unlinking.
            if !locked.record.layers.iter().any(|other| other.file == layer.file) {
                locked.record.trash.push(layer.file);
            }
        }
        if locked.drop_pins() || !locked.record.trash.is_empty() {
            locked.commit()?;
            reached(Step::SweepTrashed);
            locked.empty_trash()?;
        }
        locked.forget_deltas(&freed)?;
        let lost: BTreeSet<VolumeId> = before.difference(&sources(&locked.record)).copied().collect();
        let gone = locked.record.state == State::Deleted && locked.record.layers.is_empty();
        if gone {
            locked.remove_record()?;
            reached(Step::VolumeRecordRemoved);
            self.remove_folder(id);
        } else {
            locked.write_info()?;
        }
        // Still under both locks: a new life of this volume may announce itself again right after.
        for source in &lost {
            remove_file(&self.layout.children(*source).join(id.to_string()))?;
        }
        drop(locked);
        drop(graph);
        Ok(lost)
    }

    /// Finishes what was begun on a volume, before the graph lock is taken: a node that has to be asked and does
    /// not answer would keep all other volumes of the share waiting.
    pub(super) fn settle(&self, id: VolumeId) -> Result<(), Error> {
        match self.lock(id) {
            Err(Error::VolumeNotFound { .. }) => Ok(()),
            locked => locked.map(drop),
        }
    }

    /// Removes the folder of a volume whose record is gone.
    fn remove_leftovers(&self, id: VolumeId) -> Result<(), Error> {
        if exists(&self.layout.volume(id))? {
            let _lock = self.take_lock(id)?;
            if self.read(id)?.is_none() {
                self.remove_folder(id);
            }
        }
        Ok(())
    }

    /// Removes the folder of a volume that has no record. What is in it that is not ours keeps it there, and so does
    /// what a repair has moved aside.
    fn remove_folder(&self, id: VolumeId) {
        let removed = self.leftovers(id).and_then(|leftovers| match leftovers {
            Some(files) => self.remove_files(id, &files),
            None => {
                tracing::warn!(
                    volume = %id,
                    folder = %self.layout.volume(id).display(),
                    "the folder of a deleted volume holds files that are not its own, or images in lost+found: it stays"
                );
                Ok(())
            }
        });
        if let Err(error) = removed {
            tracing::warn!(volume = %id, %error, "the folder of a deleted volume stays for now");
        }
    }

    fn remove_files(&self, id: VolumeId, files: &[PathBuf]) -> Result<(), Error> {
        files.iter().try_for_each(|file| remove_file(file))?;
        self.note_nothing(id);
        let folder = self.layout.volume(id);
        for folder in [self.layout.children(id), self.layout.lost(id), self.layout.deltas(id), folder] {
            match std::fs::remove_dir(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", folder)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The files that go with the folder of a volume that has no record; None if something there is to stay.
    pub(super) fn leftovers(&self, id: VolumeId) -> Result<Option<Vec<PathBuf>>, Error> {
        let mut files = Vec::new();
        for path in entries(&self.layout.volume(id))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let temporary = name.starts_with('.') && name.ends_with(".tmp");
            if temporary || name.starts_with(DAMAGED) {
                files.push(path);
            } else if path == self.layout.deltas(id) {
                let Some(deltas) = self.delta_files(id)? else { return Ok(None) };
                files.extend(deltas);
            } else if path == self.layout.children(id) || path == self.layout.lost(id) {
                if !entries(&path)?.is_empty() {
                    return Ok(None);
                }
            } else if path != self.layout.background(id) {
                return Ok(None);
            }
        }
        Ok(Some(files))
    }
}

impl Volumes {
    /// The layers that pins cover: each pinned one and all under it.
    fn pinned(&self, record: &Record) -> HashSet<LayerId> {
        let mut covered = HashSet::new();
        for pin in self.pins.holding(record) {
            let mut next = Some(ParentLayer { volume: record.id, layer: pin.layer });
            while let Some(at) = next.filter(|at| at.volume == record.id && covered.insert(at.layer)) {
                next = record.layer(at.layer).and_then(|layer| layer.parent);
            }
        }
        covered
    }

    /// The index of a layer that nothing refers to.
    pub(super) fn unreferenced(&self, record: &Record, outside: &HashSet<LayerId>) -> Option<usize> {
        let pinned = self.pinned(record);
        let merging = |id| record.merge.as_ref().is_some_and(|merge| merge.lower == id || merge.upper == id);
        record.layers.iter().position(|layer| {
            record.active != Some(layer.id)
                && !record.snapshots.iter().any(|snapshot| snapshot.layer == layer.id)
                && record.children(layer.id).next().is_none()
                && !outside.contains(&layer.id)
                && !pinned.contains(&layer.id)
                && !merging(layer.id)
        })
    }
}

impl Locked<'_> {
    /// Whether somebody reads this layer, or one above it, without holding an image lock.
    pub(super) fn is_pinned(&self, layer: LayerId) -> bool {
        self.volumes.pinned(&self.record).contains(&layer)
    }
}

/// The volumes that this one stands on.
pub(super) fn sources(record: &Record) -> BTreeSet<VolumeId> {
    let parents = record.layers.iter().filter_map(|layer| layer.parent);
    parents.map(|parent| parent.volume).filter(|volume| *volume != record.id).collect()
}

/// The layers of `of` that a volume's layers stand on.
pub(super) fn parents_in(record: &Record, of: VolumeId) -> BTreeSet<LayerId> {
    let parents = record.layers.iter().filter_map(|layer| layer.parent);
    parents.filter(|parent| parent.volume == of).map(|parent| parent.layer).collect()
}

/// The ids that name the entries of a folder. No folder: none.
pub(super) fn list_ids<I: std::str::FromStr + Ord>(folder: &Path) -> Result<Vec<I>, Error> {
    let names = entries(folder)?;
    let names = names.iter().filter_map(|path| path.file_name()?.to_str());
    let mut ids: Vec<I> = names.filter_map(|name| name.parse().ok()).collect();
    ids.sort();
    Ok(ids)
}

/// What is in a folder. No folder: nothing.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io("list", folder))?,
    };
    let path =
        |entry: std::io::Result<std::fs::DirEntry>| Ok(entry.map_err(Error::io("list", folder))?.path());
    entries.map(path).collect()
}
