//! The engine: what can be done with a repository. Each verb is a file of its own.

use super::catalog::Catalog;
use super::error::BackupError;
use super::store::Store;
use std::sync::Arc;

/// Backs up, restores and deletes in one repository.
#[derive(Clone, Debug)]
pub struct Engine {
    pub(super) store: Arc<dyn Store>,
}

impl Engine {
    /// Over a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Engine { store }
    }

    /// Makes the bucket or directory when it is missing.
    pub async fn ensure(&self) -> Result<(), BackupError> {
        Ok(self.store.ensure().await?)
    }

    /// What the repository holds.
    pub fn catalog(&self) -> Catalog {
        Catalog::new(Arc::clone(&self.store))
    }
}
