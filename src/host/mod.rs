//! Effects on the Linux host, each behind a trait with a recording fake for unit tests.

pub mod deadline;
pub mod device;
pub mod direct_io;
pub mod exec;
pub mod fake;
pub mod freeze;
pub mod fsio;
pub mod growfs;
mod labels;
pub mod loopdev;
pub mod mkfs;
pub mod mount;
