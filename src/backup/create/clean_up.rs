//! What becomes of objects that belong to no backup: those of an attempt that failed, and those that earlier ones have left.

use super::Attempt;
use super::options::Resume;
use super::upload::Upload;
use crate::backup::BackupError;
use crate::backup::error::{LeftBehindSnafu, ResumableSnafu};
use crate::backup::format::Prefix;
use snafu::IntoError;

impl Attempt<'_> {
    /// What earlier attempts have left of a backup that is complete now, under names of their own.
    pub async fn remove_older(&self, prefix: &Prefix) {
        if let Err(error) = self.engine.remove_superseded(prefix.volume(), prefix.backup()).await {
            tracing::warn!(%error, "what earlier attempts have left of {prefix} stays until it is cleared away");
        }
    }

    /// B13. Who asked to resume keeps what was uploaded, unless it can be of no use.
    pub async fn clean_up(&self, error: BackupError, upload: &mut Upload, adopts: bool) -> BackupError {
        let again = matches!(
            error,
            BackupError::UnusableParent { .. }
                | BackupError::WrongDelta { .. }
                | BackupError::NoParent { .. }
                | BackupError::NotCopied { .. }
        );
        let keep = adopts && !matches!(error, BackupError::SourceLost) && !again;
        let (backup, prefix) = (upload.prefix().backup(), upload.prefix().to_string());
        upload.is_hurried = self.cancel.is_asked();
        let cleaned = match self.options.resume {
            // Whoever is the other one needs these objects.
            _ if matches!(error, BackupError::MadeTwice { .. }) => upload.withdraw().await.map(drop),
            Resume::No => upload.remove().await,
            _ if !keep => upload.remove().await,
            _ => match upload.withdraw().await {
                Ok(true) => return ResumableSnafu { error, backup }.build(),
                Ok(false) => Ok(()),
                Err(e) => Err(e),
            },
        };
        match cleaned {
            Ok(()) => error,
            Err(source) => LeftBehindSnafu { error, prefix }.into_error(source),
        }
    }
}
