//! Strata: volumes that are disk images on GlusterFS, their snapshots and their backups.
//!
//! `docs/architecture.md` tells what each module is for. Imports go one way:
//! `cli → csi, agent, data, kube → backup → volume → image, qsd, attach, gluster → host`;
//! `tests/layers.rs` holds them to it.

pub mod agent;
pub mod attach;
pub mod backup;
pub mod cli;
pub mod csi;
pub mod data;
pub mod gluster;
pub mod host;
pub mod image;
pub mod kube;
pub mod metrics;
pub mod qsd;
pub mod rpc;
pub mod trace;
pub mod volume;
