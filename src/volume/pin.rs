//! Pins: what is read without QEMU's image locks stays as it is while it is read.

use super::chain::{Link, images};
use super::error::*;
use super::id::{LayerId, SnapshotId, VolumeId};
use super::lease::{Lease, Moment, until};
use super::record::{ParentLayer, Pin};
use super::steps::{Step, reached};
use super::store::Locked;
use super::view::{SnapshotView, VolumeView};
use super::volumes::Volumes;
use crate::image::ImageRef;
use snafu::OptionExt;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use uuid::Uuid;

/// How often the lease is renewed: three tries may fail.
const RENEWAL: Duration = Duration::from_secs(240);

/// A frozen state of a volume whose layers stay as they are until this is dropped.
pub struct Pinned {
    /// What to read, top first.
    pub chain: Vec<ImageRef>,
    /// Bytes.
    pub size: u64,
    /// The volume.
    pub volume: VolumeView,
    /// The snapshot, if the state has a name.
    pub snapshot: Option<SnapshotView>,
    /// The layers of the chain.
    pub(super) links: Vec<Link>,
    pub(super) volumes: Volumes,
    lease: Arc<Lease>,
    stop: Option<Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Pinned {
    /// The pins ran out before they could be renewed (this machine was asleep, the share was away), or were taken away: what was
    /// read since may be anything, and what was made of it must be thrown away.
    pub fn is_lost(&self) -> bool {
        self.lease.is_lost()
    }
}

impl Volumes {
    /// Pins a snapshot's layers, in every volume that they lie in, before anything opens them.
    pub fn pin_snapshot(&self, volume: VolumeId, snapshot: SnapshotId, owner: &str) -> Result<Pinned, Error> {
        let locked = self.lock(volume)?;
        let found = locked.record.snapshot(snapshot).context(SnapshotNotFoundSnafu { volume, snapshot })?;
        let top = ParentLayer { volume, layer: found.layer };
        let point = Point {
            id: Uuid::new_v4(),
            owner,
            top,
            tops: tops(&self.chain(&locked.record, top.layer)?),
            size: found.size,
            volume: self.view(&locked.record),
            snapshot: Some(self.snapshot_view(volume, found)),
        };
        drop(locked);
        self.hold(point)
    }

    /// Pins what a snapshot held, by its layer, after it may have been deleted: for a reader that was broken off and goes on.
    /// The layer is still there as long as an earlier pin or anything else needs it.
    pub fn pin_layer(
        &self,
        volume: VolumeId,
        snapshot: SnapshotId,
        layer: LayerId,
        owner: &str,
    ) -> Result<Pinned, Error> {
        let mut locked = self.lock(volume)?;
        locked.stop_merge()?;
        let frozen = locked.record.layer(layer).filter(|found| !found.closed);
        let frozen = frozen.filter(|_| locked.record.active != Some(layer));
        let size = frozen.context(SnapshotNotFoundSnafu { volume, snapshot })?.size;
        let id = Uuid::new_v4();
        // Under the lock that it was found under: an earlier pin may end any moment.
        locked.add_pin(layer, id, owner)?;
        let top = ParentLayer { volume, layer };
        let point = Point {
            id,
            owner,
            top,
            tops: tops(&self.chain(&locked.record, layer)?),
            size,
            volume: self.view(&locked.record),
            snapshot: None,
        };
        drop(locked);
        self.hold(point)
    }

    /// Pins what a volume holds now, whether a node writes to it or not: it is frozen by a cut that no snapshot
    /// names, whose layers become one again some time after the pin is gone.
    pub fn pin_volume(&self, volume: VolumeId, owner: &str) -> Result<Pinned, Error> {
        let id = Uuid::new_v4();
        let mut locked = self.lock(volume)?;
        locked.stop_merge()?;
        let top = locked.boundary()?;
        // Under the lock that the cut was made under: nothing but the pin keeps this layer from being merged.
        if top.volume == volume {
            locked.add_pin(top.layer, id, owner)?;
        }
        let active = locked.record.active.expect("a volume that was cut has an active layer");
        let under: Vec<Link> = self.chain(&locked.record, active)?.split_off(1);
        let point = Point {
            id,
            owner,
            top,
            tops: tops(&under),
            size: under.first().map_or(locked.record.capacity, |link| link.layer.size),
            volume: self.view(&locked.record),
            snapshot: None,
        };
        drop(locked);
        self.hold(point)
    }

