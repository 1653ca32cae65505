//! The turn to bring a volume's data back: one at a time has it, and it ends with the process that does.

use super::backup_handle::BackupHandle;
use super::chain::relative;
use super::error::*;
use super::id::{LayerId, VolumeId};
use super::lock::{Mode, ShareLock};
use super::record::{FailureKind, Layer, ParentLayer, Record, RestoreFailure, State};
use super::references::entries;
use super::restore::backup_of;
use super::steps::{Step, reached};
use super::store::{Locked, TURN_WAIT, exists, remove_file};
use super::view::{VolumeKind, VolumeView};
use super::volumes::Volumes;
use crate::host::fsio;
use crate::image::qemu_img::{Create, Preallocation};
use crate::image::{Format, ImageRef, QemuImg, header, raw};
use jiff::Timestamp;
use snafu::{OptionExt, ResultExt, ensure};
use std::fs::File;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Times that a busy volume is tried again, each as long as any operation waits for one: what was fetched is worth it.
const PATIENCE: usize = 20;
/// A record is read whole at each look: a message of some hundred letters says enough.
const MESSAGE: usize = 1000;

/// The right to bring back a volume's data, and where to.
pub struct RestoreTurn {
    volumes: Volumes,
    volume: VolumeId,
    run: Uuid,
    capacity: u64,
    kind: VolumeKind,
    /// The backup.
    pub backup: BackupHandle,
    /// Its bytes, as they were when the restore was begun.
    pub bytes: u64,
    /// Given up with the turn, or with the process.
    _lock: ShareLock,
}

impl RestoreTurn {
    pub(super) fn take(volumes: &Volumes, id: VolumeId) -> Result<Option<Self>, Error> {
        let path = volumes.layout.restore_lock(id);
        let lock = ShareLock::acquire(&path, Mode::Exclusive, TURN_WAIT).map_err(Error::io("lock", path))?;
        let Some(lock) = lock else { return Ok(None) };
        let mut locked = match volumes.lock(id) {
            Err(Error::VolumeNotFound { .. }) => return Ok(None),
            locked => locked?,
        };
        if locked.record.state != State::Restoring {
            return Ok(None);
        }
        if restore_of(&locked.record)?.whole {
            if locked.finish_restore()? {
                return Ok(None);
            }
            locked.take_back()?;
        }
        locked.remove_tries()?;
        let record = &mut locked.record;
        let run = Uuid::new_v4();
        if let Some(restore) = record.restore.as_mut() {
            (restore.run, restore.failure) = (run, None);
        }
        locked.commit()?;
        reached(Step::RestoreBegun);
        let record = &locked.record;
        let reason = "it is being restored, and its record does not say from where".to_owned();
        let backup = backup_of(record).context(DamagedRecordSnafu { volume: id, reason })?;
        let bytes = restore_of(record)?.bytes;
        let (capacity, kind) = (record.capacity, record.kind);
        drop(locked);
        Ok(Some(RestoreTurn {
            volumes: volumes.clone(),
            volume: id,
            run,
            capacity,
            kind,
            backup,
            bytes,
            _lock: lock,
        }))
    }

    /// The file to write: not there yet, in the volume's folder. No record and no chain names it.
    pub fn target(&self) -> PathBuf {
        try_file(&self.volumes, self.volume, self.run)
    }

    /// As what to write it.
    pub fn format(&self) -> Format {
        if self.kind == VolumeKind::Qcow2 { Format::Qcow2 } else { Format::Raw }
    }

    /// Whether the volume is still wanted, from this try. False: stop.
    pub fn is_wanted(&self) -> Result<bool, Error> {
        Ok(self.volumes.read(self.volume)?.is_some_and(|record| self.is_of(&record)))
    }

    fn is_of(&self, record: &Record) -> bool {
        let run = record.restore.as_ref().map(|restore| restore.run);
        record.state == State::Restoring && run == Some(self.run)
    }

    /// Tells other controllers how far it is, as a hint.
    pub fn note(&self, done: u64, total: u64) {
        self.volumes.note_restore(self.volume, done, total);
    }

    /// The target is there, whole, verified and durable: it becomes the volume.
    pub fn finish(&self) -> Result<VolumeView, Error> {
        reached(Step::RestoreFetched);
        self.fit()?;
        let mut locked = self.locked()?;
        locked.journal_restored(self.format())?;
        reached(Step::RestoreWhole);
        let there = locked.finish_restore()?;
        let reason = "the restored file is gone".to_owned();
        ensure!(there, FencedSnafu { volume: self.volume, reason });
        Ok(self.volumes.view(&locked.record))
    }

    /// The volume is larger than its backup, or to have all its blocks.
    fn fit(&self) -> Result<(), Error> {
        let target = self.target();
        let grow = Error::io("grow", &target);
        match self.format() {
            Format::Raw => {
                let filled = match self.kind {
                    VolumeKind::RawFull => raw::fill(&target, self.capacity),
                    _ => Ok(()),
                };
                filled.and_then(|()| raw::extend(&target, self.capacity)).map_err(grow)
            }
            Format::Qcow2 => {
                let size = header::virtual_size(&target, Format::Qcow2).context(ImageHeaderSnafu)?;
                if size < self.capacity {
                    let image = ImageRef { path: target.clone(), format: Format::Qcow2 };
                    let img = QemuImg::new(self.volumes.tools.qemu_img.clone());
                    img.grow(std::slice::from_ref(&image), self.capacity).context(QemuImgSnafu)?;
                }
                File::open(&target).and_then(|file| file.sync_all()).map_err(Error::io("sync", &target))
            }
        }
    }

