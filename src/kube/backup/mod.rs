//! VolumeBackup: from a snapshot to a backup in the repository, and its end.

mod delete;
mod failure;
mod job;
mod jobs;
mod owner;
mod plan;
mod queue;
mod reconcile;
mod run;
mod source;
mod status;

pub use jobs::Jobs;
pub use reconcile::{failed, reconcile};
