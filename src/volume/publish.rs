//! Which node may open a volume.

use super::agents::AgentError;
use super::cut::is_held;
use super::error::*;
use super::id::{NodeId, VolumeId};
use super::record::{Attachment, State};
use super::store::Locked;
use super::view::VolumeView;
use super::volumes::Volumes;
use crate::image::lock::ImageLock;
use jiff::Timestamp;
use snafu::{OptionExt, ResultExt, ensure};

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

    /// Gives a volume to a node, which alone may write to it.
    pub fn publish(&self, volume: VolumeId, node: &NodeId) -> Result<(), Error> {
        let mut locked = self.lock(volume)?;
        ensure!(locked.record.state != State::Deleted, VolumeNotFoundSnafu { volume });
        self.node(node)?;
        ensure!(
            locked.record.state == State::Ready,
            PreconditionSnafu { volume, reason: format!("it is {:?}, not ready", locked.record.state) }
        );
        match locked.record.attachments.first() {
            Some(attachment) if attachment.node == *node => return Ok(()),
            Some(attachment) => {
                return AttachedElsewhereSnafu { volume, node: attachment.node.clone() }.fail();
            }
            None => {}
        }
        let attachment = Attachment { node: node.clone(), published_at: Timestamp::now(), opened: None };
        locked.record.attachments.push(attachment);
        locked.commit()
    }

    /// Takes a volume from a node (or from whichever has it), once its image is closed there. Not
    /// published there, or no such volume: success.
    pub fn unpublish(&self, volume: VolumeId, node: Option<&NodeId>) -> Result<(), Error> {
        let mut locked = match self.lock(volume) {
            Err(Error::VolumeNotFound { .. }) => return Ok(()),
            locked => locked?,
        };
        let meant = |attachment: &Attachment| node.is_none_or(|node| attachment.node == *node);
        let nodes: Vec<NodeId> =
            locked.record.attachments.iter().filter(|a| meant(a)).map(|a| a.node.clone()).collect();
        for node in &nodes {
            locked.let_go(node)?;
        }
        if !nodes.is_empty() {
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
        let volume = self.id();
        let unreachable = |source| Error::NodeUnreachable { volume, node: node.clone(), source };
        let registered = self.volumes.node(node);
        let registered =
            registered.map_err(|error| unreachable(AgentError::Unreachable { reason: error.to_string() }))?;
        let agents = &self.volumes.tools.agents;
        agents.release(node, &registered.agent, &self.volumes.share.key, volume).map_err(unreachable)?;
        ImageLock::write(&active).map(drop).context(ImageLockSnafu)
    }
}
