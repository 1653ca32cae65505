//! How many volumes a node may have open: each takes the memory of a process.

use super::error::{Error, NodeFullSnafu};
use super::id::VolumeHandle;
use super::stage::Staging;
use snafu::ensure;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The volumes that are being opened, and how many a node may have; None is any number.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    limit: Option<usize>,
    opening: Arc<Mutex<BTreeSet<VolumeHandle>>>,
}

/// The right to open a volume; given back when dropped, by when the volume is open, and counts as such, or is not.
pub(super) struct Slot(Slots, VolumeHandle);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.opening.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

impl Staging {
    /// Refuses volumes beyond that number.
    pub fn with_limit(mut self, limit: usize) -> Self {
        self.slots.limit = Some(limit);
        self
    }

    /// The right to open one more volume.
    pub(super) fn take_slot(&self, handle: &VolumeHandle) -> Result<Slot, Error> {
        let mut opening = self.slots.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limit) = self.slots.limit {
            let mut taken: BTreeSet<VolumeHandle> = self.staged()?.into_iter().collect();
            taken.extend(opening.iter().cloned());
            taken.remove(handle);
            ensure!(taken.len() < limit, NodeFullSnafu { node: self.parts.node.clone(), limit });
        }
        opening.insert(handle.clone());
        Ok(Slot(self.slots.clone(), handle.clone()))
    }
}
