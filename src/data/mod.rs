//! The data plane: share mounts and storage daemons that outlive an upgrade of the driver.

mod client;
mod ending;
mod process;
mod server;
mod shares;

pub use client::{DataClient, DataError, RemoteDaemons};
pub use process::protect;
pub use server::DataService;
pub use shares::MountedShares;
