//! Pins: what is read without QEMU's image locks stays as it is while it is read.

use super::chain::{Link, images};
use super::error::*;
use super::id::{LayerId, SnapshotId, VolumeId};
use super::record::Pin;
use super::view::{SnapshotView, VolumeView};
use super::volumes::Volumes;
use crate::image::ImageRef;
use jiff::{SignedDuration, Timestamp};
use snafu::OptionExt;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use uuid::Uuid;

/// After this a pin whose owner died no longer holds anything up.
const LEASE: SignedDuration = SignedDuration::from_mins(15);
/// How often the lease is renewed: three tries may fail.
const RENEWAL: Duration = Duration::from_secs(240);

/// A snapshot whose layers stay as they are until this is dropped.
pub struct Pinned {
    /// What to read, top first.
    pub chain: Vec<ImageRef>,
    /// Bytes.
    pub size: u64,
    /// The volume.
    pub volume: VolumeView,
    /// The snapshot.
    pub snapshot: SnapshotView,
    stop: Option<Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Volumes {
    /// Pins a snapshot's layers, in every volume that they lie in, before anything opens them.
    pub fn pin_snapshot(&self, volume: VolumeId, snapshot: SnapshotId, owner: &str) -> Result<Pinned, Error> {
        let id = Uuid::new_v4();
        let locked = self.lock(volume)?;
        let found = locked.record.snapshot(snapshot).context(SnapshotNotFoundSnafu { volume, snapshot })?;
        let (layer, view) = (found.layer, self.snapshot_view(volume, found));
        let volume_view = self.view(&locked.record);
        let tops = tops(&self.chain(&locked.record, layer)?);
        drop(locked);
        let pinned: Vec<VolumeId> = tops.iter().map(|(volume, _)| *volume).collect();
        // From here on the keeper removes the pins, also when a step below fails.
        let (stop, on_stop) = channel();
        let (volumes, held) = (self.clone(), pinned.clone());
        let keeper = std::thread::spawn(move || {
            while on_stop.recv_timeout(RENEWAL) == Err(RecvTimeoutError::Timeout) {
                held.iter().for_each(|volume| volumes.renew(*volume, id));
            }
            held.iter().for_each(|volume| volumes.unpin(*volume, id));
        });
        let mut pinned = Pinned {
            chain: Vec::new(),
            size: view.size,
            volume: volume_view,
            snapshot: view,
            stop: Some(stop),
            keeper: Some(keeper),
        };
        for (holder, top) in tops {
            self.pin(holder, top, id, owner)?;
        }
        // Read again: a merge may have moved a layer to another file before its pin was written.
        let locked = self.lock(volume)?;
        locked.record.snapshot(snapshot).context(SnapshotNotFoundSnafu { volume, snapshot })?;
        let chain = self.chain(&locked.record, layer)?;
        self.verify(&chain)?;
        pinned.chain = images(&chain);
        Ok(pinned)
    }

    fn pin(&self, volume: VolumeId, layer: LayerId, id: Uuid, owner: &str) -> Result<(), Error> {
        let mut locked = self.lock(volume)?;
        locked.stop_merge()?;
        let now = Timestamp::now();
        locked.record.pins.retain(|pin| pin.until > now);
        locked.record.pins.push(Pin { id, layer, owner: owner.to_owned(), until: now + LEASE });
        locked.commit()
    }

    fn renew(&self, volume: VolumeId, id: Uuid) {
        let renewed = self.lock(volume).and_then(|mut locked| {
            if let Some(pin) = locked.record.pins.iter_mut().find(|pin| pin.id == id) {
                pin.until = Timestamp::now() + LEASE;
                locked.commit()?;
            }
            Ok(())
        });
        if let Err(error) = renewed {
            tracing::warn!(%volume, %error, "a pin was not renewed; trying again");
        }
    }

    fn unpin(&self, volume: VolumeId, id: Uuid) {
        let removed = self.lock(volume).and_then(|mut locked| {
            let before = locked.record.pins.len();
            locked.record.pins.retain(|pin| pin.id != id);
            if locked.record.pins.len() < before { locked.commit() } else { Ok(()) }
        });
        if let Err(error) = removed {
            tracing::warn!(%volume, %error, "a pin was not removed; it ends with its lease");
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

/// The topmost layer in each volume that a chain goes through.
fn tops(chain: &[Link]) -> Vec<(VolumeId, LayerId)> {
    let mut tops: Vec<(VolumeId, LayerId)> = Vec::new();
    for link in chain {
        if tops.last().is_none_or(|(volume, _)| *volume != link.volume) {
            tops.push((link.volume, link.layer.id));
        }
    }
    tops
}
