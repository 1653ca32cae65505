//! Making and deleting volumes.

use super::chain::relative;
use super::error::*;
use super::id::{LayerId, VolumeId};
use super::origin::Origin;
use super::publish::attached;
use super::record::{Layer, Record, State};
use super::steps::{Step, reached};
use super::store::{Locked, exists, is_full, remove_file};
use super::view::{CreateVolume, VolumeKind, VolumeSource, VolumeView};
use super::volumes::Volumes;
use crate::host::fsio;
use crate::image::qemu_img::{Create, Preallocation};
use crate::image::{Format, QemuImg, lock::ImageLock};
use jiff::Timestamp;
use snafu::ResultExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;
use uuid::Uuid;

const GIB: u64 = 1 << 30;
/// Writing zeros over a whole volume of some TiB; anything else takes a second.
const FULL_ALLOCATION: Duration = Duration::from_secs(6 * 3600);
/// Metadata only.
pub(super) const QUICK: Duration = Duration::from_secs(60);

impl Volumes {
    /// Makes a volume, or finds the one that an earlier call of the same name made.
    pub fn create(&self, request: &CreateVolume) -> Result<VolumeView, Error> {
        let id = VolumeId::from_name(&request.name);
        // Before the look at the source, which may be gone by the time a call is repeated.
        if let Some(record) = self.read(id)?.filter(|record| record.state == State::Ready) {
            same_volume(&record, request)?;
            return Ok(self.view(&record));
        }
        // Before the locks: it may read every record of the share.
        self.provisioned()?;
        // Given up when all is done, after the locks.
        let boundary = self.boundary_in_use(id, request)?;
        // Held until the clone's record names its parent: nobody merges or unlinks that layer in between.
        let source = request.source.as_ref().and_then(VolumeSource::volume);
        let source = source.filter(|source| source.share == self.share.key).map(|source| source.volume);
        let sources = || Ok(source.into_iter().collect());
        let _graph = request.source.as_ref().map(|_| self.graph_at_rest(id, sources)).transpose()?;
        let mut locked = self.lock_or_begin(id, || begin(id, request))?;
        if locked.record.state == State::Deleted {
            drop(locked);
            let origin = self.origin(id, request, boundary.as_ref())?;
            let capacity = capacity(request, origin.as_ref().map(|origin| origin.size))?;
            locked = self.lock_or_begin(id, || begin(id, request))?;
            if locked.record.state == State::Deleted {
                self.begin(&mut locked, request, capacity, origin.as_ref())?;
            }
        }
        same_volume(&locked.record, request)?;
        match locked.record.state {
            State::Ready => return Ok(self.view(&locked.record)),
            State::Creating => {}
            State::Restoring | State::Deleted => {
                let doing = format!("it is {:?}", locked.record.state);
                return PendingSnafu { volume: id, doing }.fail();
            }
        }
        reached(Step::CreateRecorded);
        self.make_base(&locked)?;
        reached(Step::CreateImageMade);
        locked.record.state = State::Ready;
        locked.commit()?;
        locked.write_info()?;
        Ok(self.view(&locked.record))
    }

    /// Writes the record of a new volume, or of a new life of a deleted one whose layers are still needed:
    /// it gets nothing of theirs.
    fn begin(
        &self,
        locked: &mut Locked<'_>,
        request: &CreateVolume,
        capacity: u64,
        origin: Option<&Origin>,
    ) -> Result<(), Error> {
        let id = locked.id();
        let written = if request.kind == VolumeKind::RawFull && origin.is_none() { capacity } else { 0 };
        self.claim_room(id, capacity, written)?;
        make_folder(&self.layout.volume(id))?;
        // A new life that stands on a snapshot of the former one has no need to be announced to itself.
        if let Some(origin) = origin.filter(|origin| origin.layer.volume != id) {
            self.announce_child(origin.layer.volume, id)?;
            reached(Step::CloneAnnounced);
        }
        let fresh = begin(id, request);
        let file = locked.fresh_file(format!("volume-{id}"))?;
        let record = &mut locked.record;
        record.incarnation = fresh.incarnation;
        record.kind = request.kind;
        record.parameters = request.parameters.clone();
        record.imported = None;
        record.restore = None;
        record.capacity = capacity;
        record.created_at = fresh.created_at;
        record.state = State::Creating;
        record.new = origin.is_none_or(|origin| origin.new);
        record.source = origin.map(|origin| origin.source.clone());
        let format = match request.kind {
            VolumeKind::RawSparse | VolumeKind::RawFull if origin.is_none() => Format::Raw,
            _ => Format::Qcow2,
        };
        let parent = origin.map(|origin| origin.layer);
        let layer = Layer {
            id: LayerId::random(),
            incarnation: record.incarnation,
            file,
            format,
            size: capacity,
            parent,
            closed: false,
        };
        record.active = Some(layer.id);
        record.layers.push(layer);
        locked.commit()
    }

