//! `check --repair`: only what is safe, and only while nobody writes to the volume (design: a damaged record is never
//! replaced by itself).

use super::error::*;
use super::id::VolumeId;
use super::lock::Mode;
use super::provision::make_folder;
use super::rebuild::Rebuild;
use super::record::{self, Record, State};
use super::references::list_ids;
use super::report::tops;
use super::salvage::is_of_another_version;
use super::scan::{Below, below};
use super::steps::{Step, reached};
use super::store::{Locked, exists, read_if_exists, remove_file};
use super::volumes::Volumes;
use crate::host::fsio;
use crate::image::header::Header;
use crate::image::{Format, lock};
use jiff::Timestamp;
use serde::Serialize;
use snafu::{ResultExt, ensure};

/// How the names of damaged records begin that were replaced.
pub(super) const DAMAGED: &str = "volume.json.damaged-";

/// Of a folder that a deleted volume left.
pub(super) const KEPT: &str = "the folder of a deleted volume stays: it holds images in lost+found, or files that are not \
                               the volume's; look at them, and remove them";

/// What a repair came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// The volume.
    pub id: VolumeId,
    /// What was done, in order.
    pub done: Vec<String>,
    /// What could not be known, and what stands for it.
    pub unknown: Vec<String>,
}

impl Volumes {
    /// Puts a volume in order: finishes what was begun, rebuilds a record that is missing or damaged, and moves images
    /// that nobody knows into `lost+found`. `format` tells that of a lone base file, if nothing else does.
    pub fn repair(&self, id: VolumeId, format: Option<Format>) -> Result<RepairReport, Error> {
        ensure!(self.layout.volume(id).is_dir(), VolumeNotFoundSnafu { volume: id });
        let mut report = RepairReport { id, done: Vec::new(), unknown: Vec::new() };
        self.nobody_writes(id)?;
        match self.read(id) {
            Ok(Some(record)) => report.done.extend(pending(&record)),
            Ok(None) if self.image_files(id)?.is_empty() => {
                self.sweep(id)?;
                match exists(&self.layout.volume(id))? {
                    true => report.unknown.push(KEPT.to_owned()),
                    false => report.done.push("the folder of a deleted volume was removed".to_owned()),
                }
                return Ok(report);
            }
            Ok(None) | Err(Error::DamagedRecord { .. }) => self.rebuild(id, format, &mut report)?,
            Err(error) => return Err(error),
        }
        let table = read_if_exists(&self.layout.info(id)).ok().flatten();
        // Taking the lock finishes a cut, empties the trash and writes volume.info.
        let mut locked = self.lock(id)?;
        locked.stop_merge()?;
        locked.write_info()?;
        if read_if_exists(&self.layout.info(id)).ok().flatten() != table {
            report.done.push("volume.info was brought in line with the record".to_owned());
        }
        self.nobody_writes(id)?;
        locked.remove_temporaries(&mut report)?;
        locked.remove_damaged_deltas(&mut report)?;
        locked.move_unknown(&mut report)?;
        Ok(report)
    }

    /// Refuses a volume of which any image is open for writing.
    fn nobody_writes(&self, id: VolumeId) -> Result<(), Error> {
        for file in self.image_files(id)? {
            let used = lock::in_use(&self.layout.image(id, &file)).context(ImageLockSnafu)?;
            let reason = format!("{file} is open for writing; detach it first. Nothing was changed");
            ensure!(!used, PreconditionSnafu { volume: id, reason });
        }
        Ok(())
    }

