//! A volume under its lock: its record read, changed and written back; its files unlinked.

use super::error::{
    BusySnafu, DamagedRecordSnafu, Error, FencedSnafu, PendingSnafu, ShareAwaySnafu, VolumeNotFoundSnafu,
};
use super::id::{NodeId, VolumeId};
use super::info_table;
use super::lock::{Mode, ShareLock};
use super::record::{self, Record};
use super::salvage::is_of_another_version;
use super::steps::{Step, reached};
use super::volumes::Volumes;
use crate::host::fsio;
use snafu::{OptionExt, ensure};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A turn that was just given up may be held for some milliseconds more, by a child between fork and exec.
pub(super) const TURN_WAIT: Duration = Duration::from_millis(300);

/// GlusterFS looks every 5 s whether its bricks have room again.
const ROOM_WAIT: Duration = Duration::from_secs(8);

/// A volume whose lock is held. Nobody else changes it or its files until this is dropped.
pub(super) struct Locked<'a> {
    pub(super) volumes: &'a Volumes,
    lock: ShareLock,
    /// The record; written back by [`Locked::commit`].
    pub(super) record: Record,
    /// The generation that the file on the share has; None if there is none yet.
    stored: Option<u64>,
    /// The node that works here itself, and has closed all that it had open of the volume: it is not asked.
    pub(super) closed_on: Option<NodeId>,
}

/// The right to change which layers refer to which; see [`Volumes::graph`].
pub(super) struct GraphLock {
    _lock: ShareLock,
}

impl Volumes {
    /// Reads a record without its lock: a glance that may be old by the time it is used.
    pub(super) fn read(&self, id: VolumeId) -> Result<Option<Record>, Error> {
        let path = self.layout.record(id);
        let Some(bytes) = read_if_exists(&path).map_err(Error::io("read", &path))? else {
            self.is_there()?;
            return Ok(None);
        };
        let damaged = |reason| {
            let newer = || format!("a newer version of strata wrote it, so use that one ({reason})");
            let reason = if is_of_another_version(&bytes) { newer() } else { reason };
            DamagedRecordSnafu { volume: id, reason }.build()
        };
        let record = record::decode(&bytes).map_err(damaged)?;
        ensure!(
            record.id == id,
            DamagedRecordSnafu { volume: id, reason: format!("it is that of volume {}", record.id) }
        );
        Ok(Some(record))
    }

    /// Whether the share itself is where it is said to be. Below a share that was unmounted lies an empty folder,
    /// in which nothing is found: that must never become "it does not exist".
    pub(super) fn is_there(&self) -> Result<(), Error> {
        let path = self.layout.identity();
        let found = read_if_exists(&path).map_err(Error::io("read", &path))?;
        ensure!(found.is_some(), ShareAwaySnafu { share: self.share.source.clone() });
        Ok(())
    }

