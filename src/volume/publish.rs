//! Which node may open a volume.

use super::agents::AgentError;
use super::cut::is_held;
use super::error::*;
use super::id::{NodeId, VolumeId};
use super::nodes::NodeRecord;
use super::record::{Attachment, Role, State};
use super::steps::{Step, reached};
use super::store::Locked;
use super::view::VolumeView;
use super::volumes::Volumes;
use crate::image::lock::ImageLock;
use jiff::Timestamp;
use snafu::{OptionExt, ResultExt, ensure};

/// What a node is given a volume for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To write to it; no other node has it then.
    Write,
    /// To read it, beside others that do.
    Read,
    /// To read it, as the only node.
    ReadAlone,
}

impl Purpose {
    fn role(self) -> Role {
        match self {
            Purpose::Write => Role::Writer,
            Purpose::Read | Purpose::ReadAlone => Role::Reader,
        }
    }
}

impl Volumes {
    /// A volume that is ready.
    pub fn get(&self, volume: VolumeId) -> Result<VolumeView, Error> {
        let record = self.read(volume)?.filter(|record| record.state == State::Ready);
        Ok(self.view(&record.context(VolumeNotFoundSnafu { volume })?))
    }

    /// Whether there is a volume of that id, in whatever state.
    pub fn knows(&self, volume: VolumeId) -> Result<bool, Error> {
        Ok(self.read(volume)?.is_some_and(|record| record.state != State::Deleted))
    }

    /// Gives a volume to a node: to one that writes, or to any number that read.
    pub fn publish(&self, volume: VolumeId, node: &NodeId, purpose: Purpose) -> Result<(), Error> {
        let mut locked = self.lock(volume)?;
        ensure!(locked.record.state != State::Deleted, VolumeNotFoundSnafu { volume });
        let registered = self.node(node)?;
        ensure!(
            locked.record.state == State::Ready,
            PreconditionSnafu { volume, reason: format!("it is {:?}, not ready", locked.record.state) }
        );
        let role = purpose.role();
        let (mine, others): (Vec<&Attachment>, Vec<&Attachment>) =
            locked.record.attachments.iter().partition(|attachment| attachment.node == *node);
        let beside = |other: &&Attachment| purpose == Purpose::Read && other.role == Role::Reader;
        if let Some(other) = others.into_iter().find(|other| !beside(other)) {
            return Err(attached(volume, other));
        }
        if let Some(mine) = mine.first() {
            let reason = "it is published to this node in another mode (for reading or for writing); unpublish it first";
            ensure!(mine.role == role, IncompatibleSnafu { volume, reason });
            return Ok(());
        }
        self.ensure_place(&registered, volume)?;
        let attachment = Attachment {
            node: node.clone(),
            published_at: Timestamp::now(),
            opened: None,
            role,
            reads: None,
        };
        locked.record.attachments.push(attachment);
        locked.commit()?;
        reached(Step::PublishRecorded);
        self.index.note(volume, self.view(&locked.record));
        Ok(())
    }

    /// Counts what this share gives to the node. A node that has volumes of several shares, or gets two at once, holds its
    /// limit itself when it stages.
    fn ensure_place(&self, node: &NodeRecord, volume: VolumeId) -> Result<(), Error> {
        let Some(limit) = node.max_volumes else { return Ok(()) };
        if self.given_to(&node.node, volume)? >= limit {
            // Some may have been taken from it since they were counted.
            self.index.count_anew();
            let given = self.given_to(&node.node, volume)?;
            ensure!(given < limit, NodeFullSnafu { node: node.node.clone(), limit });
        }
        Ok(())
    }

    /// Takes a volume from a node (or from whichever has it), once its image is closed there. Not
    /// published there, or no such volume: success.
    pub fn unpublish(&self, volume: VolumeId, node: Option<&NodeId>) -> Result<(), Error> {
        let mut locked = match self.lock(volume) {
            Err(Error::VolumeNotFound { .. }) => return Ok(()),
            locked => locked?,
        };
        let meant = |attachment: &Attachment| node.is_none_or(|node| attachment.node == *node);
        let attachments: Vec<Attachment> =
            locked.record.attachments.iter().filter(|a| meant(a)).cloned().collect();
        // One in a daemon of its own has the active image open, as a pod's daemon would. What runs in the node's own daemon
        // ends with that.
        if !attachments.is_empty() && locked.record.merge.as_ref().is_some_and(|merge| merge.at.is_none()) {
            locked.stop_merge()?;
        }
        for attachment in &attachments {
            match attachment.role {
                Role::Writer => locked.let_go(&attachment.node)?,
                Role::Reader => locked.let_go_of_reader(attachment)?,
            }
        }
        if !attachments.is_empty() {
            reached(Step::UnpublishReleased);
            locked.record.attachments.retain(|attachment| !meant(attachment));
            locked.commit()?;
        }
        Ok(())
    }
}

impl Locked<'_> {
    /// Success only when no process, on whatever node, has the active image open.
    fn let_go(&self, node: &NodeId) -> Result<(), Error> {
        let Some(active) = self.record.active_layer().map(|layer| self.image(&layer.file)) else {
            return Ok(());
        };
        let free = ImageLock::write(&active);
        if !is_held(&free) {
            return free.map(drop).context(ImageLockSnafu);
        }
        self.ask_to_release(node)?;
        let free = ImageLock::write(&active);
        if is_held(&free) {
            let reason = format!("it says that it let go, and {} is open still", active.display());
            let source = AgentError::Failed { reason };
            return Err(Error::NodeUnreachable { volume: self.id(), node: node.clone(), source });
        }
        free.map(drop).context(ImageLockSnafu)
    }

    /// Others may read beside it, so that no lock tells whether this one has ended: it is asked. One that cannot be asked
    /// has ended when nobody has its layer open any more.
    fn let_go_of_reader(&self, reader: &Attachment) -> Result<(), Error> {
        if reader.opened.is_none() {
            // A daemon that was started by a stage that died before its note keeps writers away by its own locks.
            return Ok(());
        }
        let Err(error) = self.ask_to_release(&reader.node) else { return Ok(()) };
        let opened = reader.reads.or(self.record.active).and_then(|id| self.record.layer(id));
        let closed = opened.is_none_or(|layer| ImageLock::write(&self.image(&layer.file)).is_ok());
        if closed { Ok(()) } else { Err(error) }
    }

    fn ask_to_release(&self, node: &NodeId) -> Result<(), Error> {
        let volume = self.id();
        let unreachable = |source| Error::NodeUnreachable { volume, node: node.clone(), source };
        let unknown = |error: Error| unreachable(AgentError::Unreachable { reason: error.to_string() });
        let registered = self.volumes.node(node).map_err(unknown)?;
        let agents = &self.volumes.tools.agents;
        agents.release(node, &registered.agent, &self.volumes.share.key, volume).map_err(unreachable)
    }
}

/// Why a volume cannot be had: who has it, and for what.
pub(super) fn attached(volume: VolumeId, attachment: &Attachment) -> Error {
    let node = attachment.node.clone();
    match attachment.role {
        Role::Writer => Error::AttachedElsewhere { volume, node },
        Role::Reader => Error::ReadElsewhere { volume, node },
    }
}