    fn rebuild(&self, id: VolumeId, format: Option<Format>, report: &mut RepairReport) -> Result<(), Error> {
        // Exclusive: nobody may come to stand on these layers, nor leave them, while their ids are worked out.
        let _graph = self.graph(Mode::Exclusive, id)?;
        let lock = self.take_lock(id)?;
        // Now that nobody can open it.
        self.nobody_writes(id)?;
        let path = self.layout.record(id);
        let damaged = read_if_exists(&path).map_err(Error::io("read", &path))?;
        if damaged.as_deref().is_some_and(|bytes| record::decode(bytes).is_ok_and(|record| record.id == id)) {
            // Somebody was faster.
            return Ok(());
        }
        let refused = |reason: String| {
            let reason = format!("its record cannot be rebuilt: {reason}. Nothing was changed");
            Error::Precondition { volume: id, reason }
        };
        if damaged.as_deref().is_some_and(is_of_another_version) {
            return Err(refused(
                "it is whole, but a newer version of strata wrote it: use that one".to_owned(),
            ));
        }
        let mut rebuild = Rebuild::new(self, id, damaged.as_deref(), format).map_err(refused)?;
        let written = lock.last_generation().map_err(Error::io("read", self.layout.lock(id)))?;
        let record = rebuild.record(written).map_err(refused)?;
        let bytes = record::encode(&record);
        record::decode(&bytes).map_err(refused)?;
        for top in tops(&record) {
            self.verify(&self.chain(&record, top)?)?;
        }
        if damaged.is_some() {
            let name = format!("{DAMAGED}{}", Timestamp::now().strftime("%Y%m%dT%H%M%S%fZ"));
            let kept = self.layout.volume(id).join(&name);
            std::fs::hard_link(&path, &kept).map_err(Error::io("keep the damaged record as", &kept))?;
            report.done.push(format!("the damaged record is kept as {name}"));
        }
        // The ids of layers are worked out anew, and might stand for other states than they did.
        self.forget_all_deltas(id)?;
        reached(Step::RepairKept);
        for source in record.layers.iter().filter_map(|layer| layer.parent).map(|parent| parent.volume) {
            if source != id {
                self.announce_child(source, id)?;
            }
        }
        let lost = |error: std::io::Error| FencedSnafu { volume: id, reason: error.to_string() }.build();
        fsio::write_atomic_if(&path, &bytes, || lock.write_generation(record.generation).map_err(lost))?;
        reached(Step::RepairRebuilt);
        report.done.push(format!(
            "the record was rebuilt: {} layers, {} snapshots, {} bytes",
            record.layers.len(),
            record.snapshots.len(),
            record.capacity
        ));
        report.unknown.append(&mut rebuild.unknown);
        for snapshot in &record.snapshots {
            self.note_owner(id, snapshot.id)?;
        }
        Ok(())
    }
}

/// What taking the lock will finish.
fn pending(record: &Record) -> Vec<String> {
    let cut = record.intent.iter().map(|_| "a cut that was broken off was finished".to_owned());
    let merge = record.merge.iter().map(|_| "a merge that was broken off was settled".to_owned());
    let trash = record.trash.iter().map(|file| format!("{file} was removed, as the record had it"));
    cut.chain(merge).chain(trash).collect()
}

impl Locked<'_> {
    /// Temporary files of images and records. Whoever makes one holds this lock.
    fn remove_temporaries(&self, report: &mut RepairReport) -> Result<(), Error> {
        if self.record.state == State::Restoring {
            // Whoever has the turn writes to one of them.
            return Ok(());
        }
        let folder = self.volumes.layout.volume(self.id());
        for entry in std::fs::read_dir(&folder).map_err(Error::io("list", &folder))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(".volume") && name.ends_with(".tmp") {
                self.fence()?;
                remove_file(&entry.path())?;
                report.done.push(format!("{name}, left by an operation that died, was removed"));
            }
        }
        Ok(())
    }

    /// Moves images that the record does not know out of the way, unless something stands on them.
    fn move_unknown(&self, report: &mut RepairReport) -> Result<(), Error> {
        let id = self.id();
        let needed = self.volumes.stood_on(id)?;
        for file in self.volumes.image_files(id)? {
            if self.record.uses_file(&file) {
                continue;
            }
            if needed.contains(&file) {
                report
                    .unknown
                    .push(format!("{file} is not in the record, but another image stands on it: it stays"));
                continue;
            }
            let folder = self.volumes.layout.lost(id);
            make_folder(&folder)?;
            let taken = exists(&folder.join(&file))?;
            let suffix = if taken { format!(".{}", uuid::Uuid::new_v4().simple()) } else { String::new() };
            let to = folder.join(format!("{file}{suffix}"));
            self.fence()?;
            std::fs::rename(self.image(&file), &to).map_err(Error::io("move aside", &to))?;
            reached(Step::RepairMoved);
            fsio::sync_dir(&folder)?;
            fsio::sync_dir(&self.volumes.layout.volume(id))?;
            report.done.push(format!("{file}, which the record does not know, was moved into lost+found"));
        }
        Ok(())
    }
}

impl Volumes {
    /// The files of a volume that headers name, its own and those of its clones.
    fn stood_on(&self, id: VolumeId) -> Result<Vec<String>, Error> {
        let mut named = Vec::new();
        let mut look = |volume: VolumeId| -> Result<(), Error> {
            for file in self.image_files(volume)? {
                let header = Header::read(&self.layout.image(volume, &file)).ok();
                match header.and_then(|header| below(&header.backing_file?)) {
                    Some(Below::Here(file)) if volume == id => named.push(file),
                    Some(Below::Other(other, file)) if other == id => named.push(file),
                    _ => {}
                }
            }
            Ok(())
        };
        look(id)?;
        list_ids(&self.layout.children(id))?.into_iter().try_for_each(look)?;
        Ok(named)
    }
}
