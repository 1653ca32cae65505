//! `strata data`: share mounts and storage daemons that outlive the driver's own processes.

use super::args::QemuStorageDaemonArg;
use super::metrics::{MetricsArgs, tell_daemons};
use super::{private_dir, runtime, serve, stop_signal};
use crate::cli::telemetry::TraceArgs;
use crate::data::{DataService, MountedShares, protect};
use crate::qsd::{Daemon, DaemonHost, LocalDaemons};
use crate::rpc::data::data_server::DataServer;
use crate::rpc::span_of;
use crate::rpc::uds;
use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tonic::transport::Server;

/// Locked, in the data plane's folder, for as long as its process lives.
pub const LOCK: &str = "lock";

/// Owns what must outlive an upgrade: the shares' mounts, and a storage daemon for each attached volume.
///
/// SIGTERM ends this process and leaves mounts and daemons as they are; started again it finds them. In a container they
/// end with it: there --drain gives them time.
#[derive(Debug, Args)]
pub struct DataArgs {
    /// Where to listen.
    #[arg(long, env = "STRATA_DATA_SOCKET", value_name = "PATH", default_value = "/run/strata/data.sock")]
    socket: PathBuf,
    /// Mounts, and the daemons' sockets and logs.
    #[arg(long, env = "STRATA_DATA_DIR", default_value = "/var/lib/strata/data")]
    dir: PathBuf,
    /// Once told to stop, how long to wait for storage daemons to be let go of; those that are left are ended in order
    /// then, and shares that nobody uses are unmounted. For a container, which takes every process with it. Without it
    /// daemons are left running, and shares mounted.
    #[arg(long, env = "STRATA_DATA_DRAIN", value_name = "SECONDS")]
    drain: Option<u32>,
    #[command(flatten)]
    metrics: MetricsArgs,
    #[command(flatten)]
    pub traces: TraceArgs,
    #[command(flatten)]
    qemu: QemuStorageDaemonArg,
}

/// Waits until no daemon runs any more, for `limit`, and ends those that are left in order: what they hold is flushed.
async fn drain(daemons: Arc<LocalDaemons>, limit: Duration) -> Result<()> {
    const LOOK: Duration = Duration::from_millis(200);
    let end = Instant::now() + limit;
    let closing = Arc::clone(&daemons);
    tokio::task::spawn_blocking(move || closing.start_no_more()).await?;
    loop {
        let listing = Arc::clone(&daemons);
        let left = tokio::task::spawn_blocking(move || listing.list()).await??;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            return end_all(&daemons, left).await;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Side by side: one that hangs must not cost the others their time.
async fn end_all(daemons: &Arc<LocalDaemons>, left: Vec<Daemon>) -> Result<()> {
    let mut endings = JoinSet::new();
    for daemon in left {
        tracing::warn!(daemon = %daemon.name, "its volume is still in use: it is ended with the data plane");
        let daemons = Arc::clone(daemons);
        endings.spawn_blocking(move || daemons.stop(&daemon.name));
    }
    while let Some(ended) = endings.join_next().await {
        if let Err(error) = ended? {
            tracing::error!(%error, "a daemon was not ended in order");
        }
    }
    Ok(())
}

/// Leaves no mount half done, and with `unmount` none at all, within bounds: their servers may be away.
async fn let_go(shares: Arc<MountedShares>, unmount: bool) {
    const PATIENCE: Duration = Duration::from_secs(10);
    let ending = tokio::task::spawn_blocking(move || match unmount {
        true => shares.let_go(PATIENCE),
        false => {
            for source in shares.settle(PATIENCE) {
                tracing::warn!(share = %source, "it is still being mounted");
            }
        }
    });
    if tokio::time::timeout(PATIENCE * 2, ending).await.is_err() {
        tracing::warn!("a share that gives no answer stays mounted");
    }
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
            // Before the first mount.
            let told = stop_signal()?;
            let metrics = self.metrics.start("data").await?;
            tell_daemons(&metrics, &daemons);
            let adopting = Arc::clone(&shares);
            tokio::task::spawn_blocking(move || adopting.adopt());
            tokio::spawn(end_expired(Arc::clone(&daemons)));
            let asked = Arc::new(Notify::new());
            let service = DataService::new(Arc::clone(&shares), Arc::clone(&daemons), Arc::clone(&asked));
            let router = Server::builder().trace_fn(span_of).add_service(DataServer::new(service));
            tracing::info!(socket = %self.socket.display(), "data plane serves");
            let ending = Arc::clone(&shares);
            let stop = async {
                tokio::select! {
                    () = told => {
                        ending.mount_no_more();
                        if let Some(seconds) = self.drain
                            && let Err(error) = drain(daemons, Duration::from_secs(seconds.into())).await
                        {
                            tracing::error!(%error, "storage daemons may end without a flush");
                        }
                    }
                    () = asked.notified() => tracing::info!("asked to shut down"),
                }
            };
            let served = serve(router, listener, stop).await;
            let_go(shares, self.drain.is_some()).await;
            served
        });
        runtime.shutdown_timeout(super::STOP_LIMIT);
        served
    }
}
