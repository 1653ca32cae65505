//! Snapshots: taken by a cut, found, listed, and dropped.

use super::error::*;
use super::id::{SnapshotId, VolumeId};
use super::lock::{Mode, ShareLock};
use super::record::{Record, Snapshot, State};
use super::steps::{Step, reached};
use super::store::{TURN_WAIT, read_if_exists, remove_file};
use super::view::SnapshotView;
use super::volumes::Volumes;
use crate::host::fsio;
use snafu::ensure;
use std::path::Path;

impl Volumes {
    /// Takes a snapshot, of a volume in use or not, or finds the one that an earlier call of that name took.
    pub fn snapshot(&self, volume: VolumeId, name: &str) -> Result<SnapshotView, Error> {
        let id = SnapshotId::from_name(name);
        let mut locked = self.lock(volume)?;
        if let Some(snapshot) = locked.record.snapshot(id) {
            let of_this_life = snapshot.incarnation == locked.record.incarnation;
            let difference = "it is a snapshot of an earlier volume of the same name";
            ensure!(of_this_life, NameTakenSnafu { name, difference });
            return Ok(self.snapshot_view(volume, snapshot));
        }
        match locked.record.state {
            State::Ready => {}
            State::Deleted => return VolumeNotFoundSnafu { volume }.fail(),
            state => {
                let reason = format!("it is {state:?}, so that there is nothing to take a snapshot of yet");
                return PreconditionSnafu { volume, reason }.fail();
            }
        }
        self.claim_name(volume, id, name)?;
        reached(Step::SnapshotNamed);
        locked.stop_merge()?;
        let snapshot = locked.cut(id, name)?;
        locked.write_info()?;
        Ok(self.snapshot_view(volume, &snapshot))
    }

    /// A snapshot's name is one name for all volumes of the driver. Who has it says a file, which is changed only by whoever
    /// holds the lock of the volume that it names: so a volume that has claimed a name keeps it until its record has the
    /// snapshot, and of several that find a claim of nobody's one takes it.
    fn claim_name(&self, volume: VolumeId, id: SnapshotId, name: &str) -> Result<(), Error> {
        let path = self.layout.snapshot_owner(id);
        let claim = volume.to_string();
        let pending = || Error::Pending {
            volume,
            doing: format!("another volume is about to take, or to delete, a snapshot of the name {name:?}"),
        };
        let Some(owner) = owner(&path)? else {
            super::provision::make_folder(path.parent().expect("it is in a folder"))?;
            return match fsio::create_exclusive(&path, claim.as_bytes()) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(pending()),
                created => Ok(created?),
            };
        };
        if owner == volume {
            return Ok(());
        }
        self.ensure_not_of(owner, id, name)?;
        // Without waiting for long: it may be waiting for ours.
        let lock = ShareLock::acquire(&self.layout.lock(owner), Mode::Exclusive, TURN_WAIT);
        let lock = lock.map_err(Error::io("lock", self.layout.lock(owner)))?.ok_or_else(pending)?;
        self.ensure_not_of(owner, id, name)?;
        if self::owner(&path)? != Some(owner) {
            return Err(pending());
        }
        // A lock that was revoked refuses to be read.
        let still_held = || lock.last_generation().map(drop);
        fsio::write_atomic_if(&path, claim.as_bytes(), || {
            still_held().map_err(Error::io("read", self.layout.lock(owner)))
        })
    }

    fn ensure_not_of(&self, owner: VolumeId, id: SnapshotId, name: &str) -> Result<(), Error> {
        let theirs = self.read(owner)?.is_some_and(|record| record.snapshot(id).is_some());
        let difference = format!("it is a snapshot of volume {owner}");
        ensure!(!theirs, NameTakenSnafu { name, difference });
        Ok(())
    }

    /// Notes whose a snapshot is that was not taken here.
    pub(super) fn note_owner(&self, volume: VolumeId, id: SnapshotId) -> Result<(), Error> {
        let path = self.layout.snapshot_owner(id);
        super::provision::make_folder(path.parent().expect("it is in a folder"))?;
        Ok(fsio::write_atomic(&path, volume.to_string().as_bytes())?)
    }

    /// Drops a snapshot. Its space comes back later, by [`Volumes::tidy`]. Not there: success.
    pub fn delete_snapshot(&self, volume: VolumeId, snapshot: SnapshotId) -> Result<(), Error> {
        let mut locked = match self.lock(volume) {
            Err(Error::VolumeNotFound { .. }) => return Ok(()),
            locked => locked?,
        };
        if locked.record.snapshot(snapshot).is_some() {
            locked.record.snapshots.retain(|other| other.id != snapshot);
            locked.commit()?;
            reached(Step::DeleteDropped);
            locked.write_info()?;
        }
        let path = self.layout.snapshot_owner(snapshot);
        if owner(&path)? == Some(volume) {
            remove_file(&path)?;
        }
        Ok(())
    }

    /// A snapshot, if it is there.
    pub fn get_snapshot(
        &self,
        volume: VolumeId,
        snapshot: SnapshotId,
    ) -> Result<Option<SnapshotView>, Error> {
        let record = self.read(volume)?;
        let found = record.as_ref().and_then(|record| record.snapshot(snapshot));
        Ok(found.map(|snapshot| self.snapshot_view(volume, snapshot)))
    }

    /// The snapshots of a volume, or of all, ordered by handle so that a listing can go on where it stopped.
    pub fn list_snapshots(&self, of: Option<VolumeId>) -> Result<Vec<SnapshotView>, Error> {
        let volumes = match of {
            Some(volume) => vec![volume],
            None => self.list()?,
        };
        let mut views = Vec::new();
        for volume in volumes {
            match self.read(volume) {
                Ok(record) => views.extend(record.iter().flat_map(|record| self.snapshot_views(record))),
                // One damaged record must not hide the snapshots of all other volumes.
                Err(error @ Error::DamagedRecord { .. }) if of.is_none() => {
                    tracing::warn!(%volume, %error, "left out of the list of snapshots");
                }
                Err(error) => return Err(error),
            }
        }
        views.sort_by(|a, b| a.handle.cmp(&b.handle));
        Ok(views)
    }

    fn snapshot_views<'a>(&'a self, record: &'a Record) -> impl Iterator<Item = SnapshotView> + 'a {
        record.snapshots.iter().map(|snapshot| self.snapshot_view(record.id, snapshot))
    }

    pub(super) fn snapshot_view(&self, volume: VolumeId, snapshot: &Snapshot) -> SnapshotView {
        SnapshotView {
            handle: self.snapshot_handle(volume, snapshot.id),
            name: snapshot.name.clone(),
            size: snapshot.size,
            created_at: snapshot.created_at,
            consistency: snapshot.consistency,
        }
    }
}

/// The volume that a claim on a snapshot's name names. One that cannot be read is that of a volume that there is not.
fn owner(claim: &Path) -> Result<Option<VolumeId>, Error> {
    let bytes = read_if_exists(claim).map_err(Error::io("read", claim))?;
    let parsed = |bytes| String::from_utf8(bytes).ok()?.parse().ok();
    Ok(bytes.map(|bytes| parsed(bytes).unwrap_or_else(|| VolumeId::from_name(""))))
}
