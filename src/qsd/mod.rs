//! qemu-storage-daemon: processes, the QMP client, and the commands that Strata uses.

mod daemon;

pub use daemon::{Daemon, DaemonError, DaemonHost, DaemonName};
