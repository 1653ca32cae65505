//! Why a backup cannot be had, as records and callers are told.

use crate::backup::repositories::RepositoryError;
use crate::backup::store::StoreError;
use crate::backup::{BackupError, ErrorKind};
use crate::csi::code::of_restore;
use crate::volume::record::FailureKind;
use crate::volume::{BackupHandle, Error};
use std::io;
use std::time::Duration;
use tonic::Status;

/// A backup that cannot be had.
#[derive(Clone, Debug)]
pub(in crate::csi) struct Refusal {
    pub kind: FailureKind,
    pub message: String,
    /// It is there, and not complete: it is perhaps being made.
    pub incomplete: bool,
    /// Its repository was asked, and does not have it.
    pub is_of_backup: bool,
}

impl Refusal {
    /// No answer in time.
    pub fn late(handle: &BackupHandle, wait: Duration) -> Self {
        let message = format!(
            "the repository {} has not answered within {} s; ask again",
            handle.repository,
            wait.as_secs()
        );
        Refusal::new(FailureKind::Unavailable, message)
    }

    /// Something here broke off.
    pub fn failed(message: String) -> Self {
        Refusal::new(FailureKind::Failed, message)
    }

    fn new(kind: FailureKind, message: String) -> Self {
        Refusal { kind, message, incomplete: false, is_of_backup: false }
    }
}

impl From<&BackupError> for Refusal {
    fn from(error: &BackupError) -> Self {
        let incomplete = matches!(error, BackupError::Incomplete { .. });
        let is_of_backup = matches!(error, BackupError::NoSuchBackup { .. });
        Refusal { incomplete, is_of_backup, ..Refusal::new(kind(error), error.to_string()) }
    }
}

impl From<&RepositoryError> for Refusal {
    fn from(error: &RepositoryError) -> Self {
        let kind = match error {
            RepositoryError::Unknown { .. } => FailureKind::NotFound,
            // As soon as an operator has put the settings right, the same call succeeds.
            RepositoryError::Unusable { .. } | RepositoryError::Away { .. } => FailureKind::Unavailable,
        };
        Refusal::new(kind, error.to_string())
    }
}

impl From<&Error> for Refusal {
    fn from(error: &Error) -> Self {
        let kind = match error {
            Error::Io { source, .. } => of_io(source),
            Error::NoRoom { .. } | Error::Full { .. } => FailureKind::NoRoom,
            Error::ShareAway { .. } | Error::Busy { .. } | Error::Pending { .. } => FailureKind::Unavailable,
            _ => FailureKind::Failed,
        };
        Refusal::new(kind, error.to_string())
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        Status::new(of_restore(refusal.kind), refusal.message)
    }
}

fn kind(error: &BackupError) -> FailureKind {
    match error {
        // A bucket or folder that is not there proves no backup gone: a disk may not be mounted.
        BackupError::Store { source: StoreError::NoRepository { .. } } => FailureKind::Unavailable,
        BackupError::Store { source: StoreError::Settings { .. } } => FailureKind::Unavailable,
        // Rebased or deleted while it was read: the next look tells which.
        BackupError::Changed { .. } | BackupError::Store { source: StoreError::Missing { .. } } => {
            FailureKind::Unavailable
        }
        BackupError::Target { source, .. } => of_io(source),
        other => match other.kind() {
            ErrorKind::NotFound => FailureKind::NotFound,
            ErrorKind::Damaged => FailureKind::DataLoss,
            ErrorKind::Failed if matches!(other, BackupError::Store { .. }) => FailureKind::Unavailable,
            _ => FailureKind::Failed,
        },
    }
}

fn of_io(error: &io::Error) -> FailureKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FailureKind::NoRoom,
        io::ErrorKind::NotConnected | io::ErrorKind::StaleNetworkFileHandle | io::ErrorKind::TimedOut => {
            FailureKind::Unavailable
        }
        _ => FailureKind::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use uuid::Uuid;

    fn backend() -> BackupError {
        let source =
            StoreError::Backend { operation: "listing", key: "x".to_owned(), source: "refused".into() };
        BackupError::Store { source }
    }

    fn full() -> BackupError {
        let source = io::Error::from(io::ErrorKind::StorageFull);
        BackupError::Target { operation: "writing to", path: "/x".into(), source }
    }

    /// K10: what a retry heals, and what it does not.
    #[rstest]
    #[case(backend(), FailureKind::Unavailable)]
    #[case(BackupError::Store { source: StoreError::NoRepository { repository: "r".into() } }, FailureKind::Unavailable)]
    #[case(BackupError::Changed { backup: Uuid::nil() }, FailureKind::Unavailable)]
    #[case(BackupError::NoSuchBackup { backup: Uuid::nil() }, FailureKind::NotFound)]
    #[case(BackupError::Incomplete { backup: Uuid::nil() }, FailureKind::NotFound)]
    #[case(BackupError::NoParent { backup: Uuid::nil(), parent: Uuid::nil() }, FailureKind::DataLoss)]
    #[case(BackupError::Damaged { key: "k".into(), reason: "r".into() }, FailureKind::DataLoss)]
    #[case(full(), FailureKind::NoRoom)]
    #[case(BackupError::Unfinished, FailureKind::Failed)]
    fn errors_are_told_apart(#[case] error: BackupError, #[case] expected: FailureKind) {
        assert_eq!(Refusal::from(&error).kind, expected);
    }
}
