//! `strata backup serve`: backups that Kubernetes objects ask for.

use super::agent::AgentTlsArgs;
use super::args::{DRIVER, DataSocketArg, QemuImgArg, ShareArgs};
use super::kube::KubeArgs;
use super::metrics::{MetricsArgs, tell_shares};
use super::parts::{DataShares, look_after, tools};
use super::policy::PolicyArgs;
use super::{runtime, stop_signal};
use crate::agent::{AgentClient, CUT_LIMIT};
use crate::backup::DEFAULT_MEMORY;
use crate::cli::telemetry::TraceArgs;
use crate::csi::Shares;
use crate::data::DataClient;
use crate::kube::{self, LeaseSettings, OpenVolumes, Parts, Settings, SystemClock};
use crate::rpc::tls::{Side, keep_watch};
use crate::volume::Volumes;
use anyhow::{Context, Result};
use clap::Args;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Backs up VolumeSnapshots that ask for it, and does what VolumeBackups, BackupRepositories and BackupSchedules say. Any
/// number may run: one of them works, the next takes over when it is gone.
#[derive(Debug, Args)]
pub struct BackupServeArgs {
    #[command(flatten)]
    data: DataSocketArg,
    #[command(flatten)]
    shares: ShareArgs,
    /// The driver's name.
    #[arg(long, env = "STRATA_DRIVER_NAME", default_value = DRIVER)]
    driver_name: String,
    #[command(flatten)]
    kube: KubeArgs,
    /// The Lease under which one process works.
    #[arg(long, env = "STRATA_BACKUP_LEASE", value_name = "NAME", default_value = "strata-backup")]
    lease_name: String,
    /// Seconds without a renewal after which another process takes over.
    #[arg(long, env = "STRATA_BACKUP_LEASE_SECONDS", value_name = "SECONDS", default_value_t = 15,
          value_parser = clap::value_parser!(u64).range(3..=600))]
    lease_seconds: u64,
    /// Who this process is; by default the host's name and a random id.
    #[arg(long, env = "STRATA_BACKUP_IDENTITY", value_name = "NAME")]
    identity: Option<String>,
    /// Backups at a time. A repository may take fewer.
    #[arg(long, env = "STRATA_BACKUP_WORKERS", value_name = "NUMBER", default_value_t = 4,
          value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// Of those, backups of volumes that are attached on one node. Without it: any number.
    #[arg(long, env = "STRATA_BACKUP_PER_NODE", value_name = "NUMBER",
          value_parser = clap::value_parser!(u16).range(1..=256))]
    per_node: Option<u16>,
    /// MiB of memory per backup, for what is read, compressed and on its way.
    #[arg(long, env = "STRATA_BACKUP_MEMORY", value_name = "MIB", default_value_t = DEFAULT_MEMORY >> 20)]
    memory: u64,
    #[command(flatten)]
    agent_tls: AgentTlsArgs,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    metrics: MetricsArgs,
    #[command(flatten)]
    pub traces: TraceArgs,
    #[command(flatten)]
    qemu: QemuImgArg,
}

impl OpenVolumes for Shares {
    fn open(&self) -> Vec<Volumes> {
        Shares::open(self)
    }
}

impl BackupServeArgs {
    /// Works until told to stop.
    pub fn run(self) -> Result<()> {
        let specs = self.shares.specs()?;
        let settings = Settings {
            driver: self.driver_name.clone(),
            namespace: self.kube.own_namespace()?,
            identity: self.identity.clone().unwrap_or_else(identity),
            workers: self.workers.into(),
            per_node: self.per_node.map(usize::from),
            memory: self.memory << 20,
        };
        let lease = LeaseSettings {
            namespace: settings.namespace.clone(),
            name: self.lease_name.clone(),
            identity: settings.identity.clone(),
            duration: Duration::from_secs(self.lease_seconds),
        };
        let runtime = runtime()?;
        let served = runtime.block_on(async {
            let metrics = self.metrics.start("backup").await?;
            let client = self.kube.client().await?;
            let data = DataClient::new(&self.data.data_socket)?;
            let certificates = self.agent_tls.certificates(&self.driver_name, Side::Client)?;
            if let Some(certificates) = certificates.clone() {
                tokio::spawn(keep_watch(certificates));
            }
            let agents = AgentClient::new(Handle::current(), CUT_LIMIT).with_certificates(certificates);
            let tools = tools(&data, self.qemu.qemu_img, agents, self.policy.policy()?);
            let shares = Arc::new(Shares::new(specs, Arc::new(DataShares::new(data)), tools));
            tell_shares(&metrics, &shares);
            look_after(Arc::clone(&shares), self.shares.file(), |_| ()).await;
            let stop = stop_signal()?;
            let parts = Parts { client, shares, settings, lease, clock: Arc::new(SystemClock), metrics };
            kube::serve(parts, stop).await.context("backups")
        });
        // What is cut off is gone on with by the next process.
        runtime.shutdown_timeout(super::STOP_LIMIT);
        served
    }
}

fn identity() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}-{}", uuid::Uuid::new_v4())
}
