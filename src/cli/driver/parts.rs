//! What the roles are put together from.

use super::args::read_shares;
use crate::attach::FuseLoop;
use crate::csi::{OpenShare, Ready, ShareSpec, Shares, Tidy};
use crate::data::{DataClient, RemoteDaemons};
use crate::gluster::Share;
use crate::host::loopdev::KernelLoops;
use crate::host::mkfs::LinuxFormatter;
use crate::host::mount::LinuxMounter;
use crate::volume::{Agents, NodeId, Policy, Staging, StagingParts, Tools, Volumes};
use anyhow::{Context, Result};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::timeout;

/// A folder of the driver's own.
pub fn private_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the folder {}", path.display()))
}

/// The programs and services of the domain.
pub fn tools(data: &DataClient, qemu_img: PathBuf, agents: impl Agents + 'static, policy: Policy) -> Tools {
    Tools {
        qemu_img,
        daemons: Arc::new(RemoteDaemons::new(data.clone(), Handle::current())),
        agents: Arc::new(agents),
        policy,
    }
}

/// How long the data plane may take to say that it is there.
const DATA_LIMIT: Duration = Duration::from_secs(3);

/// Without the data plane there is neither share nor disk.
pub(super) fn ready(data: &DataClient) -> Ready {
    let data = data.clone();
    Arc::new(move || {
        let data = data.clone();
        let asked =
            async move { timeout(DATA_LIMIT, data.instance()).await.is_ok_and(|answer| answer.is_ok()) };
        Box::pin(asked)
    })
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

/// How shares are looked after.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// How often, and how often nodes say that they live.
    round: Duration,
    /// How soon a share that is away is tried again.
    retry: Duration,
    /// What takes longer hangs. A mount's own bounds add up to less.
    limit: Duration,
    /// How long a first answer about the shares may hold up serving: one that is slow must not stop the others.
    first: Duration,
}

const PACE: Pace = Pace {
    round: Duration::from_secs(30),
    retry: Duration::from_secs(5),
    limit: Duration::from_secs(200),
    first: Duration::from_secs(30),
};

/// Opens the shares and goes on looking after them, each for itself: one that hangs stops no other. Returns
/// once each had its first try, within bounds. `each_round` runs after every look at a share that is open, on
/// a blocking thread.
/// Shares that `file` names later are taken up when they appear in it.
pub(super) async fn look_after(
    shares: Arc<Shares>,
    file: Option<PathBuf>,
    each_round: impl Fn(Volumes) + Send + Sync + 'static,
) {
    let each_round = Arc::new(each_round);
    look_after_at(PACE, Arc::clone(&shares), Arc::clone(&each_round)).await;
    if let Some(file) = file {
        tokio::spawn(take_up(PACE, shares, file, each_round));
    }
}

/// Reads the list of shares again and again (G1).
async fn take_up(
    pace: Pace,
    shares: Arc<Shares>,
    file: PathBuf,
    each_round: Arc<impl Fn(Volumes) + Send + Sync + 'static>,
) {
    let mut told = String::new();
    loop {
        tokio::time::sleep(pace.retry).await;
        let path = file.clone();
        let read = tokio::task::spawn_blocking(move || read_shares(&path)).await;
        let found = match read.map_err(anyhow::Error::from).and_then(|found| found) {
            Ok(found) => found,
            Err(error) => {
                let reason = format!("{error:#}");
                if reason != told {
                    tracing::error!(reason, "the list of shares cannot be read; the shares stay as they are");
                }
                told = reason;
                continue;
            }
        };
        told.clear();
        for spec in found.into_iter().filter(|spec| shares.add(spec)) {
            tracing::info!(share = %spec.source, "a share was added");
            let (looked, _) = tokio::sync::mpsc::channel::<()>(1);
            tokio::spawn(look_after_one(pace, Arc::clone(&shares), spec, Arc::clone(&each_round), looked));
        }
    }
}

async fn look_after_at(
    pace: Pace,
    shares: Arc<Shares>,
    each_round: Arc<impl Fn(Volumes) + Send + Sync + 'static>,
) {
    let (looked, mut first) = tokio::sync::mpsc::channel::<()>(1);
    for spec in shares.specs() {
        let (shares, each_round) = (Arc::clone(&shares), Arc::clone(&each_round));
        tokio::spawn(look_after_one(pace, shares, spec.clone(), each_round, looked.clone()));
    }
    drop(looked);
    // Nothing is sent: it closes when the last first try has let go of it.
    if tokio::time::timeout(pace.first, first.recv()).await.is_err() {
        tracing::warn!("not all shares have answered yet; serving those that have");
    }
}

async fn look_after_one(
    pace: Pace,
    shares: Arc<Shares>,
    spec: ShareSpec,
    each_round: Arc<impl Fn(Volumes) + Send + Sync + 'static>,
    looked: tokio::sync::mpsc::Sender<()>,
) {
    let mut looked = Some(looked);
    loop {
        let (these, this, each_round) = (Arc::clone(&shares), spec.clone(), Arc::clone(&each_round));
        let mut round = tokio::task::spawn_blocking(move || {
            these.look(&this);
            if let Some(volumes) = these.open_one(&this) {
                each_round(volumes);
            }
        });
        let ended = match tokio::time::timeout(pace.limit, &mut round).await {
            Ok(ended) => ended,
            Err(_) => {
                let reason = format!("it did not answer within {} s", pace.limit.as_secs());
                shares.hangs(&spec, reason);
                drop(looked.take());
                // Never a second one beside it: threads that hang would add up. The next look finds it well.
                round.await
            }
        };
        drop(looked.take());
        if let Err(error) = ended {
            tracing::error!(share = %spec.source, %error, "a look at a share broke off");
        }
        let open = shares.open_one(&spec).is_some();
        tokio::time::sleep(if open { pace.round } else { pace.retry }).await;
    }
}

/// Background work every so often, in case a request for it was lost with its process.
pub(super) fn sweep_regularly(shares: Arc<Shares>, tidy: Tidy) {
    const EVERY: Duration = Duration::from_secs(600);
    tokio::spawn(async move {
        loop {
            tidy.sweep(&shares);
            tokio::time::sleep(EVERY).await;
        }
    });
}

#[cfg(test)]
#[path = "parts_tests.rs"]
mod tests;
