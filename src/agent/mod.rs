//! The node agent: the controller's arm on the node where a volume is attached.

mod client;
mod merge;
mod server;

pub use client::{AgentClient, CUT_LIMIT};
pub use server::AgentService;
