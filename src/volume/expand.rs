//! Growth: image, then (where it is open) daemon and device, then the record.
//!
//! Until the record says so a volume has its old capacity, whatever its image has by then: an image that is
//! larger than its record harms nobody, and the next try of the same wish, or of a smaller one, finishes it. The
//! filesystem follows on the node; see `node_expand.rs`.

use super::agents::{AgentError, GrowOrder, GrowReport};
use super::chain::images;
use super::error::*;
use super::id::{NodeId, VolumeId};
use super::record::{Layer, State};
use super::references::sources;
use super::steps::{Step, reached};
use super::store::Locked;
use super::view::VolumeKind;
use super::volumes::Volumes;
use crate::image::lock::ImageLock;
use crate::image::{Format, QemuImg, header, raw};
use snafu::{OptionExt, ResultExt, ensure};

const GIB: u64 = 1 << 30;
/// qcow2 with 64 KiB clusters ends at 2 EiB; nothing sensible comes near.
const LARGEST: u64 = 1 << 60;

/// Where a volume's active image is open.
struct OpenAt {
    node: NodeId,
    address: String,
    epoch: u64,
}

impl Volumes {
    /// Grows a volume to at least `required` bytes, and to `limit` at most; answers its capacity. It has as much
    /// already: success.
    pub fn expand(&self, volume: VolumeId, required: Option<u64>, limit: Option<u64>) -> Result<u64, Error> {
        // Before the locks: it may read every record of the share.
        self.provisioned()?;
        let mut locked = self.lock(volume)?;
        if locked.wanted(required, limit)?.is_none() {
            return Ok(locked.record.capacity);
        }
        let open = locked.open_at()?;
        let mut _sources = None;
        if open.is_none() && !sources(&locked.record).is_empty() {
            // Its chain is opened here. The graph lock comes first, and after all that a node is asked: one that does not
            // answer keeps no other volume waiting.
            let writer = locked.record.writer();
            drop(locked);
            _sources = self.hold_sources(volume)?;
            locked = self.lock_settled(volume)?;
            let doing = "it was attached just now".to_owned();
            ensure!(locked.record.writer() == writer, PendingSnafu { volume, doing });
        }
        let capacity = locked.record.capacity;
        let Some(wanted) = locked.wanted(required, limit)? else { return Ok(capacity) };
        locked.stop_merge()?;
        locked.measure()?;
        let active = locked.record.active_layer().context(VolumeNotFoundSnafu { volume })?.clone();
        // An earlier try came further than this one wants to.
        let size = wanted.max(active.size);
        ensure!(
            limit.is_none_or(|limit| size <= limit),
            OutOfRangeSnafu {
                reason: format!("its image has {size} bytes already, after an earlier expansion")
            }
        );
        self.claim_room(volume, size, 0)?;
        locked.grow(open.as_ref(), &active, size)?;
        reached(Step::GrowResized);
        locked.record.capacity = size;
        locked.measure()?;
        locked.commit()?;
        tracing::info!(%volume, from = capacity, to = size, "a volume has grown");
        Ok(size)
    }
}

/// The capacity that is wanted, in whole GiB; the present one if that is enough.
fn target(capacity: u64, required: Option<u64>, limit: Option<u64>) -> Result<u64, Error> {
    let out_of_range = |reason: String| OutOfRangeSnafu { reason }.fail();
    let required = required.unwrap_or(0);
    if let Some(limit) = limit.filter(|limit| *limit < capacity) {
        return out_of_range(format!(
            "it has {capacity} bytes, the limit is {limit}, and volumes do not shrink"
        ));
    }
    if required <= capacity {
        return Ok(capacity);
    }
    let rounded = required.checked_next_multiple_of(GIB).filter(|size| *size <= LARGEST);
    let Some(rounded) = rounded else {
        return out_of_range(format!("{required} bytes are more than an image can have"));
    };
    match limit.filter(|limit| rounded > *limit) {
        Some(limit) => {
            out_of_range(format!("{rounded} bytes (whole GiB) would be needed, but the limit is {limit}"))
        }
        None => Ok(rounded),
    }
}

