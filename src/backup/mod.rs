//! The backup engine: copies a snapshot into an object store and back. It knows nothing of Kubernetes.

pub mod catalog;
mod create;
mod delete;
mod diff;
mod engine;
mod error;
mod export;
pub mod format;
mod gc;
mod hash_reader;
mod list;
mod pinned;
mod point;
mod progress;
mod prune;
mod rebase;
mod record;
mod repair;
mod repair_chunk;
mod repair_hashes;
pub mod repositories;
mod restore;
mod source;
pub mod store;
mod verify;
mod verify_read;
mod verify_set;
mod window;

pub use create::{
    CHOOSE_HASH_BLOCK, CreateOptions, CreateReport, DEFAULT_CONCURRENCY, DEFAULT_MEMORY, DEFAULT_SPLIT,
    ParentChoice, Resume,
};
pub use delete::DeleteReport;
pub use diff::{ByteRange, DiffReport};
pub use engine::Engine;
pub use error::{BackupError, ErrorKind};
pub use export::{Export, Exported};
pub use gc::{GcClock, GcItem, GcKind, GcOptions, GcReport};
pub use list::{BackupInfo, ChainInfo};
pub use pinned::{PinnedReader, snapshot_meta, volume_meta};
pub use point::BackupPoint;
pub use progress::{Cancel, Canceller, Progress, ProgressState};
pub use prune::{Basis, Candidate, Decision, PruneOptions, PruneReport, PruneRow, Reason, Retention};
pub use rebase::{FullReport, RebaseReport};
pub use record::ImportRecord;
pub use repair::{RepairOptions, RepairReport, Repaired};
pub use restore::{Damaged, Limits, Loss, RestoreOptions, RestoreReport, refuse_used_source};
pub use source::{Changed, DataPoint, Origin, SnapshotSource};
pub use verify::{Damage, VerifyOptions, VerifyReport, Which};

use snafu::ResultExt;

/// Runs CPU or disk work off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work)).await.context(error::WorkerSnafu)?
}
