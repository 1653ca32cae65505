//! The wire: code generated from `proto/`, unix sockets that are private from the first instant, and TLS.

mod call;
mod offload;
pub mod tls;
mod traced;
pub mod uds;

pub use call::{CallError, bounded};
pub use offload::{chain, offload};
pub use traced::{TakeAlong, Traced, span_of, traced};

/// CSI, spec 1.12.
#[allow(missing_docs, clippy::all)]
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// The data plane's service.
#[allow(missing_docs, clippy::all)]
pub mod data {
    tonic::include_proto!("strata.data.v1");
}

/// The node agent's service.
#[allow(missing_docs, clippy::all)]
pub mod agent {
    tonic::include_proto!("strata.agent.v1");
}
