//! The domain's [`Agents`] over gRPC.

use crate::gluster::ShareKey;
use crate::rpc::agent::cut_volume_response::Outcome;
use crate::rpc::agent::node_agent_client::NodeAgentClient;
use crate::rpc::agent::{CutVolumeRequest, ReleaseVolumeRequest, VolumeStatusRequest};
use crate::rpc::{CallError, bounded, uds};
use crate::volume::{AgentError, Agents, CutOrder, CutReport, NodeId, OpenImage, VolumeId};
use std::future::Future;
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Handle;
use tonic::transport::Channel;
use tonic::{Response, Status};

/// G7's bound on a cut: writing back what a busy filesystem has cached comes before the switch.
pub const CUT_LIMIT: Duration = Duration::from_secs(600);
/// One look at a daemon.
const STATUS_LIMIT: Duration = Duration::from_secs(10);
/// Unmounting writes back what is cached.
const RELEASE_LIMIT: Duration = Duration::from_secs(120);

/// Calls agents at the addresses that the nodes registered. Only from blocking threads.
#[derive(Clone, Debug)]
pub struct AgentClient {
    runtime: Handle,
    cut_limit: Duration,
}

impl AgentClient {
    /// `runtime` drives the connections; `cut_limit` bounds a cut.
    pub fn new(runtime: Handle, cut_limit: Duration) -> Self {
        AgentClient { runtime, cut_limit }
    }

    fn call<T, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        node: &NodeId,
        address: &str,
        limit: Duration,
        call: impl FnOnce(NodeAgentClient<Channel>) -> F,
    ) -> Result<T, AgentError> {
        let unreachable = |reason: String| AgentError::Unreachable { reason };
        let path = address.strip_prefix("unix://").filter(|path| path.starts_with('/')).ok_or_else(|| {
            unreachable(format!("node {node} registered the address {address:?}, which is no unix:///PATH"))
        })?;
        // The channel and its call must be made where the runtime is.
        let _inside = self.runtime.enter();
        let channel = uds::channel(Path::new(path)).map_err(|error| unreachable(error.to_string()))?;
        self.runtime.block_on(bounded(limit, call(NodeAgentClient::new(channel)))).map_err(
            |error| match error {
                CallError::Unreachable { reason } => {
                    unreachable(format!("the agent of node {node} at {address}: {reason}"))
                }
                CallError::Answered { message, .. } => {
                    AgentError::Failed { reason: format!("the agent of node {node}: {message}") }
                }
            },
        )
    }
}

impl Agents for AgentClient {
    fn cut(&self, node: &NodeId, address: &str, order: &CutOrder) -> Result<CutReport, AgentError> {
        let request = CutVolumeRequest {
            share_key: order.share.to_string(),
            volume_id: order.volume.to_string(),
            epoch: order.epoch,
            frozen_file: order.frozen_file.clone(),
            overlay_file: order.overlay_file.clone(),
        };
        let limit = self.cut_limit;
        let answer =
            self.call(node, address, limit, |mut agent| async move { agent.cut_volume(request).await })?;
        match answer.outcome() {
            Outcome::Switched => Ok(CutReport::Switched {
                filesystem_consistent: answer.filesystem_consistent,
                pause: Duration::from_micros(answer.pause_microseconds),
            }),
            Outcome::AlreadySwitched => Ok(CutReport::AlreadySwitched),
            Outcome::NotOpen => Ok(CutReport::NotOpen),
            Outcome::Unspecified => Err(AgentError::Failed {
                reason: format!("the agent of node {node} answered a cut with an outcome unknown here"),
            }),
        }
    }

    fn status(
        &self,
        node: &NodeId,
        address: &str,
        share: &ShareKey,
        volume: VolumeId,
        epoch: u64,
    ) -> Result<Option<OpenImage>, AgentError> {
        let request =
            VolumeStatusRequest { share_key: share.to_string(), volume_id: volume.to_string(), epoch };
        let answer =
            self.call(
                node,
                address,
                STATUS_LIMIT,
                |mut agent| async move { agent.volume_status(request).await },
            )?;
        Ok(answer.open.then_some(OpenImage { active_file: answer.active_file }))
    }

    fn release(
        &self,
        node: &NodeId,
        address: &str,
        share: &ShareKey,
        volume: VolumeId,
    ) -> Result<(), AgentError> {
        let request = ReleaseVolumeRequest { share_key: share.to_string(), volume_id: volume.to_string() };
        self.call(
            node,
            address,
            RELEASE_LIMIT,
            |mut agent| async move { agent.release_volume(request).await },
        )?;
        Ok(())
    }
}
