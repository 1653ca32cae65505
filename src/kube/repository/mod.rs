//! BackupRepository: opened for backups, and looked at now and then.

mod by_name;
mod check;
mod open;

pub use by_name::KubeRepositories;
pub use check::{failed, reconcile};
pub use open::{OpenError, Opened, open};
