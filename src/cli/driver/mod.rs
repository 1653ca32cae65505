//! The driver's roles: each a process of its own.

mod agent;
pub mod args;
mod backup;
mod controller;
mod data;
mod kube;
mod listen;
mod max_volumes;
mod metrics;
mod node;
mod parts;
mod policy;
mod serve;
mod verdict;

pub use agent::{AgentTlsArgs, controller_name, node_name};
pub use args::{DRIVER, DataSocketArg, QemuImgArg, QemuStorageDaemonArg};
pub use backup::BackupServeArgs;
pub use controller::ControllerArgs;
pub use data::{DataArgs, LOCK as DATA_LOCK};
pub use kube::KubeArgs;
pub use max_volumes::MaxVolumesArg;
pub use node::NodeArgs;
pub(super) use parts::{backend, private_dir, self_test_dir, staging, tools};
pub use policy::{PolicyArgs, RoomArgs};
pub(super) use serve::{STOP_LIMIT, runtime, serve, stop_signal};
