//! Why a backup was not made, and whether trying again can help.

use crate::backup::{BackupError, ErrorKind};
use crate::kube::error::Error as ApiError;
use crate::kube::repository::OpenError;
use crate::volume::Error as VolumeError;
use std::time::Duration;

/// The first wait, and the longest.
const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(600);

/// Why one try ended.
#[derive(Debug)]
pub(super) struct Failure {
    /// In one word.
    pub reason: &'static str,
    /// In words, without credentials.
    pub message: String,
    /// Whether the same try may succeed later.
    pub can_heal: bool,
    /// Asked to end: neither a failure nor a result.
    pub is_cancelled: bool,
}

impl Failure {
    pub fn heals(reason: &'static str, message: impl Into<String>) -> Self {
        Failure { reason, message: message.into(), can_heal: true, is_cancelled: false }
    }

    pub fn stays(reason: &'static str, message: impl Into<String>) -> Self {
        Failure { can_heal: false, ..Failure::heals(reason, message) }
    }

    pub fn cancelled() -> Self {
        Failure { is_cancelled: true, ..Failure::heals("Cancelled", "cancelled") }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Failure::heals("ApiError", error.to_string())
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        // Each of them heals when somebody changes the object or its Secret.
        Failure::heals(error.reason(), error.to_string())
    }
}

impl From<VolumeError> for Failure {
    fn from(error: VolumeError) -> Self {
        match error {
            VolumeError::VolumeNotFound { .. } | VolumeError::SnapshotNotFound { .. } => Failure::stays(
                "SnapshotGone",
                format!("{error}: it was deleted before it could be read; take another snapshot"),
            ),
            other => Failure::heals("SnapshotNotReadable", other.to_string()),
        }
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        let error = match error {
            // The next try goes on with it by itself.
            BackupError::Resumable { error, .. } => *error,
            other => other,
        };
        let message = error.to_string();
        match error.kind() {
            ErrorKind::Cancelled => Failure::cancelled(),
            ErrorKind::Usage => Failure::stays("BadSettings", message),
            ErrorKind::Damaged => Failure::stays("Damaged", message),
            ErrorKind::Unsafe => Failure::stays("Refused", message),
            ErrorKind::NotFound => Failure::heals("RepositoryNotFound", message),
            ErrorKind::Failed => Failure::heals("BackupFailed", message),
        }
    }
}

/// How long to wait after so many failures in a row.
pub(super) fn backoff(failures: u32) -> Duration {
    FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn the_wait_doubles_up_to_a_bound() {
        let waits: Vec<u64> = (1..=9).map(|failures| backoff(failures).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 600, 600]);
        assert_eq!(backoff(u32::MAX), LONGEST);
    }

    #[test]
    fn what_cannot_heal_is_told_from_what_can() {
        let inner = Box::new(BackupError::Cancelled);
        let error = BackupError::Resumable { error: inner, backup: Uuid::nil() };
        assert!(Failure::from(error).is_cancelled);
        let bad = BackupError::BadRequest { reason: "no".to_owned() };
        assert!(!Failure::from(bad).can_heal);
        assert!(Failure::from(BackupError::SourceLost).can_heal);
    }
}
