//! `background.json` beside a record: what the background does with a volume at the moment, or what went wrong
//! last. A hint for people, written without a lock; nothing depends on it.

use super::error::Error;
use super::id::VolumeId;
use super::record::{Direction, Merge};
use super::store::{read_if_exists, remove_file};
use super::volumes::Volumes;
use crate::host::fsio;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Background work on a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Background {
    /// The run of the merge.
    pub run: Uuid,
    /// What is done.
    pub direction: Direction,
    /// Bytes copied.
    pub done: u64,
    /// Bytes in all, as far as known.
    pub total: u64,
    /// When this was written.
    pub updated_at: Timestamp,
    /// Why it ended; it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How far a restore is. In the place of [`Background`], for a volume that is being restored is not merged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreNote {
    /// Bytes of the volume that are back.
    pub restored: u64,
    /// Bytes in all.
    pub of: u64,
    /// When this was written.
    pub updated_at: Timestamp,
}

impl Volumes {
    /// How far the restore of a volume is, as far as is known.
    pub fn restore_note(&self, volume: VolumeId) -> Result<Option<RestoreNote>, Error> {
        self.noted(volume)
    }

    pub(super) fn note_restore(&self, volume: VolumeId, restored: u64, of: u64) {
        self.note(volume, &RestoreNote { restored, of, updated_at: Timestamp::now() });
    }

    /// What the background does with a volume, as far as is known.
    pub fn background(&self, volume: VolumeId) -> Result<Option<Background>, Error> {
        self.noted(volume)
    }

    fn noted<T: serde::de::DeserializeOwned>(&self, volume: VolumeId) -> Result<Option<T>, Error> {
        let path = self.layout.background(volume);
        let bytes = read_if_exists(&path).map_err(Error::io("read", &path))?;
        // A hint that cannot be read is none.
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    pub(super) fn note_progress(&self, volume: VolumeId, merge: &Merge, done: u64, total: u64) {
        self.note(volume, &Background::of(merge, done, total, None));
    }

    pub(super) fn note_failure(&self, volume: VolumeId, merge: &Merge, error: &Error) {
        self.note(volume, &Background::of(merge, 0, 0, Some(error.to_string())));
    }

    pub(super) fn note_nothing(&self, volume: VolumeId) {
        if let Err(error) = remove_file(&self.layout.background(volume)) {
            tracing::debug!(%volume, %error, "the note about background work stays");
        }
    }

    fn note(&self, volume: VolumeId, note: &impl Serialize) {
        let bytes = serde_json::to_vec_pretty(note).expect("a note has only string keys");
        if let Err(error) = fsio::write_atomic(&self.layout.background(volume), &bytes) {
            tracing::debug!(%volume, %error, "background work goes on without a note about it");
        }
    }
}

impl Background {
    fn of(merge: &Merge, done: u64, total: u64, error: Option<String>) -> Self {
        let (run, direction) = (merge.run, merge.direction);
        Background { run, direction, done, total, updated_at: Timestamp::now(), error }
    }
}