    fn hold(&self, point: Point<'_>) -> Result<Pinned, Error> {
        let Point { id, owner, top, tops, size, volume, snapshot } = point;
        let pinned: Vec<VolumeId> = tops.iter().map(|(volume, _)| *volume).collect();
        // From here on the keeper removes the pins, also when a step below fails.
        let (stop, on_stop) = channel();
        let lease = Arc::new(Lease::since(Moment::now()));
        let (volumes, held, kept) = (self.clone(), pinned, lease.clone());
        let span = tracing::Span::current();
        let keeper = std::thread::spawn(move || {
            let _span = span.entered();
            while on_stop.recv_timeout(RENEWAL) == Err(RecvTimeoutError::Timeout) && !kept.is_lost() {
                volumes.renew_all(&held, id, &kept);
            }
            held.iter().for_each(|volume| volumes.unpin(*volume, id));
        });
        let mut pinned = Pinned {
            chain: Vec::new(),
            size,
            volume,
            snapshot,
            links: Vec::new(),
            volumes: self.clone(),
            lease,
            stop: Some(stop),
            keeper: Some(keeper),
        };
        for (holder, layer) in tops {
            let mut locked = self.lock(holder)?;
            locked.stop_merge()?;
            locked.add_pin(layer, id, owner)?;
        }
        // Read again: a merge may have moved a layer to another file before its pin was written.
        let locked = self.lock(top.volume)?;
        if let Some(snapshot) = &pinned.snapshot {
            let (volume, snapshot) = (snapshot.handle.volume, snapshot.handle.snapshot);
            locked.record.snapshot(snapshot).context(SnapshotNotFoundSnafu { volume, snapshot })?;
        }
        let chain = self.chain(&locked.record, top.layer)?;
        self.verify(&chain)?;
        pinned.chain = images(&chain);
        pinned.links = chain;
        Ok(pinned)
    }

    fn renew_all(&self, held: &[VolumeId], id: Uuid, lease: &Lease) {
        let begun = Moment::now();
        for volume in held {
            match self.renew(*volume, id) {
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!(%volume, "a pin was taken away");
                    return lease.lose();
                }
                Err(error) => {
                    tracing::warn!(%volume, %error, "a pin was not renewed; trying again");
                    return;
                }
            }
        }
        lease.renew(begun);
    }

    /// False when it is not there any more. What was broken off is left to others, here and when the pin goes: to finish it a
    /// node may have to be asked, and one that does not answer would cost the pin.
    fn renew(&self, volume: VolumeId, id: Uuid) -> Result<bool, Error> {
        let mut locked = self.lock_as_it_is(volume)?;
        let Some(pin) = locked.record.pins.iter_mut().find(|pin| pin.id == id) else { return Ok(false) };
        pin.until = until();
        locked.commit().map(|()| true)
    }

    pub(super) fn unpin(&self, volume: VolumeId, id: Uuid) {
        let removed = self.lock_as_it_is(volume).and_then(|mut locked| {
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

impl Locked<'_> {
    /// Has it already: its lease begins anew.
    pub(super) fn add_pin(&mut self, layer: LayerId, id: Uuid, owner: &str) -> Result<(), Error> {
        self.drop_pins();
        self.record.pins.retain(|pin| pin.id != id);
        self.record.pins.push(Pin { id, layer, owner: owner.to_owned(), until: until() });
        self.commit()?;
        reached(Step::PinWritten);
        Ok(())
    }

    /// Drops the pins that are over from the record. False: there are none.
    pub(super) fn drop_pins(&mut self) -> bool {
        let holding: HashSet<Uuid> =
            self.volumes.pins.holding(&self.record).into_iter().map(|pin| pin.id).collect();
        let before = self.record.pins.len();
        self.record.pins.retain(|pin| holding.contains(&pin.id));
        self.record.pins.len() < before
    }
}

/// A frozen state that is to be pinned.
struct Point<'a> {
    /// Names the pins.
    id: Uuid,
    owner: &'a str,
    top: ParentLayer,
    tops: Vec<(VolumeId, LayerId)>,
    size: u64,
    volume: VolumeView,
    snapshot: Option<SnapshotView>,
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

#[cfg(test)]
#[path = "pin_tests.rs"]
mod tests;
