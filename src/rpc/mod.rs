//! The wire: code generated from `proto/`, unix sockets that are private from the first instant, and TLS.

mod call;
mod offload;
pub mod tls;
pub mod uds;

pub use call::{CallError, bounded};
pub use offload::{chain, offload};

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
