//! The node agents, as the domain sees them.

use super::id::{NodeId, VolumeId};
use super::record::Direction;
use crate::gluster::ShareKey;
use snafu::Snafu;
use std::time::Duration;
use uuid::Uuid;

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

/// What is to be done with a merge inside the daemon that has the volume open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeCall {
    /// The share that holds the volume.
    pub share: ShareKey,
    /// The volume.
    pub volume: VolumeId,
    /// The attachment that is meant.
    pub epoch: u64,
    /// Tells one run of a merge from the next.
    pub run: Uuid,
    /// What to do.
    pub step: MergeStep,
}

/// A step of a merge. Each can be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MergeStep {
    /// Begin to copy.
    Start(MergeWork),
    /// Only look.
    Look,
    /// All is copied: write the header, and close what nothing reads any more.
    Finish,
    /// Break off whatever merge there is.
    Stop,
}

/// What is copied where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeWork {
    /// How.
    pub direction: Direction,
    /// The upper layer's file, in the volume's folder.
    pub upper_file: String,
    /// The lower layer's file, likewise; None when everything below is copied up.
    pub lower_file: Option<String>,
    /// What the header that is written last is to name, as it is to stand there; None: nothing.
    pub backing: Option<String>,
    /// Bytes per second; 0 is unlimited.
    pub speed: u64,
}

/// How far a merge is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MergeReport {
    /// The node has no image of that volume and epoch open.
    NotOpen,
    /// There is no such run.
    Absent,
    /// It copies.
    Running {
        /// Bytes copied.
        done: u64,
        /// Bytes in all, as far as known.
        total: u64,
    },
    /// All is copied, no header is changed.
    Copied,
    /// The header is written.
    Finished,
    /// It ended with an error, and changed nothing that is read.
    Failed {
        /// What the daemon said.
        reason: String,
    },
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
    /// Carries out a step of a merge. Can be repeated.
    fn merge(&self, node: &NodeId, address: &str, call: &MergeCall) -> Result<MergeReport, AgentError>;
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
