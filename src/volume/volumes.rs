//! The volumes of one share: the context that every operation needs.

use super::agents::Agents;
use super::delta_backoff::Unkept;
use super::error::Error;
use super::id::{NodeId, SnapshotHandle, SnapshotId, VolumeHandle, VolumeId};
use super::index::Index;
use super::layout::Layout;
use super::lease::Watch;
use super::nodes::{self, NodeRecord};
use super::policy::Policy;
use super::record::Record;
use super::survey;
use super::view::{Room, VolumeView};
use crate::gluster::Share;
use crate::qsd::DaemonHost;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long an operation waits for a volume that another one works on, before it answers "busy".
/// Well under the shortest deadline of a sidecar (provisioner: 10 s), so that the caller hears the reason.
const LOCK_WAIT: Duration = Duration::from_secs(3);

/// The programs and services that operations use.
#[derive(Clone)]
pub struct Tools {
    /// The program `qemu-img`.
    pub qemu_img: PathBuf,
    /// Runs the storage daemons.
    pub daemons: Arc<dyn DaemonHost>,
    /// Asks the nodes.
    pub agents: Arc<dyn Agents>,
    /// What an operator can set.
    pub policy: Policy,
}

/// The volumes of one share.
#[derive(Clone)]
pub struct Volumes {
    pub(super) share: Share,
    pub(super) layout: Layout,
    pub(super) tools: Tools,
    pub(super) lock_wait: Duration,
    pub(super) index: Index,
    /// Volumes for which the background has perhaps something to do, as a hint.
    due: Arc<Mutex<BTreeSet<VolumeId>>>,
    /// Deltas that could not be kept lately.
    pub(super) unkept: Arc<Unkept>,
    /// Which pins hold.
    pub(super) pins: Arc<Watch>,
}

impl Volumes {
    /// The volumes of an opened share.
    pub fn new(share: Share, tools: Tools) -> Self {
        let layout = Layout::new(&share.root);
        Volumes {
            share,
            layout,
            tools,
            lock_wait: LOCK_WAIT,
            index: Index::default(),
            due: Arc::default(),
            unkept: Arc::default(),
            pins: Arc::default(),
        }
    }

    pub(super) fn note_due(&self, volume: VolumeId) {
        self.due.lock().unwrap_or_else(PoisonError::into_inner).insert(volume);
    }

    /// Volumes that lost a reference lately: to be tidied. Each is told once.
    pub fn take_due(&self) -> BTreeSet<VolumeId> {
        std::mem::take(&mut *self.due.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The share.
    pub fn share(&self) -> &Share {
        &self.share
    }

    /// What operations are done with.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Where things are on it.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// A volume's handle.
    pub fn handle(&self, volume: VolumeId) -> VolumeHandle {
        VolumeHandle { share: self.share.key.clone(), volume }
    }

    /// A snapshot's handle.
    pub fn snapshot_handle(&self, volume: VolumeId, snapshot: SnapshotId) -> SnapshotHandle {
        SnapshotHandle { share: self.share.key.clone(), volume, snapshot }
    }

    /// The space on the share.
    pub fn room(&self) -> Result<Room, Error> {
        survey::room(&self.share.root)
    }

    /// Writes a node's registration.
    pub fn register_node(&self, node: &NodeRecord) -> Result<(), Error> {
        nodes::register(&self.layout, node)
    }

    /// A node's registration.
    pub fn node(&self, node: &NodeId) -> Result<NodeRecord, Error> {
        let found = nodes::get(&self.layout, node);
        if matches!(found, Err(Error::NodeNotFound { .. })) {
            self.is_there()?;
        }
        found
    }

    pub(super) fn view(&self, record: &Record) -> VolumeView {
        VolumeView {
            handle: self.handle(record.id),
            name: record.name.clone(),
            capacity: record.capacity,
            source: record.source.clone(),
            nodes: record.attachments.iter().map(|attachment| attachment.node.clone()).collect(),
            parameters: record.parameters.clone(),
        }
    }
}