    /// Makes the file of the active layer. An earlier try may have made it, or a part of it.
    fn make_base(&self, locked: &Locked<'_>) -> Result<(), Error> {
        let layer = locked.record.active_layer().expect("a volume that is being made has an active layer");
        let path = locked.image(&layer.file);
        if exists(&path)? {
            // It got its final name only when it was complete.
            return Ok(());
        }
        let chain = self.chain(&locked.record, layer.id)?;
        let backing = chain.get(1).map(|below| (relative(&path, &below.path), below.layer.format));
        let full = locked.record.kind == VolumeKind::RawFull && layer.format == Format::Raw;
        let preallocation = if full { Preallocation::Full } else { Preallocation::Off };
        let create = Create { format: layer.format, size: layer.size, preallocation, backing };
        self.make_image(locked, &layer.file, &create)
    }

    /// Makes an image under a temporary name and gives it its own when it is complete and on disk.
    pub(super) fn make_image(&self, locked: &Locked<'_>, file: &str, create: &Create) -> Result<(), Error> {
        self.make_filled(locked, file, create, |_| Ok(()))
    }

    /// The same; `fill` writes to it before it is complete.
    pub(super) fn make_filled(
        &self,
        locked: &Locked<'_>,
        file: &str,
        create: &Create,
        fill: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let path = locked.image(file);
        let temporary = locked.image(&format!(".{file}.tmp"));
        remove_file(&temporary)?;
        let limit = if create.preallocation == Preallocation::Full { FULL_ALLOCATION } else { QUICK };
        let made = QemuImg::new(self.tools.qemu_img.clone()).create(&temporary, create, limit);
        let private = std::fs::Permissions::from_mode(0o600);
        let filled = made
            .context(QemuImgSnafu)
            .and_then(|()| {
                std::fs::set_permissions(&temporary, private)
                    .map_err(Error::io("set the mode of", &temporary))
            })
            .and_then(|()| fill(&temporary));
        if let Err(error) = filled {
            remove_file(&temporary)?;
            if error.to_string().contains("No space left on device") {
                return NoRoomSnafu { needed: create.size, free: self.room()?.free }.fail();
            }
            return Err(error);
        }
        std::fs::File::open(&temporary)
            .and_then(|file| file.sync_all())
            .map_err(Error::io("sync", &temporary))?;
        locked.fence()?;
        fsio::rename_new(&temporary, &path).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => Error::Precondition {
                volume: locked.id(),
                reason: format!(
                    "there is a file {file:?} that the record does not know; nothing was replaced"
                ),
            },
            _ => Error::io("rename into place", &path)(error),
        })?;
        fsio::sync_dir(&self.layout.volume(locked.id()))?;
        Ok(())
    }

    /// Deletes a volume. Its snapshots, and what clones stand on, stay until they go themselves.
    pub fn delete(&self, id: VolumeId) -> Result<(), Error> {
        let mut locked = match self.lock(id) {
            Err(Error::VolumeNotFound { .. }) => return Ok(()),
            locked => locked?,
        };
        if locked.record.state == State::Deleted {
            drop(locked);
            return self.sweep(id);
        }
        if let Some(attachment) = locked.record.attachments.first() {
            return Err(attached(id, attachment));
        }
        locked.stop_merge()?;
        let active = locked.record.active_layer().map(|layer| locked.image(&layer.file));
        // A process that the record does not know of would go on writing into an unlinked file.
        let active = match active {
            Some(file) if exists(&file)? => Some(file),
            _ => None,
        };
        let unused = active.as_deref().map(ImageLock::write).transpose().context(ImageLockSnafu)?;
        locked.record.state = State::Deleted;
        locked.record.active = None;
        // Whoever brings its data back finds that nobody wants it.
        locked.record.restore = None;
        match (locked.commit(), active) {
            (Err(error), Some(active)) if is_full(&error) => {
                locked.unlink_for_room(&active)?;
                // Its bytes are given back with the last handle.
                drop(unused);
                locked.commit_once_there_is_room()?;
            }
            (committed, _) => committed?,
        }
        self.index.forget(id);
        reached(Step::VolumeMarkedDeleted);
        locked.write_info()?;
        drop(locked);
        self.sweep(id)
    }
}

