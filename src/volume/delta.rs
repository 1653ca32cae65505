//! Deltas are made from frozen layers and kept beside them.
//!
//! What a layer wrote itself is what changed since the state that it stands on. That is read once, while the layer is as
//! its cut left it, and kept: a merge that takes the layer away, or puts another one's clusters into its file, leaves
//! the delta as a tombstone, and the way from any later state back to an earlier one goes on over it.
//!
//! Nothing here needs the volume's lock. A delta is a fact about two states that no longer change, its file is replaced
//! whole, and two who make it at once make the same one. What must not happen meanwhile is a merge: its runner has the
//! turn (`merge_run`), or the layer is pinned. And should one happen all the same, a layer's file has at every moment all
//! that the layer wrote, and perhaps more: the delta would be too large, never too small.

use super::delta_file::{At, Delta, GRAIN, LONGEST, block_count, read_bounded};
use super::error::Error;
use super::id::{LayerId, VolumeId};
use super::provision::make_folder;
use super::record::{Layer, Record};
use super::steps::{Step, reached};
use super::store::{exists, lost_share};
use super::volumes::Volumes;
use crate::host::fsio;
use crate::image::{ImageRef, ReadError, written};
use jiff::Timestamp;
use roaring::RoaringBitmap;
use std::collections::HashSet;
use std::io;
use std::time::Instant;

/// What lies where a delta should be.
pub(super) enum Kept {
    Nothing,
    Whole(Delta),
    /// And what is wrong with it.
    Damaged(String),
}

impl Layer {
    /// The state that it holds.
    pub(super) fn state(&self, volume: VolumeId) -> At {
        At { volume, layer: self.id, incarnation: self.incarnation, size: self.size }
    }
}

impl Volumes {
    /// The delta up to a layer's state.
    pub(super) fn delta(&self, volume: VolumeId, layer: LayerId) -> Result<Kept, Error> {
        let path = self.layout.delta(volume, layer);
        let Some(bytes) = read_bounded(&path).map_err(Error::io("read", &path))? else {
            return Ok(Kept::Nothing);
        };
        Ok(match Delta::decode(&bytes) {
            Ok(delta) if (delta.to.volume, delta.to.layer) == (volume, layer) => Kept::Whole(delta),
            Ok(delta) => Kept::Damaged(format!("it is that of layer {}", delta.to.layer)),
            Err(reason) => Kept::Damaged(reason),
        })
    }

    /// Keeps a delta.
    pub(super) fn keep_delta(&self, delta: &Delta) -> Result<(), Error> {
        let path = self.layout.delta(delta.to.volume, delta.to.layer);
        let bytes = delta.encode();
        if bytes.len() as u64 > LONGEST {
            return Err(Error::io("keep so long a delta as", path)(io::ErrorKind::FileTooLarge.into()));
        }
        let folder = self.layout.deltas(delta.to.volume);
        if !exists(&folder)? {
            make_folder(&folder)?;
            fsio::sync_dir(&self.layout.volume(delta.to.volume))?;
        }
        Ok(fsio::write_atomic(&path, &bytes)?)
    }

    /// Makes the delta of a frozen layer from its image; `from` is the state that it stands on. While it reads, no
    /// merge may touch the layer.
    pub(super) fn measure_delta(&self, from: At, to: At, image: &ImageRef) -> Result<Delta, ReadError> {
        let mut blocks = RoaringBitmap::new();
        // Of a disk with more blocks than there are numbers everything counts as changed, at the reader's.
        let last = block_count(to.size).unwrap_or(u32::MAX);
        written(image, |range| {
            let (first, end) = (range.start / GRAIN, range.end.div_ceil(GRAIN));
            let clamp = |block: u64| u32::try_from(block).unwrap_or(u32::MAX).min(last);
            blocks.insert_range(clamp(first)..clamp(end));
        })?;
        blocks.optimize();
        Ok(Delta { from, to, made_at: Timestamp::now().as_second(), blocks })
    }

    /// Makes the deltas that are missing, or damaged, of a record's frozen layers, and answers the layers that it has looked after. By
    /// whoever has the turn to merge, before it merges. A delta that cannot be made, because the share is full or the
    /// image is none that we can read, stays missing, which says "unknown": it must not keep the layers from being
    /// merged, which perhaps frees the room. Nor is it tried again all the time: each try reads a whole map.
    pub(super) fn record_deltas(&self, record: &Record) -> Result<HashSet<LayerId>, Error> {
        let mut seen = HashSet::new();
        for layer in record.layers.iter().filter(|layer| record.active != Some(layer.id)) {
            seen.insert(layer.id);
            if layer.parent.is_none() {
                continue;
            }
            let (volume, id) = (record.id, layer.id);
            if self.unkept.waits(volume, id, Instant::now()) {
                continue;
            }
            match self.record_delta(record, layer) {
                Err(error) if lost_share(&error) => return Err(error),
                Err(error) => {
                    let again_in = self.unkept.failed(volume, id, Instant::now()).as_secs();
                    tracing::warn!(%volume, layer = %id, %error, again_in, "what changed up to this layer is not known");
                }
                Ok(()) => self.unkept.kept(volume, id),
            }
        }
        Ok(seen)
    }

    fn record_delta(&self, record: &Record, layer: &Layer) -> Result<(), Error> {
        match self.delta(record.id, layer.id)? {
            Kept::Whole(delta) if delta.to.same_state(&layer.state(record.id)) => return Ok(()),
            Kept::Damaged(reason) => {
                tracing::warn!(volume = %record.id, layer = %layer.id, reason, "a damaged delta is made anew");
            }
            // Of a life that a rebuilt record has ended.
            Kept::Whole(_) | Kept::Nothing => {}
        }
        let Some(from) = self.stands_on_state(record, layer)? else { return Ok(()) };
        let path = self.layout.image(record.id, &layer.file);
        let image = ImageRef { path: path.clone(), format: layer.format };
        match self.measure_delta(from, layer.state(record.id), &image) {
            Ok(delta) => {
                self.keep_delta(&delta)?;
                reached(Step::DeltaRecorded);
                Ok(())
            }
            Err(ReadError::OpenImage { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("read the map of", path)(io_error(error))),
        }
    }

    /// The state of the layer under this one, which may be another volume's.
    fn stands_on_state(&self, record: &Record, layer: &Layer) -> Result<Option<At>, Error> {
        let Some(parent) = layer.parent else { return Ok(None) };
        if parent.volume == record.id {
            return Ok(record.layer(parent.layer).map(|below| below.state(parent.volume)));
        }
        let other = self.read(parent.volume)?;
        Ok(other.and_then(|other| other.layer(parent.layer).map(|below| below.state(parent.volume))))
    }
}

/// With its kind, by which a share that went away is told from an image that is wrong.
fn io_error(error: ReadError) -> io::Error {
    let kind = match &error {
        ReadError::OpenImage { source, .. } | ReadError::ReadImage { source, .. } => source.kind(),
        _ => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, error)
}
