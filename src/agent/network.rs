//! The agent's server: on a unix socket for its own machine, or on the network for controllers alone.

use crate::rpc::agent::node_agent_server::{NodeAgent, NodeAgentServer};
use crate::rpc::span_of;
use crate::rpc::tls::{Liveness, only_expected_peers};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::Router;

/// Names, numbers and short reasons: the longest real message is below 2 KiB.
pub(super) const LONGEST_MESSAGE: usize = 64 << 10;
/// Of one connection; a controller makes one for each call.
const MOST_STREAMS: u32 = 16;

/// For a unix socket, whose file says who may open it.
pub fn local_router(agent: impl NodeAgent) -> Router {
    Server::builder().trace_fn(span_of).add_service(limited(agent))
}

/// For connections of [`crate::rpc::tls::incoming`]: only the side that their certificates expect may call.
pub fn network_router(agent: impl NodeAgent) -> Router {
    let Liveness { every, within } = Liveness::default();
    Server::builder()
        .trace_fn(span_of)
        .http2_keepalive_interval(Some(every))
        .http2_keepalive_timeout(Some(within))
        .max_concurrent_streams(MOST_STREAMS)
        .add_service(InterceptedService::new(limited(agent), only_expected_peers))
}

fn limited<A: NodeAgent>(agent: A) -> NodeAgentServer<A> {
    NodeAgentServer::new(agent).max_decoding_message_size(LONGEST_MESSAGE)
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