/// The record with which a volume's life begins.
pub(super) fn begin(id: VolumeId, request: &CreateVolume) -> Record {
    Record {
        generation: 0,
        id,
        incarnation: Uuid::new_v4(),
        name: request.name.clone(),
        capacity: 0,
        kind: request.kind,
        parameters: request.parameters.clone(),
        source: None,
        state: State::Deleted,
        new: true,
        created_at: Timestamp::now(),
        epoch: 0,
        layers: Vec::new(),
        active: None,
        snapshots: Vec::new(),
        pins: Vec::new(),
        attachments: Vec::new(),
        intent: None,
        merge: None,
        trash: Vec::new(),
        imported: None,
        restore: None,
    }
}

/// The capacity that a request asks for: a whole number of GiB.
pub(super) fn capacity(request: &CreateVolume, source: Option<u64>) -> Result<u64, Error> {
    let wanted = request.required.or(request.limit.map(|limit| limit.min(GIB))).unwrap_or(0);
    let wanted = wanted.max(source.unwrap_or(0)).max(1);
    let rounded = whole_gib(wanted)?;
    if let Some(size) = source
        && let Some(required) = request.required
        && required < size
    {
        let reason = format!("{required} bytes asked for, but the source holds {size}");
        return OutOfRangeSnafu { reason }.fail();
    }
    if let Some(limit) = request.limit
        && rounded > limit
    {
        let reason = format!("{rounded} bytes (whole GiB) would be needed, but the limit is {limit}");
        return OutOfRangeSnafu { reason }.fail();
    }
    Ok(rounded)
}

/// The next whole number of GiB.
pub(super) fn whole_gib(wanted: u64) -> Result<u64, Error> {
    let too_large =
        || Error::OutOfRange { reason: format!("{wanted} bytes are more than an image can have") };
    // qcow2 with 64 KiB clusters ends at 2 EiB; nothing sensible comes near.
    wanted.checked_next_multiple_of(GIB).filter(|size| *size <= 1 << 60).ok_or_else(too_large)
}

/// Whether an existing volume is what a request asks for.
pub(super) fn same_volume(record: &Record, request: &CreateVolume) -> Result<(), Error> {
    let name = request.name.clone();
    let taken = |difference: String| NameTakenSnafu { name, difference }.fail();
    if record.imported.is_some() {
        return taken("it is imported from a file".to_owned());
    }
    let wanted = request.required.map(|_| capacity(request, None)).transpose()?;
    let limited = request.limit.is_none_or(|limit| record.capacity <= limit);
    if !limited || wanted.is_some_and(|wanted| wanted != record.capacity) {
        return taken(format!("it has {} bytes", record.capacity));
    }
    if record.source != request.source {
        return taken("it was made from another source".to_owned());
    }
    if record.kind != request.kind && record.source.is_none() {
        return taken(format!("its image is {:?}, not {:?}", record.kind, request.kind));
    }
    Ok(())
}

/// Makes a folder that only its owner can enter. There already: success.
pub(super) fn make_folder(path: &Path) -> Result<(), Error> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::io("make the folder", path)(error))
        }
        _ => Ok(()),
    }
}
