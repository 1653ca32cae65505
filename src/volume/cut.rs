//! The cut: the active layer is frozen under a new overlay, while a node writes to it or not.
//!
//! Journaled as intent → overlay → switch → record. A cut that was begun is always finished and never
//! undone, because a node's daemon may already write to the overlay; see [`Locked::recover`].

use super::agents::{AgentError, CutOrder, CutReport};
use super::chain::relative;
use super::error::*;
use super::id::{LayerId, NodeId, SnapshotId};
use super::record::{Consistency, Intent, Layer, ParentLayer, Record, Snapshot, State};
use super::steps::{Step, reached};
use super::store::{Locked, exists};
use crate::image::lock::{ImageLock, LockError};
use crate::image::qemu_img::{Create, Preallocation};
use crate::image::{Format, header};
use jiff::Timestamp;
use snafu::{ResultExt, ensure};

/// The parts of [`Intent::Cut`].
#[derive(Clone)]
struct Begun {
    frozen: LayerId,
    overlay: LayerId,
    file: String,
}

/// How the switch to the overlay came about.
enum Switch {
    /// On a node.
    Attached { filesystem_consistent: bool },
    /// Nobody has the image open, nor can anybody open it until the lock is dropped.
    Detached { _lock: ImageLock },
}

/// What a cut froze.
pub(super) struct Frozen {
    layer: LayerId,
    size: u64,
    at: Timestamp,
    consistency: Consistency,
}

