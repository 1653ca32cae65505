//! The node agent: the controller's arm on the node where a volume is attached.

mod address;
mod client;
mod merge;
mod network;
mod own;
mod server;

pub use address::{AgentAddress, InvalidAddress};
pub use client::{AgentClient, CUT_LIMIT};
pub use network::{local_router, network_router};
pub use own::OwnAgent;
pub use server::AgentService;
