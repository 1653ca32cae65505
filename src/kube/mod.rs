//! Strata's own objects in Kubernetes, and what works on them: backups that are started by snapshots.

mod backup;
mod clock;
mod context;
pub mod crd;
mod due;
mod error;
mod events;
mod figures;
mod import;
mod job;
mod lease;
pub mod names;
mod pages;
mod repository;
mod schedule;
mod serve;
mod trigger;

pub use clock::{Clock, SetClock, SystemClock};
pub use context::{OpenVolumes, Settings};
pub use due::Wanted;
pub use error::{Error, said};
pub use figures::{Objects, figures};
pub use import::{Import, ImportError, Imported, import};
pub use lease::LeaseSettings;
pub use pages::list_all;
pub use repository::KubeRepositories;
pub use serve::{Parts, serve};
