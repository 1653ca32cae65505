//! `strata controller`: CSI Identity and Controller.

use super::agent::AgentTlsArgs;
use super::args::{DRIVER, DataSocketArg, QemuImgArg, RepositoriesArg, ShareArgs};
use super::kube::KubeArgs;
use super::metrics::{MetricsArgs, look_at, tell_shares};
use super::parts::{DataShares, look_after, ready, sweep_regularly, tools};
use super::policy::PolicyArgs;
use super::{runtime, serve, stop_signal};
use crate::agent::{AgentClient, CUT_LIMIT};
use crate::backup::repositories::Repositories;
use crate::cli::telemetry::TraceArgs;
use crate::csi::{ControllerService, IdentityService, Restores, Shares, Tidy};
use crate::data::DataClient;
use crate::metrics::{Calls, RestoreCounts, ShareGauges};
use crate::rpc::csi::controller_server::ControllerServer;
use crate::rpc::csi::identity_server::IdentityServer;
use crate::rpc::span_of;
use crate::rpc::tls::{Side, keep_watch};
use crate::rpc::uds;
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tonic::transport::Server;

/// Serves CSI Identity and Controller. Any number may run: they meet at the locks on the share.
#[derive(Debug, Args)]
pub struct ControllerArgs {
    /// Where to listen.
    #[arg(long, env = "STRATA_CSI_SOCKET", value_name = "PATH", default_value = "/csi/csi.sock")]
    socket: PathBuf,
    #[command(flatten)]
    data: DataSocketArg,
    #[command(flatten)]
    shares: ShareArgs,
    /// The driver's name.
    #[arg(long, env = "STRATA_DRIVER_NAME", default_value = DRIVER)]
    driver_name: String,
    /// Seconds that a snapshot of an attached volume may take on its node.
    #[arg(long, env = "STRATA_CUT_TIMEOUT", value_name = "SECONDS", default_value_t = CUT_LIMIT.as_secs())]
    cut_timeout: u64,
    #[command(flatten)]
    agent_tls: AgentTlsArgs,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    repositories: RepositoriesArg,
    /// Take the repositories of backups' handles from the cluster's BackupRepository objects.
    #[arg(long, env = "STRATA_KUBE_REPOSITORIES", conflicts_with = "repositories")]
    kube_repositories: bool,
    #[command(flatten)]
    kube: KubeArgs,
    #[command(flatten)]
    metrics: MetricsArgs,
    #[command(flatten)]
    pub traces: TraceArgs,
    #[command(flatten)]
    qemu: QemuImgArg,
}

impl ControllerArgs {
    /// Serves until told to stop.
    pub fn run(self) -> Result<()> {
        let specs = self.shares.specs()?;
        let of_file = self.repositories.get()?;
        let runtime = runtime()?;
        let served = runtime.block_on(async {
            let repositories: Arc<dyn Repositories> = match self.kube_repositories {
                true => Arc::new(self.kube.repositories().await?),
                false => Arc::new(of_file),
            };
            let data = DataClient::new(&self.data.data_socket)?;
            let ready = ready(&data);
            let certificates = self.agent_tls.certificates(&self.driver_name, Side::Client)?;
            if let Some(certificates) = certificates.clone() {
                tokio::spawn(keep_watch(certificates));
            }
            let agents = AgentClient::new(Handle::current(), Duration::from_secs(self.cut_timeout))
                .with_certificates(certificates);
            let tools = tools(&data, self.qemu.qemu_img, agents, self.policy.policy()?);
            let shares = Arc::new(Shares::new(specs, Arc::new(DataShares::new(data)), tools));
            let metrics = self.metrics.start("controller").await?;
            tell_shares(&metrics, &shares);
            let gauges = ShareGauges::new(&metrics);
            look_after(Arc::clone(&shares), self.shares.file(), move |volumes| look_at(&gauges, &volumes))
                .await;
            let tidy = Tidy::new(Handle::current());
            let restores = Restores::new(Handle::current(), repositories, RestoreCounts::new(&metrics));
            let listener = uds::bind(&self.socket)?;
            sweep_regularly(Arc::clone(&shares), tidy.clone());
            let router = Server::builder()
                .trace_fn(span_of)
                .add_service(IdentityServer::new(IdentityService::new(self.driver_name, ready)))
                .add_service(ControllerServer::new(
                    ControllerService::new(shares, tidy, restores).counting(Calls::new(&metrics)),
                ));
            tracing::info!(socket = %self.socket.display(), "controller serves");
            serve(router, listener, stop_signal()?).await
        });
        // Background work that is cut off is journaled, and taken up by the next controller.
        runtime.shutdown_timeout(super::STOP_LIMIT);
        served
    }
}
