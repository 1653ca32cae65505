//! What the roles are put together from.

use crate::agent::AgentClient;
use crate::attach::FuseLoop;
use crate::csi::{OpenShare, ShareSpec, Shares, Tidy};
use crate::data::{DataClient, RemoteDaemons};
use crate::gluster::Share;
use crate::host::loopdev::KernelLoops;
use crate::host::mkfs::LinuxFormatter;
use crate::host::mount::LinuxMounter;
use crate::volume::{NodeId, Staging, StagingParts, Tools, Volumes};
use anyhow::{Context, Result};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// How often shares are looked after, and nodes say that they live.
const ROUND: Duration = Duration::from_secs(30);
/// How soon a share that is away is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long a first answer about the shares may hold up serving: one that is slow must not stop the others.
const FIRST_ROUND: Duration = Duration::from_secs(60);

/// A folder of the driver's own.
pub fn private_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the folder {}", path.display()))
}

/// The programs and services of the domain.
pub fn tools(data: &DataClient, qemu_img: PathBuf, cut_limit: Duration) -> Tools {
    let runtime = Handle::current();
    Tools {
        qemu_img,
        daemons: Arc::new(RemoteDaemons::new(data.clone(), runtime.clone())),
        agents: Arc::new(AgentClient::new(runtime, cut_limit)),
    }
}

/// Images become block devices this way.
pub fn backend() -> FuseLoop {
    FuseLoop::new(Arc::new(KernelLoops), Arc::new(LinuxMounter))
}

/// This node's volumes; its state is below `dir`.
pub fn staging(node: NodeId, dir: &Path, data: &DataClient) -> Staging {
    Staging::new(StagingParts {
        node,
        dir: dir.join("volumes"),
        daemons: Arc::new(RemoteDaemons::new(data.clone(), Handle::current())),
        backend: Arc::new(backend()),
        mounter: Arc::new(LinuxMounter),
        formatter: Arc::new(LinuxFormatter),
    })
}

/// Where the node tries its data path.
pub fn self_test_dir(dir: &Path) -> PathBuf {
    dir.join("selftest")
}

/// Shares are opened by the data plane, whose mounts outlive us.
pub(super) struct DataShares {
    client: DataClient,
    runtime: Handle,
}

impl DataShares {
    pub(super) fn new(client: DataClient) -> Self {
        DataShares { client, runtime: Handle::current() }
    }
}

impl OpenShare for DataShares {
    fn open(&self, spec: &ShareSpec) -> Result<Share, String> {
        let mounted = self.runtime.block_on(self.client.mount_share(&spec.source, &spec.options));
        mounted.map(|(share, _)| share).map_err(|error| crate::rpc::chain(&error))
    }
}

/// Opens the shares and goes on looking after them; returns once each had its first try, within bounds.
/// `each_round` runs after every look, on a blocking thread, with the shares that are open.
pub(super) async fn look_after(
    shares: Arc<Shares>,
    each_round: impl Fn(Vec<Volumes>) + Send + Sync + 'static,
) {
    let each_round = Arc::new(each_round);
    let (done, first) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut done = Some(done);
        loop {
            let (these, each_round) = (Arc::clone(&shares), Arc::clone(&each_round));
            let round = tokio::task::spawn_blocking(move || {
                these.refresh();
                each_round(these.open());
            });
            if let Err(error) = round.await {
                tracing::error!(%error, "a round of looking after the shares broke off");
            }
            if let Some(done) = done.take() {
                // Nobody waits any more when the first round was slow.
                let _ = done.send(());
            }
            tokio::time::sleep(if shares.complete() { ROUND } else { RETRY }).await;
        }
    });
    if tokio::time::timeout(FIRST_ROUND, first).await.is_err() {
        tracing::warn!("not all shares have answered yet; serving those that have");
    }
}

/// Background work every so often, in case a request for it was lost with its process.
pub(super) fn sweep_regularly(shares: Arc<Shares>, tidy: Tidy) {
    const EVERY: Duration = Duration::from_secs(600);
    tokio::spawn(async move {
        loop {
            let (shares, tidy) = (Arc::clone(&shares), tidy.clone());
            if let Err(error) = tokio::task::spawn_blocking(move || tidy.sweep(&shares)).await {
                tracing::error!(%error, "a sweep broke off");
            }
            tokio::time::sleep(EVERY).await;
        }
    });
}
