//! The domain's [`Agents`] over gRPC.

use super::address::{AgentAddress, InvalidAddress};
use super::merge;
use super::network::LONGEST_MESSAGE;
use crate::gluster::ShareKey;
use crate::rpc::agent::cut_volume_response::Outcome;
use crate::rpc::agent::node_agent_client::NodeAgentClient;
use crate::rpc::agent::{CutVolumeRequest, GrowVolumeRequest, ReleaseVolumeRequest, VolumeStatusRequest};
use crate::rpc::tls::{self, Certificates, Liveness, Trouble};
use crate::rpc::{CallError, Traced, bounded, traced, uds};
use crate::trace;
use crate::volume::{
    AgentError, Agents, CutOrder, CutReport, GrowOrder, GrowReport, MergeCall, MergeReport, MergeStep,
    NodeId, OpenImage, VolumeId,
};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};
use tracing::Span;

/// G7's bound on a cut: writing back what a busy filesystem has cached comes before the switch.
pub const CUT_LIMIT: Duration = Duration::from_secs(600);
/// A resize of metadata, behind what the daemon is just doing.
const GROW_LIMIT: Duration = Duration::from_secs(60);
/// A step of a merge: at most one header is written, or one request given up.
const MERGE_LIMIT: Duration = Duration::from_secs(60);
/// One look at a daemon.
const STATUS_LIMIT: Duration = Duration::from_secs(10);
/// Unmounting writes back what is cached.
const RELEASE_LIMIT: Duration = Duration::from_secs(120);
const NO_CERTIFICATES: &str = "it listens on the network, and there are no certificates here to call it with: start with --agent-tls-dir";

/// Calls agents at the addresses that the nodes registered. Only from blocking threads.
#[derive(Clone)]
pub struct AgentClient {
    runtime: Handle,
    cut_limit: Duration,
    certificates: Option<Arc<Certificates>>,
    pub(super) liveness: Liveness,
}

impl AgentClient {
    /// `runtime` drives the connections; `cut_limit` bounds a cut. Reaches agents of this machine alone.
    pub fn new(runtime: Handle, cut_limit: Duration) -> Self {
        AgentClient { runtime, cut_limit, certificates: None, liveness: Liveness::default() }
    }

    /// Reaches agents on the network, too, which must have the name that the certificates expect.
    pub fn with_certificates(self, certificates: Option<Arc<Certificates>>) -> Self {
        AgentClient { certificates, ..self }
    }

    /// The address comes from the share, where any node can write any: who answers there proves by its certificate that it
    /// is an agent, and by doing what names a node that it is that node's.
    fn channel(&self, address: &str) -> Result<(Channel, Trouble), String> {
        match address.parse().map_err(|error: InvalidAddress| error.to_string())? {
            AgentAddress::Unix(path) => {
                let channel = uds::channel(&path).map_err(|error| error.to_string())?;
                Ok((channel, Trouble::default()))
            }
            AgentAddress::Network { host, port } => {
                let certificates = self.certificates.as_ref().ok_or(NO_CERTIFICATES)?;
                Ok(tls::channel(&host, port, Arc::clone(certificates), self.liveness))
            }
        }
    }

    fn call<T, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        node: &NodeId,
        address: &str,
        limit: Duration,
        asking: Span,
        call: impl FnOnce(NodeAgentClient<Traced>) -> F,
    ) -> Result<T, AgentError> {
        let _asking = asking.entered();
        let unreachable = |reason: String| AgentError::Unreachable {
            reason: format!("the agent of node {node} at {address}: {reason}"),
        };
        // The channel and its call must be made where the runtime is.
        let _inside = self.runtime.enter();
        let (channel, trouble) = self.channel(address).map_err(unreachable)?;
        let agent = NodeAgentClient::new(traced(channel)).max_decoding_message_size(LONGEST_MESSAGE);
        self.runtime.block_on(bounded(limit, call(agent))).map_err(|error| match error {
            CallError::Unreachable { reason } => unreachable(explained(trouble.told().unwrap_or(reason))),
            CallError::Answered { code, message } if did_not_try(code) => {
                unreachable(format!("it refused: {message}"))
            }
            CallError::Answered { message, .. } => {
                AgentError::Failed { reason: format!("the agent of node {node}: {message}") }
            }
        })
    }
}

