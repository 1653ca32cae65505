//! Clones whose chains have become long get a copy of their own of what they stand on.
//!
//! A layer that a clone stands on cannot be merged away by its source; so a chain is kept short from the
//! clone's side: all that lies in other volumes is copied up into the clone's lowest frozen layer.

use super::chain::Link;
use super::error::Error;
use super::id::{LayerId, SnapshotId, VolumeId};
use super::record::{Record, State};
use super::store::Locked;
use super::volumes::Volumes;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

/// What is copied up, and into which layer.
#[derive(Debug)]
pub(super) struct Flattening {
    pub(super) upper: LayerId,
    /// The layer of another volume that it stands on.
    pub(super) lower: LayerId,
    /// What the copy reads, top first.
    pub(super) chain: Vec<Link>,
}

impl Volumes {
    /// Whether a clone's chain, or that of a volume that it stands on and that could shed layers without it, is
    /// longer than it should be.
    pub(super) fn wants_flattening(&self, record: &Record) -> Result<bool, Error> {
        let Some(active) = record.active else { return Ok(false) };
        let soft = self.tools.policy.soft_depth;
        let chain = self.chain(record, active)?;
        let others: BTreeSet<VolumeId> =
            chain.iter().map(|link| link.volume).filter(|volume| *volume != record.id).collect();
        if others.is_empty() {
            return Ok(false);
        }
        if chain.len() > soft {
            return Ok(true);
        }
        for source in others {
            let source = self.read(source)?.filter(|source| source.state == State::Ready);
            if let Some(source) = source
                && self.is_held_long(&source)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a volume's chain is too long, and has layers that it would lose if no clone stood on them.
    fn is_held_long(&self, record: &Record) -> Result<bool, Error> {
        let Some(active) = record.active else { return Ok(false) };
        let chain = self.chain(record, active)?;
        // The boundary under the active image stays anyway.
        let own = chain.iter().skip(2).filter(|link| link.volume == record.id);
        let wanted = |id| record.snapshots.iter().any(|snapshot| snapshot.layer == id);
        let unwanted = own.filter(|link| !wanted(link.layer.id)).count();
        Ok(chain.len() > self.tools.policy.soft_depth && unwanted > 0)
    }
}

impl Locked<'_> {
    /// Makes a layer to be copied into, if there is to be a copy and the active image is the only one there is: what
    /// changed in that since the last cut must stay known. May ask a node, so not under the graph lock.
    pub(super) fn prepare_flattening(&mut self) -> Result<(), Error> {
        let Some((index, chain)) = self.to_flatten()? else { return Ok(()) };
        if self.record.active == Some(chain[index].layer.id) {
            self.freeze_active(SnapshotId::random(), |_, _| ())?;
            self.write_info()?;
        }
        Ok(())
    }

    /// What there is to flatten, if the chain is too long and the share has the room. Under the graph lock.
    pub(super) fn flattening(&self) -> Result<Option<Flattening>, Error> {
        let Some((index, chain)) = self.to_flatten()? else { return Ok(None) };
        let chain: Vec<Link> = chain.into_iter().skip(index).collect();
        let (upper, lower) = (chain[0].layer.id, chain[1].layer.id);
        // Active: it became so after the preparation, and is left to the next round.
        let usable = self.record.active != Some(upper) && !self.is_pinned(upper);
        Ok(usable.then_some(Flattening { upper, lower, chain }))
    }

    /// The chain, and where in it the layer is that takes the copy of all below.
    fn to_flatten(&self) -> Result<Option<(usize, Vec<Link>)>, Error> {
        if self.record.state != State::Ready || !self.volumes.wants_flattening(&self.record)? {
            return Ok(None);
        }
        let chain = self.active_chain()?;
        let Some(index) = self.lowest_own(&chain) else { return Ok(None) };
        let bytes: u64 = chain[index + 1..].iter().map(allocated).sum::<Result<u64, Error>>()?;
        // The copy and as much again: a share that runs full stops every volume on it.
        let room = self.volumes.room()?;
        if room.free < bytes.saturating_mul(2) {
            tracing::warn!(volume = %self.id(), bytes, free = room.free, "too little room to copy what it stands on");
            return Ok(None);
        }
        Ok(Some((index, chain)))
    }

    fn active_chain(&self) -> Result<Vec<Link>, Error> {
        let active = self.record.active.expect("a volume that is ready has an active layer");
        self.volumes.chain(&self.record, active)
    }

    /// The last layer of a chain that is this volume's, with another one's right below.
    fn lowest_own(&self, chain: &[Link]) -> Option<usize> {
        let index = chain.iter().position(|link| link.volume != self.id())?;
        index.checked_sub(1)
    }
}

fn allocated(link: &Link) -> Result<u64, Error> {
    let meta = std::fs::metadata(&link.path).map_err(Error::io("stat", &link.path))?;
    Ok(meta.blocks() * 512)
}