    /// Takes a volume's lock, reads its record, and finishes what was begun and not finished.
    pub(super) fn lock(&self, id: VolumeId) -> Result<Locked<'_>, Error> {
        let mut locked = self.lock_as_it_is(id)?;
        locked.recover()?;
        Ok(locked)
    }

    /// The same by a node that has closed whatever it had open of the volume. It must not ask itself: it would wait for
    /// its own answer.
    pub(super) fn lock_on(&self, id: VolumeId, node: &NodeId) -> Result<Locked<'_>, Error> {
        let mut locked = self.lock_as_it_is(id)?;
        locked.closed_on = Some(node.clone());
        locked.recover()?;
        Ok(locked)
    }

    /// The same where no node may be asked, as to finish a cut that was broken off: by a node that has the volume open, and under
    /// the graph lock. That is left to whoever comes next.
    pub(super) fn lock_settled(&self, id: VolumeId) -> Result<Locked<'_>, Error> {
        let locked = self.lock_as_it_is(id)?;
        let doing = "an operation on it was broken off and has to be finished first".to_owned();
        ensure!(locked.record.intent.is_none(), PendingSnafu { volume: id, doing });
        Ok(locked)
    }

    /// The same, whatever was begun.
    pub(super) fn lock_as_it_is(&self, id: VolumeId) -> Result<Locked<'_>, Error> {
        // Without this look every made-up id would leave a lock file behind.
        self.read(id)?.context(VolumeNotFoundSnafu { volume: id })?;
        let lock = self.take_lock(id)?;
        let record = self.read(id)?.context(VolumeNotFoundSnafu { volume: id })?;
        let stored = Some(record.generation);
        Ok(Locked { volumes: self, lock, record, stored, closed_on: None })
    }

    /// Takes the lock of a volume that may not exist; `absent` makes the record that it begins with.
    pub(super) fn lock_or_begin(
        &self,
        id: VolumeId,
        absent: impl FnOnce() -> Record,
    ) -> Result<Locked<'_>, Error> {
        let lock = self.take_lock(id)?;
        let (record, stored) = match self.read(id)? {
            Some(record) => {
                let generation = record.generation;
                (record, Some(generation))
            }
            None => (absent(), None),
        };
        let mut locked = Locked { volumes: self, lock, record, stored, closed_on: None };
        if locked.stored.is_some() {
            locked.recover()?;
        }
        Ok(locked)
    }

    pub(super) fn take_lock(&self, id: VolumeId) -> Result<ShareLock, Error> {
        let path = self.layout.lock(id);
        let lock = ShareLock::acquire(&path, Mode::Exclusive, self.lock_wait);
        if lock.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            self.is_there()?;
        }
        lock.map_err(Error::io("lock", path))?.context(BusySnafu { volume: id })
    }

    /// The right to merge layers of a volume, for as long as that takes: one runner, on whatever node. None: there is
    /// one already. A runner that dies loses it.
    pub(super) fn merge_turn(&self, id: VolumeId) -> Result<Option<ShareLock>, Error> {
        let path = self.layout.merge_lock(id);
        ShareLock::acquire(&path, Mode::Exclusive, TURN_WAIT).map_err(Error::io("lock", path))
    }

    /// Shared, to add a reference to a layer of another volume; exclusive, to take away or merge layers after
    /// having looked that nobody refers to them. Taken before any volume's lock.
    pub(super) fn graph(&self, mode: Mode, volume: VolumeId) -> Result<GraphLock, Error> {
        let path = self.layout.graph_lock();
        let lock = ShareLock::acquire(&path, mode, self.lock_wait).map_err(Error::io("lock", path))?;
        let doing = "the share's layers are being sorted out for another volume";
        Ok(GraphLock { _lock: lock.ok_or_else(|| Error::Pending { volume, doing: doing.to_owned() })? })
    }
}

