//! `strata data`: share mounts and storage daemons that outlive the driver's own processes.

use super::args::QemuStorageDaemonArg;
use super::{private_dir, runtime, serve, stop_signal};
use crate::data::{DataService, MountedShares, protect};
use crate::qsd::LocalDaemons;
use crate::rpc::data::data_server::DataServer;
use crate::rpc::uds;
use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tonic::transport::Server;

/// Locked, in the data plane's folder, for as long as its process lives.
pub const LOCK: &str = "lock";

/// Owns what must outlive an upgrade: the shares' mounts, and a storage daemon for each attached volume.
///
/// SIGTERM ends this process and leaves mounts and daemons as they are; started again it finds them.
#[derive(Debug, Args)]
pub struct DataArgs {
    /// Where to listen.
    #[arg(long, env = "STRATA_DATA_SOCKET", value_name = "PATH", default_value = "/run/strata/data.sock")]
    socket: PathBuf,
    /// Mounts, and the daemons' sockets and logs.
    #[arg(long, env = "STRATA_DATA_DIR", default_value = "/var/lib/strata/data")]
    dir: PathBuf,
    #[command(flatten)]
    qemu: QemuStorageDaemonArg,
}

/// Ends daemons whose owner is not heard of any more.
async fn end_expired(daemons: Arc<LocalDaemons>) {
    const EVERY: Duration = Duration::from_secs(5);
    loop {
        tokio::time::sleep(EVERY).await;
        let daemons = Arc::clone(&daemons);
        match tokio::task::spawn_blocking(move || daemons.end_expired()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "a daemon without an owner was not ended"),
            Err(error) => tracing::error!(%error, "looking for daemons without an owner broke off"),
        }
    }
}

impl DataArgs {
    /// Serves until told to stop.
    pub fn run(self) -> Result<()> {
        // First of all: threads and children inherit it.
        protect();
        private_dir(&self.dir)?;
        let lock = File::create(self.dir.join(LOCK)).context("cannot make the lock file")?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("another data plane runs on {}", self.dir.display());
        }
        // Held to the very end of the process: a teardown takes its release for that.
        std::mem::forget(lock);
        let listener = uds::bind(&self.socket)?;
        let shares = Arc::new(MountedShares::new(&self.dir));
        let daemons = Arc::new(LocalDaemons::new(self.qemu.qemu_storage_daemon, self.dir.join("daemons")));
        // An unsound QEMU is said at once, and again by each call that would use it: what is there already
        // is still looked after.
        if let Err(error) = daemons.version() {
            tracing::error!(%error, "no volume can be attached");
        }
        let runtime = runtime()?;
        let served = runtime.block_on(async {
            let adopting = Arc::clone(&shares);
            tokio::task::spawn_blocking(move || adopting.adopt());
            tokio::spawn(end_expired(Arc::clone(&daemons)));
            let asked = Arc::new(Notify::new());
            let service = DataService::new(shares, daemons, Arc::clone(&asked));
            let router = Server::builder().add_service(DataServer::new(service));
            tracing::info!(socket = %self.socket.display(), "data plane serves");
            let stop = async {
                tokio::select! {
                    result = stop_signal() => if let Err(error) = result {
                        tracing::error!(%error, "stopping");
                    },
                    () = asked.notified() => tracing::info!("asked to shut down"),
                }
            };
            serve(router, listener, stop).await
        });
        runtime.shutdown_timeout(super::STOP_LIMIT);
        served
    }
}
