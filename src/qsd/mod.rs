//! qemu-storage-daemon: processes, the QMP client, and the commands that Strata uses.

pub mod command;
mod daemon;
mod job;
mod local;
pub mod qmp;
pub mod reader;
pub mod version;

pub use daemon::{Daemon, DaemonError, DaemonHost, DaemonName};
pub use local::LocalDaemons;