/// Whoever answered is not the node that is meant, does not take us for a controller, or has no room: of what the node
/// itself has open nothing is known.
fn did_not_try(code: Code) -> bool {
    matches!(code, Code::FailedPrecondition | Code::PermissionDenied | Code::ResourceExhausted)
}

/// TLS names what is wrong, and not on which side.
fn explained(reason: String) -> String {
    if reason.contains("received fatal alert") {
        return format!("{reason}: it does not accept this controller's certificate; its log says why");
    }
    reason
}

impl Agents for AgentClient {
    fn cut(&self, node: &NodeId, address: &str, order: &CutOrder) -> Result<CutReport, AgentError> {
        let request = CutVolumeRequest {
            node_id: node.to_string(),
            share_key: order.share.to_string(),
            volume_id: order.volume.to_string(),
            epoch: order.epoch,
            frozen_file: order.frozen_file.clone(),
            overlay_file: order.overlay_file.clone(),
        };
        let limit = self.cut_limit;
        let answer = self.call(
            node,
            address,
            limit,
            trace::asking("agent/cut_volume", node.as_str()),
            |mut agent| async move { agent.cut_volume(request).await },
        )?;
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

    fn grow(&self, node: &NodeId, address: &str, order: &GrowOrder) -> Result<GrowReport, AgentError> {
        let request = GrowVolumeRequest {
            node_id: node.to_string(),
            share_key: order.share.to_string(),
            volume_id: order.volume.to_string(),
            epoch: order.epoch,
            file: order.file.clone(),
            size: order.size,
        };
        let answer = self.call(
            node,
            address,
            GROW_LIMIT,
            trace::asking("agent/grow_volume", node.as_str()),
            |mut agent| async move { agent.grow_volume(request).await },
        )?;
        Ok(if answer.not_open { GrowReport::NotOpen } else { GrowReport::Grown })
    }

    fn merge(&self, node: &NodeId, address: &str, call: &MergeCall) -> Result<MergeReport, AgentError> {
        let request = merge::to_request(node, call);
        let (what, whom) = ("agent/merge_layers", node.as_str());
        let asking = match &call.step {
            MergeStep::Look => trace::looking(what, whom),
            _ => trace::asking(what, whom),
        };
        let answer = self.call(node, address, MERGE_LIMIT, asking, |mut agent| async move {
            agent.merge_layers(request).await
        })?;
        merge::from_response(answer).ok_or_else(|| AgentError::Failed {
            reason: format!("the agent of node {node} answered a merge with a state unknown here"),
        })
    }

    fn status(
        &self,
        node: &NodeId,
        address: &str,
        share: &ShareKey,
        volume: VolumeId,
        epoch: u64,
    ) -> Result<Option<OpenImage>, AgentError> {
        let request = VolumeStatusRequest {
            node_id: node.to_string(),
            share_key: share.to_string(),
            volume_id: volume.to_string(),
            epoch,
        };
        let answer = self.call(
            node,
            address,
            STATUS_LIMIT,
            trace::asking("agent/volume_status", node.as_str()),
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
        let request = ReleaseVolumeRequest {
            node_id: node.to_string(),
            share_key: share.to_string(),
            volume_id: volume.to_string(),
        };
        self.call(
            node,
            address,
            RELEASE_LIMIT,
            trace::asking("agent/release_volume", node.as_str()),
            |mut agent| async move { agent.release_volume(request).await },
        )?;
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::rpc::agent::node_agent_server::{NodeAgent, NodeAgentServer};
    use crate::rpc::agent::{
        CutVolumeResponse, GrowVolumeResponse, MergeLayersRequest, MergeLayersResponse,
        ReleaseVolumeResponse, VolumeStatusResponse,
    };
    use tonic::Request;
    use tonic::transport::Server;

    /// Fails a release, answers a status, and never comes back from a cut.
    pub(in crate::agent) struct Scripted;

    #[tonic::async_trait]
    impl NodeAgent for Scripted {
        async fn cut_volume(
            &self,
            _request: Request<CutVolumeRequest>,
        ) -> Result<Response<CutVolumeResponse>, Status> {
            std::future::pending().await
        }

        async fn grow_volume(
            &self,
            request: Request<GrowVolumeRequest>,
        ) -> Result<Response<GrowVolumeResponse>, Status> {
            let request = request.into_inner();
            let not_open = (request.epoch, request.file.as_str(), request.size) != (7, "f", 9);
            Ok(Response::new(GrowVolumeResponse { not_open }))
        }

        async fn merge_layers(
            &self,
            request: Request<MergeLayersRequest>,
        ) -> Result<Response<MergeLayersResponse>, Status> {
            let done = request.into_inner().epoch;
            Ok(Response::new(merge::to_response(MergeReport::Running { done, total: 9 })))
        }

        async fn volume_status(
            &self,
            request: Request<VolumeStatusRequest>,
        ) -> Result<Response<VolumeStatusResponse>, Status> {
            let active_file = format!("epoch-{}", request.into_inner().epoch);
            Ok(Response::new(VolumeStatusResponse { open: true, active_file }))
        }

        async fn release_volume(
            &self,
            _request: Request<ReleaseVolumeRequest>,
        ) -> Result<Response<ReleaseVolumeResponse>, Status> {
            Err(Status::unavailable("pods still have it"))
        }
    }

    /// G7: what is unknown and what has failed are told apart, and a wait is bounded.
    #[test]
    fn an_answer_a_failure_and_silence_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        let address = format!("unix://{}", socket.display());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let agents = AgentClient::new(runtime.handle().clone(), Duration::from_millis(300));
        let (node, share) = ("n1".parse::<NodeId>().unwrap(), "s1".parse::<ShareKey>().unwrap());
        let volume = VolumeId::from_name("v");
        let absent = agents.release(&node, &address, &share, volume).unwrap_err();
        assert!(matches!(absent, AgentError::Unreachable { .. }), "{absent}");
        assert!(absent.to_string().contains("agent.sock"), "{absent}");

        let listener = uds::bind(&socket).unwrap();
        runtime.spawn(async move {
            let router = Server::builder().add_service(NodeAgentServer::new(Scripted));
            router.serve_with_incoming(uds::incoming(listener).unwrap()).await
        });
        let open = agents.status(&node, &address, &share, volume, 7).unwrap();
        assert_eq!(open, Some(OpenImage { active_file: "epoch-7".to_owned() }));
        let mut growth = GrowOrder { share: share.clone(), volume, epoch: 7, file: "f".to_owned(), size: 9 };
        assert_eq!(agents.grow(&node, &address, &growth).unwrap(), GrowReport::Grown);
        growth.epoch = 8;
        assert_eq!(agents.grow(&node, &address, &growth).unwrap(), GrowReport::NotOpen);
        let failed = agents.release(&node, &address, &share, volume).unwrap_err();
        assert!(
            matches!(&failed, AgentError::Failed { reason } if reason.contains("pods still")),
            "{failed}"
        );
        let order = CutOrder {
            share: share.clone(),
            volume,
            epoch: 1,
            frozen_file: "a".to_owned(),
            overlay_file: "b".to_owned(),
        };
        let silent = agents.cut(&node, &address, &order).unwrap_err();
        assert!(matches!(silent, AgentError::Unreachable { .. }), "{silent}");
        let wrong = agents.release(&node, "tcp://10.0.0.1:1", &share, volume).unwrap_err();
        assert!(matches!(wrong, AgentError::Unreachable { .. }), "{wrong}");
    }
}
