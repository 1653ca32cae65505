//! The domain: volumes, their layers and snapshots, and every change to a chain.
//!
//! Synchronous on purpose: a call runs on a blocking thread, holds the volume's lock on the share from
//! its first read to its last write, and finishes even when nobody waits for its answer any more.
//! Each change is journaled in the volume's record ([`record`]) before its first effect, so that whoever
//! takes the lock next can finish it (`cut::recover`).

mod adopt;
mod agents;
mod ancestry;
mod background;
mod backup_handle;
mod chain;
mod cut;
mod delta;
mod delta_backoff;
pub mod delta_file;
mod delta_prune;
mod delta_since;
mod error;
mod examine;
mod expand;
mod first_use;
mod flatten;
mod health;
mod id;
mod import;
mod index;
pub mod info_table;
mod inspect;
mod inspect_images;
mod layout;
mod lease;
mod local;
mod lock;
mod merge;
mod merge_job;
mod merge_run;
mod merge_settle;
mod merge_site;
mod mount_options;
mod node_cut;
mod node_expand;
mod node_merge;
mod nodes;
mod origin;
mod pin;
mod policy;
mod provision;
mod publish;
mod rebuild;
mod rebuild_record;
pub mod record;
mod references;
mod registrar;
mod repair;
mod report;
mod restore;
mod restore_turn;
mod room;
mod salvage;
mod scan;
mod slots;
mod snapshot;
mod stage;
mod stage_reader;
mod staged;
mod stats;
pub mod steps;
mod store;
mod survey;
mod tally;
mod target;
mod view;
mod volumes;

pub use adopt::Adopt;
pub use agents::{
    AgentError, Agents, CutOrder, CutReport, GrowOrder, GrowReport, MergeCall, MergeReport, MergeStep,
    MergeWork, OpenImage,
};
pub use ancestry::Ancestor;
pub use background::{Background, RestoreNote};
pub use backup_handle::{BackupHandle, RepositoryName, Writer};
pub use delta_since::{DeltaDetail, Since, StateId};
pub use error::Error;
pub use examine::Examined;
pub use health::{Health, Reason};
pub use id::{InvalidId, LayerId, NodeId, SnapshotHandle, SnapshotId, VolumeHandle, VolumeId};
pub use import::ImportFile;
pub use index::Listed;
pub use inspect::{LayerReport, VolumeReport};
pub use inspect_images::ImageReport;
pub use layout::Layout;
pub use nodes::NodeRecord;
pub use pin::Pinned;
pub use policy::Policy;
pub use publish::Purpose;
pub use registrar::Registrar;
pub use repair::RepairReport;
pub use report::{Condition, LayerDetail, SnapshotDetail, VolumeDetail, VolumeSummary};
pub use restore::Restored;
pub use restore_turn::RestoreTurn;
pub use room::Capacity;
pub use stage::{Access, StageVolume, Staging, StagingParts};
pub use stats::{Stats, Usage};
pub use survey::Survey;
pub use tally::{Tally, WorkTally};
pub use target::{PublishTarget, Sharing};
pub use view::{CreateVolume, Room, SnapshotView, VolumeKind, VolumeSource, VolumeView};
pub use volumes::{Tools, Volumes};

/// The result of a domain call.
pub type Result<T, E = Error> = std::result::Result<T, E>;
