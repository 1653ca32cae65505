//! The gRPC edge of CSI: decode, validate, guard, one domain call, response.

mod call;
mod capability;
mod capacity;
mod code;
mod controller;
mod identity;
mod inflight;
mod lane;
mod node;
mod params;
mod placement;
mod request;
mod restore;
mod shares;
mod snapshot_list;
mod tidy;
mod volume_list;
mod wire;

pub use call::Caller;
pub use controller::ControllerService;
pub use identity::{IdentityService, Ready};
pub use node::{NodeParts, NodeService, Verdict};
pub use restore::Restores;
pub use shares::{OpenShare, ShareSpec, Shares};
pub use tidy::Tidy;
