//! Objects that are gone because their backup was rebased or deleted while it was read: no damage.

use crate::backup::error::BackupError;
use crate::backup::format::Prefix;
use crate::backup::store::{Store, StoreError};
use std::sync::Arc;
use uuid::Uuid;

/// Whose object this was, when its manifest is gone, too. Whoever removes a set removes that first, so an object that
/// is missing beside its manifest is damage.
pub(in crate::backup) async fn gone(store: &Arc<dyn Store>, key: &str) -> Result<Option<Uuid>, StoreError> {
    let Some((prefix, _)) = Prefix::of_key(key) else { return Ok(None) };
    let manifest = prefix.manifest();
    let listed = store.list(&manifest).await?;
    let is_there = listed.iter().any(|object| object.key == manifest);
    Ok((!is_there).then(|| prefix.backup()))
}

/// What to say about a manifest or a hash file that went while it was read.
pub(super) async fn instead_of(store: &Arc<dyn Store>, error: BackupError) -> BackupError {
    let BackupError::Store { source: StoreError::Missing { key } } = &error else { return error };
    match gone(store, key).await {
        Ok(Some(backup)) => BackupError::Changed { backup },
        // The first error says more than a second one of the same store.
        Ok(None) | Err(_) => error,
    }
}
