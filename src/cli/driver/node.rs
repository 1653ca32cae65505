//! `strata node`: CSI Identity and Node, and the agent that the controller asks.

use super::agent::{AgentArgs, agent_answers};
use super::args::{DRIVER, DataSocketArg, QemuImgArg, ShareArgs};
use super::max_volumes::MaxVolumesArg;
use super::metrics::{MetricsArgs, tell_shares};
use super::parts::{DataShares, look_after, ready, staging, tools};
use super::{backend, private_dir, runtime, self_test_dir, serve, stop_signal, verdict};
use crate::agent::{AgentClient, AgentService, CUT_LIMIT, OwnAgent};
use crate::attach::selftest;
use crate::cli::telemetry::TraceArgs;
use crate::csi::{IdentityService, NodeParts, NodeService, Shares, Verdict};
use crate::data::{DataClient, RemoteDaemons};
use crate::image::QemuImg;
use crate::metrics::{Calls, Cuts};
use crate::rpc::csi::identity_server::IdentityServer;
use crate::rpc::csi::node_server::NodeServer;
use crate::rpc::span_of;
use crate::rpc::uds;
use crate::volume::{NodeId, Policy, Registrar};
use anyhow::{Context, Result};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tonic::transport::Server;

/// Serves CSI Identity and Node, and the node agent.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Where to listen.
    #[arg(long, env = "STRATA_CSI_SOCKET", value_name = "PATH", default_value = "/csi/csi.sock")]
    socket: PathBuf,
    #[command(flatten)]
    agent: AgentArgs,
    /// This node's name.
    #[arg(long, env = "STRATA_NODE_ID", value_name = "NAME")]
    node_id: NodeId,
    #[command(flatten)]
    data: DataSocketArg,
    /// What this node knows of its staged volumes.
    #[arg(long, env = "STRATA_NODE_DIR", default_value = "/var/lib/strata/node")]
    dir: PathBuf,
    #[command(flatten)]
    shares: ShareArgs,
    /// The driver's name.
    #[arg(long, env = "STRATA_DRIVER_NAME", default_value = DRIVER)]
    driver_name: String,
    #[command(flatten)]
    max_volumes: MaxVolumesArg,
    #[command(flatten)]
    metrics: MetricsArgs,
    #[command(flatten)]
    pub traces: TraceArgs,
    #[command(flatten)]
    qemu: QemuImgArg,
}

impl NodeArgs {
    /// Serves until told to stop.
    pub fn run(self) -> Result<()> {
        let specs = self.shares.specs()?;
        private_dir(&self.dir)?;
        let runtime = runtime()?;
        let served = runtime.block_on(async {
            let data = DataClient::new(&self.data.data_socket)?;
            let max_volumes = self.max_volumes.number()?;
            let staging = staging(self.node_id.clone(), &self.dir, &data).with_limit(max_volumes);
            let staging = Arc::new(staging);
            let agents = AgentClient::new(Handle::current(), CUT_LIMIT);
            let agents = OwnAgent::new(self.node_id.clone(), Arc::clone(&staging), agents);
            let tools = tools(&data, self.qemu.qemu_img.clone(), agents, Policy::default());
            let shares = Arc::new(Shares::new(specs, Arc::new(DataShares::new(data.clone())), tools));
            let metrics = self.metrics.start("node").await?;
            tell_shares(&metrics, &shares);
            // Before anything else looks at a mount: a node that was killed between freeze and thaw left it frozen.
            let leftovers = Arc::clone(&staging);
            if let Err(error) = tokio::task::spawn_blocking(move || leftovers.thaw_leftovers()).await? {
                tracing::error!(%error, "filesystems that an earlier process left frozen may still be so");
            }
            // The agent answers before the node registers: who finds the address can use it.
            let agent = self.agent.bind(&self.driver_name)?;
            let (node, address) = (self.node_id.clone(), agent.address().to_string());
            let service = AgentService::new(node.clone(), Arc::clone(&staging)).counting(Cuts::new(&metrics));
            let agent_stop = watch::Sender::new(false);
            let mut told = agent_stop.subscribe();
            let agent_server = tokio::spawn(agent.serve(service, async move {
                let _ = told.wait_for(|stop| *stop).await;
            }));
            let registrar = Arc::new(Registrar::new(node, address, &self.dir)?.with_limit(max_volumes));
            let beating = Arc::clone(&registrar);
            look_after(Arc::clone(&shares), self.shares.file(), move |volumes| {
                if let Err(error) = beating.beat(&volumes, agent_answers) {
                    tracing::error!(share = %volumes.share().source, %error, "the node is not registered");
                }
            })
            .await;
            let verdict = self.self_test(&data);
            let listener = uds::bind(&self.socket)?;
            let parts =
                NodeParts { node: self.node_id.clone(), staging, shares, registrar, verdict, max_volumes };
            let router = Server::builder()
                .trace_fn(span_of)
                .add_service(IdentityServer::new(IdentityService::new(
                    self.driver_name.clone(),
                    ready(&data),
                )))
                .add_service(NodeServer::new(NodeService::new(parts).counting(Calls::new(&metrics))));
            tracing::info!(socket = %self.socket.display(), node = %self.node_id, "node serves");
            let stop = stop_signal()?;
            let stop_both = async {
                stop.await;
                agent_stop.send_replace(true);
            };
            serve(router, listener, stop_both).await?;
            agent_server.await.context("the agent's server broke off")?
        });
        runtime.shutdown_timeout(super::STOP_LIMIT);
        served
    }

    /// Starts the test of the data path; volumes are staged once it has passed.
    fn self_test(&self, data: &DataClient) -> watch::Receiver<Verdict> {
        let daemons = RemoteDaemons::new(data.clone(), Handle::current());
        let qemu_img = QemuImg::new(self.qemu.qemu_img.clone());
        let scratch = self_test_dir(&self.dir);
        let (data, runtime) = (data.clone(), Handle::current());
        let passed = verdict::Passed::new(&self.dir);
        verdict::reach(verdict::PACE, move || {
            // The data plane runs the QEMU and outlives this process: what was proved of it holds as long as it runs.
            let instance = runtime.block_on(data.instance()).ok();
            if let Some(report) = instance.as_deref().and_then(|instance| passed.before(instance)) {
                return Ok(report);
            }
            let report = selftest::run(&daemons, &backend(), &qemu_img, &scratch)?;
            if let Some(instance) = instance {
                passed.note(&instance);
            }
            Ok(report)
        })
    }
}
