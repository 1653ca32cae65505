//! Restore: a backup becomes a volume (K10, invariant 5). The record says `restoring` until every byte is verified,
//! durable and in its place; until then there is no layer, and nobody can list, publish or copy the volume.
//!
//! This module knows what a restore is on the share; fetching the backup is for whoever holds a [`RestoreTurn`]. One
//! at a time does, on whatever controller; who died has lost it. Each try writes a file of its own, and only the try that
//! the record names is ever given a place in it, so that one which was cut off and goes on harms nobody.

use super::backup_handle::BackupHandle;
use super::error::*;
use super::id::VolumeId;
use super::provision::{begin, capacity, make_folder, same_volume};
use super::record::{FailureKind, Record, Restore, RestoreFailure, State};
use super::restore_turn::RestoreTurn;
use super::steps::{Step, reached};
use super::view::{CreateVolume, VolumeKind, VolumeSource, VolumeView};
use super::volumes::Volumes;
use jiff::{SignedDuration, Timestamp};
use snafu::OptionExt;
use uuid::Uuid;

/// Nobody has wanted to know of it for so long: whoever wanted the volume has given up.
const FORSAKEN: SignedDuration = SignedDuration::from_hours(24);
/// How exactly it is known when somebody last asked: so that not every question writes a record.
const ASKED: SignedDuration = SignedDuration::from_mins(1);

/// What there is of a volume that is wanted from a backup.
#[derive(Debug)]
pub enum Restored {
    /// All of it, verified.
    Ready(VolumeView),
    /// A record: whoever holds its turn brings the data back.
    Underway(VolumeId),
}

impl FailureKind {
    /// How long a failure is answered before the next try. A damaged backup is not fetched again and again.
    fn cool_off(self) -> SignedDuration {
        match self {
            FailureKind::DataLoss => SignedDuration::from_hours(1),
            FailureKind::NotFound | FailureKind::NoRoom | FailureKind::Failed => SignedDuration::from_mins(1),
            // The try before has waited for it already.
            FailureKind::Unavailable => SignedDuration::from_secs(5),
        }
    }
}

impl Volumes {
    /// What an earlier call has begun of this volume; None: nothing.
    pub fn find_restored(&self, request: &CreateVolume) -> Result<Option<Restored>, Error> {
        let id = VolumeId::from_name(&request.name);
        let Some(record) = self.read(id)?.filter(|record| record.state != State::Deleted) else {
            return Ok(None);
        };
        same_volume(&record, request)?;
        match (record.state, &record.restore) {
            (State::Ready, _) => Ok(Some(Restored::Ready(self.view(&record)))),
            (State::Restoring, Some(restore)) => {
                self.note_asked(id, restore)?;
                cooled_off(id, restore)?;
                Ok(Some(Restored::Underway(id)))
            }
            (state, _) => PendingSnafu { volume: id, doing: format!("it is {state:?}") }.fail(),
        }
    }

    /// Writes the record of a volume that is to be brought back from a backup of `bytes` bytes; or finds what another
    /// call has begun meanwhile.
    pub fn begin_restore(&self, request: &CreateVolume, bytes: u64) -> Result<Restored, Error> {
        let id = VolumeId::from_name(&request.name);
        let capacity = capacity(request, Some(bytes))?;
        // Before the lock: it may read every record of the share.
        self.provisioned()?;
        let mut locked = self.lock_or_begin(id, || begin(id, request))?;
        if locked.record.state != State::Deleted {
            drop(locked);
            return self.find_restored(request)?.context(VolumeNotFoundSnafu { volume: id });
        }
        let written = if request.kind == VolumeKind::RawFull { capacity } else { 0 };
        self.claim_room(id, capacity, written)?;
        make_folder(&self.layout.volume(id))?;
        let fresh = begin(id, request);
        let record = &mut locked.record;
        record.incarnation = fresh.incarnation;
        record.kind = request.kind;
        record.parameters = fresh.parameters;
        record.source = request.source.clone();
        record.imported = None;
        record.capacity = capacity;
        record.created_at = fresh.created_at;
        // Whatever is in the backup: no filesystem is ever made over it.
        record.new = false;
        record.active = None;
        record.state = State::Restoring;
        let asked_at = Timestamp::now();
        record.restore = Some(Restore { bytes, run: Uuid::new_v4(), whole: false, asked_at, failure: None });
        locked.commit()?;
        reached(Step::RestoreRecorded);
        locked.write_info()?;
        Ok(Restored::Underway(id))
    }

    /// The right to bring the data back. None: somebody else has it, or there is nothing to bring back any more. What
    /// was brought back before is finished here.
    pub fn restore_turn(&self, id: VolumeId) -> Result<Option<RestoreTurn>, Error> {
        RestoreTurn::take(self, id)
    }

    fn note_asked(&self, id: VolumeId, seen: &Restore) -> Result<(), Error> {
        let now = Timestamp::now();
        if now.duration_since(seen.asked_at) < ASKED {
            return Ok(());
        }
        match self.lock(id) {
            // Whoever has it will let go of it, and this one will ask again.
            Err(Error::Busy { .. } | Error::VolumeNotFound { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(mut locked) => match locked.record.restore.as_mut() {
                Some(restore) => {
                    restore.asked_at = now;
                    locked.commit()
                }
                None => Ok(()),
            },
        }
    }

    /// The background work on a volume that is being restored: if nobody wants it any more, it goes.
    pub(super) fn tidy_restore(&self, record: &Record) -> Result<(), Error> {
        if !is_forsaken(record) {
            return Ok(());
        }
        tracing::warn!(volume = %record.id, "nobody has asked for a day about a volume that is being restored: it goes");
        self.delete(record.id)
    }
}

/// Nobody has asked about the restore for a day.
pub(super) fn is_forsaken(record: &Record) -> bool {
    let asked = record.restore.as_ref().map(|restore| restore.asked_at);
    asked.is_some_and(|asked| Timestamp::now().duration_since(asked) > FORSAKEN)
}

/// The last failure, as long as it counts.
fn cooled_off(volume: VolumeId, restore: &Restore) -> Result<(), Error> {
    let counts =
        |failure: &&RestoreFailure| Timestamp::now().duration_since(failure.at) < failure.kind.cool_off();
    match restore.failure.as_ref().filter(counts) {
        Some(RestoreFailure { kind, message, .. }) => {
            RestoreFailedSnafu { volume, kind: *kind, message: message.clone() }.fail()
        }
        None => Ok(()),
    }
}

/// The backup that a record's volume is brought back from.
pub(super) fn backup_of(record: &Record) -> Option<BackupHandle> {
    match &record.source {
        Some(VolumeSource::Backup(handle)) => Some(handle.clone()),
        _ => None,
    }
}
