//! Backups that objects ask for: a real API server, a real volume on a share, a real repository. The test plays the
//! snapshot controller and its sidecar.

mod ends;
mod failures;
mod metrics;
mod replicas;
mod schedules;
mod triggers;
mod world;
