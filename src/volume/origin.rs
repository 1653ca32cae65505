//! What a new volume stands on: a snapshot's layer, or a boundary that a cut makes under a live volume.

use super::error::*;
use super::id::{VolumeHandle, VolumeId};
use super::provision::capacity;
use super::record::{ParentLayer, State};
use super::store::Locked;
use super::view::{CreateVolume, VolumeSource};
use super::volumes::Volumes;
use snafu::{OptionExt, ensure};
use uuid::Uuid;

/// Where a clone starts.
pub(super) struct Origin {
    pub(super) source: VolumeSource,
    pub(super) layer: ParentLayer,
    pub(super) size: u64,
    /// Nobody has used it yet: a filesystem is still to be made.
    pub(super) new: bool,
}

/// A layer that was frozen for a clone and stays until this is dropped.
pub(super) struct Boundary<'a> {
    volumes: &'a Volumes,
    layer: ParentLayer,
    pin: Uuid,
}

impl Drop for Boundary<'_> {
    fn drop(&mut self) {
        self.volumes.unpin(self.layer.volume, self.pin);
    }
}

impl Volumes {
    /// Freezes what a volume in use holds now, for a clone that does not exist yet. A node does it, which may take long:
    /// so before the graph lock, and with a pin to bridge the time until the clone's record names the layer.
    pub(super) fn boundary_in_use(
        &self,
        clone: VolumeId,
        request: &CreateVolume,
    ) -> Result<Option<Boundary<'_>>, Error> {
        let Some(VolumeSource::Volume(VolumeHandle { share, volume })) = &request.source else {
            return Ok(None);
        };
        let begun = self.read(clone)?.is_some_and(|record| record.state != State::Deleted);
        // On another share it is refused below.
        if begun || *share != self.share.key {
            return Ok(None);
        }
        let mut locked = self.lock(*volume)?;
        if locked.record.writer().is_none() {
            return Ok(None);
        }
        self.allowed(&mut locked, clone, request)?;
        locked.stop_merge()?;
        let layer = locked.boundary()?;
        let pin = Uuid::new_v4();
        let owner = format!("the clone {:?}", request.name);
        locked.add_pin(layer.layer, pin, &owner)?;
        Ok(Some(Boundary { volumes: self, layer, pin }))
    }

    /// Refuses what can be refused before anything of the source is changed: a request that is repeated for ever must
    /// not make its chain longer each time.
    fn allowed(&self, source: &mut Locked<'_>, clone: VolumeId, request: &CreateVolume) -> Result<(), Error> {
        // Not the capacity: a growth that was broken off and taken back has left an image that is larger, and the
        // filesystem on it may have followed.
        source.measure()?;
        let size = source.record.active_layer().map_or(0, |active| active.size);
        let capacity = capacity(request, Some(size.max(source.record.capacity)))?;
        let active = source.record.active.context(VolumeNotFoundSnafu { volume: source.id() })?;
        // The clone's own layer.
        let depth = self.chain(&source.record, active)?.len() + 1;
        let limit = self.tools.policy.hard_depth;
        ensure!(depth <= limit, TooDeepSnafu { volume: source.id(), depth, limit });
        self.claim_room(clone, capacity, 0)
    }

    /// The frozen layer that a clone is to stand on. Under the graph lock, while the source rests: a merge would end by moving
    /// the layer to another file. No node is asked.
    pub(super) fn origin(
        &self,
        clone: VolumeId,
        request: &CreateVolume,
        boundary: Option<&Boundary<'_>>,
    ) -> Result<Option<Origin>, Error> {
        let Some(source) = request.source.clone() else { return Ok(None) };
        let reason = "a backup is restored, not cloned";
        let VolumeHandle { share, volume } = source.volume().context(InvalidSnafu { reason })?;
        ensure!(share == self.share.key, ShareNotFoundSnafu { share: share.to_string() });
        let mut locked = match (self.lock_as_it_is(volume), &source) {
            (Err(Error::VolumeNotFound { .. }), VolumeSource::Snapshot(handle)) => {
                return SnapshotNotFoundSnafu { volume, snapshot: handle.snapshot }.fail();
            }
            (locked, _) => locked?,
        };
        let (layer, size, new) = match &source {
            VolumeSource::Snapshot(handle) => {
                let snapshot = locked.record.snapshot(handle.snapshot);
                let snapshot =
                    snapshot.context(SnapshotNotFoundSnafu { volume, snapshot: handle.snapshot })?;
                (ParentLayer { volume, layer: snapshot.layer }, snapshot.size, snapshot.blank)
            }
            VolumeSource::Volume(_) | VolumeSource::Backup(_) => {
                let layer = match boundary {
                    Some(boundary) => boundary.layer,
                    None => self.boundary_at_rest(&mut locked, clone, request)?,
                };
                let frozen = locked.record.layer(layer.layer).filter(|_| layer.volume == volume);
                let size = frozen.map_or(0, |frozen| frozen.size).max(locked.record.capacity);
                (layer, size, locked.record.new)
            }
        };
        locked.room_for_another_layer(layer)?;
        Ok(Some(Origin { source, layer, size, new }))
    }

    /// The same of a volume that no node writes to: no node is asked.
    fn boundary_at_rest(
        &self,
        locked: &mut Locked<'_>,
        clone: VolumeId,
        request: &CreateVolume,
    ) -> Result<ParentLayer, Error> {
        let doing = "it was attached just now, or is being cut".to_owned();
        let at_rest = locked.record.writer().is_none() && locked.record.intent.is_none();
        ensure!(at_rest, PendingSnafu { volume: locked.id(), doing });
        ensure!(locked.record.state != State::Deleted, VolumeNotFoundSnafu { volume: locked.id() });
        self.allowed(locked, clone, request)?;
        locked.boundary()
    }
}