    /// Keeps in the record why it ended without a volume. Not wanted any more: nothing is kept.
    pub fn fail(&self, kind: FailureKind, message: &str) {
        tracing::warn!(volume = %self.volume, backup = %self.backup, ?kind, message, "a restore failed");
        let kept = self.locked().and_then(|mut locked| {
            let message = message.chars().take(MESSAGE).collect();
            if let Some(restore) = locked.record.restore.as_mut() {
                restore.failure = Some(RestoreFailure { kind, message, at: Timestamp::now() });
            }
            locked.remove_tries()?;
            locked.commit()
        });
        if let Err(error) = kept {
            tracing::debug!(volume = %self.volume, %error, "why a restore failed is not kept");
        }
        self.volumes.note_nothing(self.volume);
    }

    fn locked(&self) -> Result<Locked<'_>, Error> {
        let mut tries = 0;
        let locked = loop {
            match self.volumes.lock(self.volume) {
                Err(Error::Busy { .. }) if tries < PATIENCE => tries += 1,
                locked => break locked?,
            }
        };
        let reason = "it was deleted, or another try to restore it has begun".to_owned();
        ensure!(self.is_of(&locked.record), FencedSnafu { volume: self.volume, reason });
        Ok(locked)
    }
}

fn restore_of(record: &Record) -> Result<&super::record::Restore, Error> {
    let reason = "it is being restored, and its record does not say how far that is".to_owned();
    record.restore.as_ref().context(DamagedRecordSnafu { volume: record.id, reason })
}

fn try_file(volumes: &Volumes, volume: VolumeId, run: Uuid) -> PathBuf {
    volumes.layout.image(volume, &format!(".volume-{volume}.restore-{run}.tmp"))
}

/// Whether a file is what some try has left: its own, or the one that becomes it.
fn is_a_try(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with('.') && name.contains(".restore-") && name.ends_with(".tmp")
}

impl Locked<'_> {
    /// Says in the record that all of it is there, and which files it will be in: a frozen base, and the overlay that
    /// takes the writes.
    fn journal_restored(&mut self, format: Format) -> Result<(), Error> {
        let (id, capacity, incarnation) = (self.id(), self.record.capacity, self.record.incarnation);
        let reason = "it is being restored, and its record does not say from where".to_owned();
        let backup = backup_of(&self.record).context(DamagedRecordSnafu { volume: id, reason })?;
        let base = LayerId::of_restored(incarnation, &backup.to_string());
        let overlay = LayerId::random();
        let base_file = self.fresh_file(format!("volume-{id}"))?;
        let overlay_file = self.fresh_file(format!("volume-{id}.{overlay}"))?;
        let layer = |id, file, format, parent| Layer {
            id,
            incarnation,
            file,
            format,
            size: capacity,
            parent,
            closed: false,
        };
        let parent = Some(ParentLayer { volume: id, layer: base });
        self.record.layers.push(layer(base, base_file, format, None));
        self.record.layers.push(layer(overlay, overlay_file, Format::Qcow2, parent));
        self.record.active = Some(overlay);
        if let Some(restore) = self.record.restore.as_mut() {
            restore.whole = true;
        }
        self.commit()
    }

    /// Gives what was brought back its name, puts the overlay on it and makes the volume ready. Can be done again. False:
    /// what was brought back is not there.
    fn finish_restore(&mut self) -> Result<bool, Error> {
        let run = restore_of(&self.record)?.run;
        let reason = "it is being restored, and its record does not say into which files".to_owned();
        let damaged = DamagedRecordSnafu { volume: self.id(), reason };
        let overlay = self.record.active_layer().context(damaged.clone())?.clone();
        let base = overlay.parent.and_then(|parent| self.record.layer(parent.layer));
        let base = base.context(damaged)?.clone();
        let path = self.image(&base.file);
        if !exists(&path)? {
            let fetched = try_file(self.volumes, self.id(), run);
            if !exists(&fetched)? {
                return Ok(false);
            }
            self.fence()?;
            fsio::rename_new(&fetched, &path).map_err(Error::io("rename into place", &path))?;
            fsio::sync_dir(&self.volumes.layout.volume(self.id()))?;
        }
        reached(Step::RestoreNamed);
        if !exists(&self.image(&overlay.file))? {
            let name = relative(&self.image(&overlay.file), &path);
            let create = Create {
                format: Format::Qcow2,
                size: overlay.size,
                preallocation: Preallocation::Off,
                backing: Some((name, base.format)),
            };
            self.volumes.make_image(self, &overlay.file, &create)?;
        }
        reached(Step::RestoreOverlaid);
        self.record.state = State::Ready;
        self.record.restore = None;
        self.commit()?;
        self.write_info()?;
        self.volumes.note_nothing(self.id());
        Ok(true)
    }

    /// What was brought back is gone: another try begins from nothing.
    fn take_back(&mut self) -> Result<(), Error> {
        let incarnation = self.record.incarnation;
        let layers = std::mem::take(&mut self.record.layers);
        let (gone, kept): (Vec<Layer>, _) =
            layers.into_iter().partition(|layer| layer.incarnation == incarnation);
        self.record.layers = kept;
        self.record.trash.extend(gone.into_iter().map(|layer| layer.file));
        self.record.active = None;
        if let Some(restore) = self.record.restore.as_mut() {
            restore.whole = false;
        }
        self.commit()?;
        self.empty_trash()
    }

    /// Removes what other tries have left. One that still runs somewhere goes on into a file without a name.
    fn remove_tries(&self) -> Result<(), Error> {
        for path in entries(&self.volumes.layout.volume(self.id()))? {
            if is_a_try(&path) {
                self.fence()?;
                remove_file(&path)?;
            }
        }
        Ok(())
    }
}