impl Locked<'_> {
    /// Freezes the active layer and records it as a snapshot.
    pub(super) fn cut(&mut self, id: SnapshotId, name: &str) -> Result<Snapshot, Error> {
        self.room_above_active()?;
        let mut taken = None;
        self.freeze_active(id, |record, frozen| {
            let snapshot = Snapshot {
                id,
                name: name.to_owned(),
                layer: frozen.layer,
                incarnation: record.incarnation,
                created_at: frozen.at,
                size: frozen.size,
                consistency: frozen.consistency,
                blank: record.new,
            };
            record.snapshots.push(snapshot.clone());
            taken = Some(snapshot);
        })?;
        Ok(taken.expect("a cut that succeeded has frozen a layer"))
    }

    /// A frozen layer that holds what the volume holds now, for a clone to stand on: made by a cut that no
    /// snapshot names, or what is there when nothing was written since the last one.
    pub(super) fn boundary(&mut self) -> Result<ParentLayer, Error> {
        let volume = self.id();
        ensure!(self.record.state != State::Deleted, VolumeNotFoundSnafu { volume });
        ensure!(
            self.record.state == State::Ready,
            PreconditionSnafu { volume, reason: format!("it is {:?}, not ready", self.record.state) }
        );
        if let Some(parent) = self.unwritten()? {
            return Ok(parent);
        }
        self.room_above_active()?;
        let layer = self.record.active.expect("a volume that is ready has an active layer");
        self.freeze_active(SnapshotId::random(), |_, _| ())?;
        self.write_info()?;
        Ok(ParentLayer { volume, layer })
    }

    fn room_above_active(&self) -> Result<(), Error> {
        let layer = self.record.active.expect("a volume that is ready has an active layer");
        self.room_for_another_layer(ParentLayer { volume: self.id(), layer })
    }

    /// The layer under the active one, if nobody has that open for writing and nothing was ever written to it.
    fn unwritten(&self) -> Result<Option<ParentLayer>, Error> {
        let active = self.record.active_layer().expect("a volume that is ready has an active layer");
        let Some(parent) = active.parent else { return Ok(None) };
        if self.record.writer().is_some() {
            return Ok(None);
        }
        let path = self.image(&active.file);
        let Ok(_unchanged) = ImageLock::read(&path) else { return Ok(None) };
        // The layer below may be smaller than what stands on it: growth is a change too.
        let below = self.volumes.chain(&self.record, active.id)?.into_iter().nth(1);
        if below.is_none_or(|below| below.layer.size != active.size) {
            return Ok(None);
        }
        Ok(header::has_no_data(&path).context(ImageHeaderSnafu)?.then_some(parent))
    }

    /// The cut itself; `note` says in the record what was frozen, in the write that makes the cut final.
    pub(super) fn freeze_active(
        &mut self,
        tag: SnapshotId,
        note: impl FnOnce(&mut Record, Frozen),
    ) -> Result<(), Error> {
        self.measure()?;
        let frozen = self.record.active.expect("a volume that is ready has an active layer");
        let file = self.fresh_file(format!("volume-{}.{tag}", self.id()))?;
        let begun = Begun { frozen, overlay: LayerId::random(), file };
        self.record.intent =
            Some(Intent::Cut { snapshot: tag, frozen, overlay: begun.overlay, file: begun.file.clone() });
        self.commit()?;
        reached(Step::CutIntended);
        self.make_overlay(&begun)?;
        reached(Step::CutOverlayMade);
        let switch = self.switch(&begun).or_else(|error| {
            // Whoever took the lock meanwhile may have finished this cut, and merged its layers away.
            self.fence()?;
            Err(error)
        })?;
        let at = Timestamp::now();
        reached(Step::CutReported);
        let consistency = match switch {
            Switch::Attached { filesystem_consistent: true } => Consistency::Filesystem,
            Switch::Attached { filesystem_consistent: false } => Consistency::Crash,
            Switch::Detached { .. } => Consistency::Detached,
        };
        let size = self.record.layer(frozen).expect("the active layer is in the record").size;
        note(&mut self.record, Frozen { layer: frozen, size, at, consistency });
        self.finish_cut(&begun)?;
        reached(Step::CutRecorded);
        Ok(())
    }

    fn make_overlay(&self, begun: &Begun) -> Result<(), Error> {
        let below = self.record.layer(begun.frozen).expect("the frozen layer is in the record");
        let name = relative(&self.image(&begun.file), &self.image(&below.file));
        let create = Create {
            format: Format::Qcow2,
            size: below.size,
            preallocation: Preallocation::Off,
            backing: Some((name, below.format)),
        };
        self.volumes.make_image(self, &begun.file, &create)
    }

    /// Makes the overlay the image that takes the writes, wherever the volume is open.
    fn switch(&mut self, begun: &Begun) -> Result<Switch, Error> {
        let Some((node, epoch)) = self.record.writer() else {
            return self.exclude_writers(begun);
        };
        if self.closed_on.as_ref() == Some(&node) {
            return self.exclude_writers(begun);
        }
        match self.ask_for_cut(&node, epoch, begun) {
            Ok(CutReport::Switched { filesystem_consistent, pause }) => {
                let pause_us = pause.as_micros() as u64;
                tracing::info!(volume = %self.id(), %node, pause_us, filesystem_consistent, "cut while attached");
                Ok(Switch::Attached { filesystem_consistent })
            }
            Ok(CutReport::AlreadySwitched) => Ok(Switch::Attached { filesystem_consistent: false }),
            // Published, but staged no more (or not again yet): nobody writes.
            Ok(CutReport::NotOpen) => self.exclude_writers(begun),
            // It may be dead. Then its image locks are free, and nothing can have been written since.
            Err(source) => self.exclude_writers(begun).map_err(|_| Error::NodeUnreachable {
                volume: self.id(),
                node,
                source,
            }),
        }
    }

    fn ask_for_cut(&self, node: &NodeId, epoch: u64, begun: &Begun) -> Result<CutReport, AgentError> {
        let unknown = |error: Error| AgentError::Unreachable { reason: error.to_string() };
        let registered = self.volumes.node(node).map_err(unknown)?;
        let below = self.record.layer(begun.frozen).expect("the frozen layer is in the record");
        let order = CutOrder {
            share: self.volumes.share.key.clone(),
            volume: self.id(),
            epoch,
            frozen_file: below.file.clone(),
            overlay_file: begun.file.clone(),
        };
        self.volumes.tools.agents.cut(node, &registered.agent, &order)
    }

    /// A lock of QEMU's that no writer tolerates, on the layer that is frozen, kept until the record is final: creating
    /// an overlay on an image that a daemon writes to would succeed, and the writes would go under it. Nodes that
    /// only read the layer may go on: it stays as it is.
    fn exclude_writers(&self, begun: &Begun) -> Result<Switch, Error> {
        let below = self.record.layer(begun.frozen).expect("the frozen layer is in the record");
        // Kept before the overlay is looked at: a node that answers late can then switch no more, nor has it switched
        // between the two looks, and a daemon that is on the overlay has this layer open for reading only.
        let lock = ImageLock::read(&self.image(&below.file)).context(ImageLockSnafu)?;
        reached(Step::CutLayerHeld);
        drop(ImageLock::write(&self.image(&begun.file)).context(ImageLockSnafu)?);
        Ok(Switch::Detached { _lock: lock })
    }

    fn finish_cut(&mut self, begun: &Begun) -> Result<(), Error> {
        let below = self.record.layer(begun.frozen).expect("the frozen layer is in the record");
        let overlay = Layer {
            id: begun.overlay,
            incarnation: self.record.incarnation,
            file: begun.file.clone(),
            format: Format::Qcow2,
            size: below.size,
            parent: Some(ParentLayer { volume: self.id(), layer: begun.frozen }),
            closed: false,
        };
        self.record.layers.push(overlay);
        self.record.active = Some(begun.overlay);
        self.record.intent = None;
        self.commit()
    }

    /// Finishes what another holder of the lock began: the trash, a cut, the table beside the record.
    pub(super) fn recover(&mut self) -> Result<(), Error> {
        if let Some(Intent::Cut { frozen, overlay, file, .. }) = self.record.intent.clone() {
            self.recover_cut(Begun { frozen, overlay, file })?;
        }
        self.empty_trash()?;
        self.write_info()
    }

    /// The point itself is not handed out: nobody knows what was acknowledged around it, so it is cut again.
    fn recover_cut(&mut self, begun: Begun) -> Result<(), Error> {
        let volume = self.id();
        if !exists(&self.image(&begun.file))? {
            // No node was ever told: that comes after the overlay has its name.
            tracing::info!(%volume, file = begun.file, "a cut that had not begun is forgotten");
            self.record.intent = None;
            return self.commit();
        }
        let _switch = self.switch(&begun)?;
        tracing::info!(%volume, file = begun.file, "a cut that was broken off is finished, as a nameless boundary");
        self.finish_cut(&begun)
    }
}

/// Whether an image lock is refused because somebody holds it.
pub(super) fn is_held<T>(result: &Result<T, LockError>) -> bool {
    matches!(result, Err(LockError::Held { .. }))
}
