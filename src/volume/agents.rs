//! The node agents, as the domain sees them.

use super::id::{NodeId, VolumeId};
use crate::gluster::ShareKey;
use snafu::Snafu;
use std::time::Duration;

/// Moves a running image onto an overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutOrder {
    /// The share that holds the volume.
    pub share: ShareKey,
    /// The volume.
    pub volume: VolumeId,
    /// The attachment that is meant.
    pub epoch: u64,
    /// The file that takes the writes now and is to be frozen.
    pub frozen_file: String,
    /// The file that is to take them from now on. It exists.
    pub overlay_file: String,
}

/// How a cut on a node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutReport {
    /// The daemon now writes to the overlay.
    Switched {
        /// Whether the filesystem was held frozen over the whole switch.
        filesystem_consistent: bool,
        /// How long writers waited.
        pause: Duration,
    },
    /// An earlier call had switched already.
    AlreadySwitched,
    /// The node has no image of that volume and epoch open.
    NotOpen,
}

/// Makes the disk of a running image larger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrowOrder {
    /// The share that holds the volume.
    pub share: ShareKey,
    /// The volume.
    pub volume: VolumeId,
    /// The attachment that is meant.
    pub epoch: u64,
    /// The file that takes the writes.
    pub file: String,
    /// Bytes.
    pub size: u64,
}

/// How a growth on a node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrowReport {
    /// Image and device have at least that size.
    Grown,
    /// The node has no image of that volume and epoch open.
    NotOpen,
}

/// What a node has open of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenImage {
    /// The file that takes the writes.
    pub active_file: String,
}

/// Why an agent gave no answer.
#[derive(Clone, Debug, Snafu)]
#[snafu(visibility(pub))]
pub enum AgentError {
    /// No connection, or no answer in time: what it did is unknown.
    #[snafu(display("{reason}"))]
    Unreachable {
        /// What happened.
        reason: String,
    },
    /// It answered that it failed.
    #[snafu(display("{reason}"))]
    Failed {
        /// What it said.
        reason: String,
    },
}

/// Asks node agents. Blocking, with a deadline of its own for each call.
pub trait Agents: Send + Sync {
    /// Carries out a cut. Can be repeated.
    fn cut(&self, node: &NodeId, address: &str, order: &CutOrder) -> Result<CutReport, AgentError>;
    /// Carries out a growth. Can be repeated.
    fn grow(&self, node: &NodeId, address: &str, order: &GrowOrder) -> Result<GrowReport, AgentError>;
    /// What the node has open of that attachment.
    fn status(
        &self,
        node: &NodeId,
        address: &str,
        share: &ShareKey,
        volume: VolumeId,
        epoch: u64,
    ) -> Result<Option<OpenImage>, AgentError>;
    /// The node closes the volume's image; success only when it is closed.
    fn release(
        &self,
        node: &NodeId,
        address: &str,
        share: &ShareKey,
        volume: VolumeId,
    ) -> Result<(), AgentError>;
}