impl Locked<'_> {
    /// The volume.
    pub(super) fn id(&self) -> VolumeId {
        self.record.id
    }

    /// Proves that the lock is still ours and that nobody wrote behind our back. Before each rename and unlink.
    pub(super) fn fence(&self) -> Result<(), Error> {
        match self.lock.write_generation(self.record.generation) {
            // Says nothing of the lock.
            Err(error) if is_no_room(&error) => {
                return Err(Error::io("write", self.volumes.layout.lock(self.id()))(error));
            }
            written => written.map_err(|error| self.lost(error))?,
        }
        self.is_as_read()
    }

    /// The same where not one byte can be written: a lock that was revoked refuses reads, too.
    fn fence_on_full_share(&self) -> Result<(), Error> {
        self.lock.last_generation().map_err(|error| self.lost(error))?;
        self.is_as_read()
    }

    fn lost(&self, error: io::Error) -> Error {
        FencedSnafu { volume: self.id(), reason: error.to_string() }.build()
    }

    fn is_as_read(&self) -> Result<(), Error> {
        let volume = self.id();
        let found = self.volumes.read(volume)?.map(|record| record.generation);
        ensure!(
            found == self.stored,
            FencedSnafu { volume, reason: format!("generation {found:?} where {:?} was read", self.stored) }
        );
        Ok(())
    }

    /// Before the record says so: on a full share the image of a volume that is to go has to make the room for that
    /// record. Nothing but the volume itself reads its active layer, and who asked for its deletion asks again.
    pub(super) fn unlink_for_room(&self, active: &Path) -> Result<(), Error> {
        tracing::warn!(volume = %self.id(), "the share is full: the volume's image goes before its record");
        self.fence_on_full_share()?;
        remove_file(active)?;
        reached(Step::DeleteMadeRoom);
        Ok(())
    }

    pub(super) fn commit_once_there_is_room(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + ROOM_WAIT;
        loop {
            match self.commit() {
                Err(error) if is_full(&error) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(250));
                }
                committed => return committed,
            }
        }
    }

    /// Writes the record, then the table beside it.
    pub(super) fn commit(&mut self) -> Result<(), Error> {
        self.record.generation += 1;
        let path = self.volumes.layout.record(self.id());
        fsio::write_atomic_if(&path, &record::encode(&self.record), || self.fence())?;
        self.stored = Some(self.record.generation);
        Ok(())
    }

    /// Brings Cinder's table in line with the record.
    pub(super) fn write_info(&self) -> Result<(), Error> {
        let mut bytes = info_table::encode(&self.record.info_table());
        bytes.push(b'\n');
        let path = self.volumes.layout.info(self.id());
        if read_if_exists(&path).map_err(Error::io("read", &path))?.as_deref() != Some(&bytes) {
            fsio::write_atomic_if(&path, &bytes, || self.fence())?;
        }
        Ok(())
    }

    /// The path of a file in the volume's folder.
    pub(super) fn image(&self, file: &str) -> PathBuf {
        self.volumes.layout.image(self.id(), file)
    }

    /// A name that no file of the volume has: the wanted one, or that with a suffix.
    pub(super) fn fresh_file(&self, wanted: String) -> Result<String, Error> {
        if !self.record.uses_file(&wanted) && !exists(&self.image(&wanted))? {
            return Ok(wanted);
        }
        let suffix = uuid::Uuid::new_v4().simple().to_string();
        Ok(format!("{wanted}.{}", &suffix[..8]))
    }

    /// Unlinks what is in the trash, and says so in the record.
    pub(super) fn empty_trash(&mut self) -> Result<(), Error> {
        if self.record.trash.is_empty() {
            return Ok(());
        }
        for file in &self.record.trash {
            self.fence()?;
            remove_file(&self.image(file))?;
        }
        self.record.trash.clear();
        self.commit()
    }

    /// Removes the record itself; the volume is gone.
    pub(super) fn remove_record(&mut self) -> Result<(), Error> {
        self.fence()?;
        remove_file(&self.volumes.layout.info(self.id()))?;
        remove_file(&self.volumes.layout.record(self.id()))?;
        self.stored = None;
        Ok(())
    }
}

/// A file's bytes, or None if there is no such file.
pub(super) fn read_if_exists(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// Whether there is a file. A share that gives no answer to that has not said no: taking it for one would forget what
/// was begun.
pub(super) fn exists(path: &Path) -> Result<bool, Error> {
    path.try_exists().map_err(Error::io("look for", path))
}

/// Unlinks a file. Not there: success, for an earlier try may have come this far.
pub(super) fn remove_file(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("unlink", path)(error)),
        _ => Ok(()),
    }
}

/// Whether a file could not be read because the whole share is away: then nothing is known of the others, either.
pub(super) fn lost_share(error: &Error) -> bool {
    use io::ErrorKind::{HostUnreachable, NotConnected, StaleNetworkFileHandle, TimedOut};
    let away = [NotConnected, StaleNetworkFileHandle, TimedOut, HostUnreachable];
    matches!(error, Error::Io { source, .. } if away.contains(&source.kind()))
}

/// Whether there was no room for a file.
pub(super) fn is_full(error: &Error) -> bool {
    match error {
        Error::Io { source, .. } => is_no_room(source),
        Error::File { source } => is_no_room(&source.source),
        _ => false,
    }
}

fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
