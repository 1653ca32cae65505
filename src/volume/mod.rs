//! The domain: volumes, their layers and snapshots, and every change to a chain.
//!
//! Synchronous on purpose: a call runs on a blocking thread, holds the volume's lock on the share from
//! its first read to its last write, and finishes even when nobody waits for its answer any more.
//! Each change is journaled in the volume's record ([`record`]) before its first effect, so that whoever
//! takes the lock next can finish it ([`recover`]).

mod agents;
mod error;
mod id;
mod layout;
mod lock;
mod nodes;
pub mod record;
pub mod steps;
mod view;
mod volumes;

pub use agents::{AgentError, Agents, CutOrder, CutReport, OpenImage};
pub use error::Error;
pub use id::{InvalidId, LayerId, NodeId, SnapshotHandle, SnapshotId, VolumeHandle, VolumeId};
pub use layout::Layout;
pub use nodes::NodeRecord;
pub use view::{CreateVolume, SnapshotView, VolumeKind, VolumeSource, VolumeView};
pub use volumes::{Tools, Volumes};

/// The result of a domain call.
pub type Result<T, E = Error> = std::result::Result<T, E>;