impl Locked<'_> {
    /// Takes the active layer's size from its image: a growth that was broken off may have left it larger.
    pub(super) fn measure(&mut self) -> Result<(), Error> {
        let Some(active) = self.record.active_layer() else { return Ok(()) };
        let size =
            header::virtual_size(&self.image(&active.file), active.format).context(ImageHeaderSnafu)?;
        let id = active.id;
        if let Some(layer) = self.record.layer_mut(id) {
            layer.size = layer.size.max(size);
        }
        Ok(())
    }

    /// The capacity that is wanted of a volume that can grow; None: it has that.
    fn wanted(&self, required: Option<u64>, limit: Option<u64>) -> Result<Option<u64>, Error> {
        let (volume, state) = (self.id(), self.record.state);
        ensure!(state != State::Deleted, VolumeNotFoundSnafu { volume });
        let reason = format!("it is {state:?}, not ready");
        ensure!(state == State::Ready, PreconditionSnafu { volume, reason });
        let wanted = target(self.record.capacity, required, limit)?;
        if wanted == self.record.capacity {
            return Ok(None);
        }
        match self.record.reader() {
            Some(node) => ReadElsewhereSnafu { volume, node: node.clone() }.fail(),
            None => Ok(Some(wanted)),
        }
    }

    fn grow(&self, open: Option<&OpenAt>, active: &Layer, size: u64) -> Result<(), Error> {
        match open {
            Some(open) => self.grow_attached(open, active, size),
            None => self.grow_detached(active, size),
        }
    }

    /// The node that has the active image open. One that cannot be asked may have it.
    fn open_at(&self) -> Result<Option<OpenAt>, Error> {
        let volume = self.id();
        let Some((node, epoch)) = self.record.writer() else { return Ok(None) };
        let unreachable = |source| Error::NodeUnreachable { volume, node: node.clone(), source };
        let registered = self.volumes.node(&node);
        let unknown = |error: Error| unreachable(AgentError::Unreachable { reason: error.to_string() });
        let address = registered.map_err(unknown)?.agent;
        let agents = &self.volumes.tools.agents;
        let status =
            agents.status(&node, &address, &self.volumes.share.key, volume, epoch).map_err(unreachable)?;
        Ok(status.map(|_| OpenAt { node, address, epoch }))
    }

    fn grow_detached(&self, active: &Layer, size: u64) -> Result<(), Error> {
        let path = self.image(&active.file);
        // A process that the record does not know of would not see its disk grow.
        let lock = ImageLock::write(&path).context(ImageLockSnafu)?;
        match active.format {
            Format::Raw => {
                if let Err(error) = self.reserve(active, size) {
                    self.give_back(active)?;
                    return Err(error);
                }
                raw::extend(&path, size).map_err(Error::io("grow", &path))
            }
            Format::Qcow2 => {
                let chain = self.volumes.chain(&self.record, active.id)?;
                self.volumes.verify(&chain)?;
                // It takes the lock itself, which a lock of ours would refuse it.
                drop(lock);
                let img = QemuImg::new(self.volumes.tools.qemu_img.clone());
                img.grow(&images(&chain), size).context(QemuImgSnafu)
            }
        }
    }

    /// What was reserved stays, whatever comes of it: an earlier call may still be queued on the node, and giving back
    /// while the daemon grows the image would cut off what it has just got. The next try uses the room.
    fn grow_attached(&self, open: &OpenAt, active: &Layer, size: u64) -> Result<(), Error> {
        let volume = self.id();
        self.reserve(active, size)?;
        let share = self.volumes.share.key.clone();
        let order = GrowOrder { share, volume, epoch: open.epoch, file: active.file.clone(), size };
        let node = open.node.clone();
        match self.volumes.tools.agents.grow(&node, &open.address, &order) {
            Ok(GrowReport::Grown) => Ok(()),
            Ok(GrowReport::NotOpen) => {
                let doing = format!("node {node} is just closing it");
                PendingSnafu { volume, doing }.fail()
            }
            // What it did is unknown; it may still be at work, with the room that was reserved.
            Err(source @ AgentError::Unreachable { .. }) => {
                Err(Error::NodeUnreachable { volume, node, source })
            }
            Err(source @ AgentError::Failed { .. }) => Err(Error::NodeFailed { volume, node, source }),
        }
    }

    /// Takes the room that a fully allocated image is to grow into, or a part of it before an error.
    fn reserve(&self, active: &Layer, size: u64) -> Result<(), Error> {
        if !self.is_allocated(active) {
            return Ok(());
        }
        let needed = size.saturating_sub(active.size);
        let free = self.volumes.room()?.free;
        ensure!(needed <= free, NoRoomSnafu { needed, free });
        let path = self.image(&active.file);
        let full = |error: &std::io::Error| error.kind() == std::io::ErrorKind::StorageFull;
        match raw::reserve(&path, size) {
            Err(error) if full(&error) => NoRoomSnafu { needed, free: self.volumes.room()?.free }.fail(),
            reserved => {
                reserved.map_err(Error::io("reserve room for", &path))?;
                reached(Step::GrowReserved);
                Ok(())
            }
        }
    }

    /// Only while nobody has the image open.
    fn give_back(&self, active: &Layer) -> Result<(), Error> {
        let path = self.image(&active.file);
        if self.is_allocated(active) {
            raw::give_back(&path).map_err(Error::io("give back", path))
        } else {
            Ok(())
        }
    }

    /// Whether every block of the active image is to be on disk.
    fn is_allocated(&self, active: &Layer) -> bool {
        self.record.kind == VolumeKind::RawFull && active.format == Format::Raw
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// G11: whole GiB, never smaller, never past the limit.
    #[rstest]
    #[case(None, None, Ok(2))]
    #[case(Some(1), None, Ok(2))]
    #[case(Some(2), Some(2), Ok(2))]
    #[case(Some(3), None, Ok(3))]
    #[case(None, Some(5), Ok(2))]
    #[case(None, Some(1), Err("do not shrink"))]
    #[case(Some(1), Some(1), Err("do not shrink"))]
    #[case(Some(1 << 31), None, Err("more than an image"))]
    fn what_is_wanted_is_a_capacity_or_out_of_range(
        #[case] required: Option<u64>,
        #[case] limit: Option<u64>,
        #[case] expected: Result<u64, &str>,
    ) {
        let bytes = |gib: u64| gib * GIB;
        match (target(bytes(2), required.map(bytes), limit.map(bytes)), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, bytes(expected)),
            (Err(Error::OutOfRange { reason }), Err(expected)) => {
                assert!(reason.contains(expected), "{reason}")
            }
            (found, expected) => panic!("{found:?} where {expected:?} was expected"),
        }
    }

    #[test]
    fn a_capacity_is_rounded_up_and_may_not_pass_the_limit_by_that() {
        assert_eq!(target(GIB, Some(GIB + 1), None).unwrap(), 2 * GIB);
        let beyond = target(GIB, Some(GIB + 1), Some(2 * GIB - 1));
        assert!(matches!(beyond, Err(Error::OutOfRange { .. })), "{beyond:?}");
    }
}
