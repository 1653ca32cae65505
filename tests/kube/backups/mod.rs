//! Backups that objects ask for: a real API server, a real volume on a share, a real repository. The test plays the
//! snapshot controller and its sidecar.

mod account;
mod crowd;
mod elsewhere;
mod ends;
mod failures;
mod followed;
mod installations;
mod metrics;
mod processes;
mod replicas;
mod schedules;
mod triggers;
mod world;

pub use processes::{Access, controller, data_plane};
pub use world::World;
