//! Deleting a backup (B12).

use super::catalog::{self, BackupSet, Catalog};
use super::engine::Engine;
use super::error::{BackupError, HasDependentsSnafu, NoSuchBackupSnafu, NotPutBackSnafu};
use super::format::Manifest;
use super::rebase::RebaseReport;
use super::store::{ObjectInfo, StoreError, delete_all};
use super::{Cancel, Progress};
use serde::Serialize;
use snafu::{IntoError, OptionExt, ensure};
use std::collections::HashSet;
use uuid::Uuid;

/// What was done.
#[derive(Clone, Debug, Serialize)]
pub struct DeleteReport {
    /// Which backup.
    pub backup_id: Uuid,
    /// Objects removed.
    pub objects: u64,
    /// Their bytes in the repository.
    pub bytes_freed: u64,
    /// Backups that were made on it and are whole without it now.
    pub rebased: Vec<RebaseReport>,
}

impl Engine {
    /// Removes a backup, or what an interrupted one left. One that others are made on is refused.
    /// The manifest goes first: what remains of a deletion that failed is no backup, and deleting
    /// again removes it.
    ///
    /// A backup may be made on this one meanwhile, perhaps by another machine. Whoever makes it looks for
    /// this manifest after it has stored its own, and we look for its after ours is gone: at least one of
    /// the two sees the other.
    pub async fn delete(&self, backup: Uuid) -> Result<DeleteReport, BackupError> {
        self.delete_of(None, backup).await
    }

    /// The same of a backup that is known to be of this volume: only that one's objects are listed.
    pub async fn delete_of(&self, volume: Option<Uuid>, backup: Uuid) -> Result<DeleteReport, BackupError> {
        let catalog = self.catalog();
        let all = catalog.sets(volume).await?;
        let ours: Vec<&BackupSet> = all.iter().filter(|set| set.prefix.backup() == backup).collect();
        ensure!(!ours.is_empty(), NoSuchBackupSnafu { backup });
        let volume = ours[0].prefix.volume();
        let ancestors = ancestors(&catalog, &all, backup).await;
        let children = children(&catalog, &all, volume, backup, &ancestors).await?;
        refuse_dependents(backup, &children)?;
        for set in &ours {
            self.withdraw(&catalog, set, &ancestors).await?;
        }
        let ours = all.into_iter().filter(|set| set.prefix.backup() == backup);
        let gone: Vec<ObjectInfo> = ours.flat_map(|set| set.objects).collect();
        let (objects, bytes_freed) = (gone.len() as u64, gone.iter().map(|object| object.size).sum());
        delete_all(self.store.as_ref(), gone.into_iter().map(|object| object.key).collect()).await?;
        Ok(DeleteReport { backup_id: backup, objects, bytes_freed, rebased: Vec::new() })
    }

    /// Removes a backup after each one that is made on it was rebased onto what this one is made on. Broken off, each of
    /// them can be restored, and deleting again goes on.
    pub async fn delete_rebasing(
        &self,
        backup: Uuid,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<DeleteReport, BackupError> {
        self.delete_rebasing_of(None, backup, progress, cancel).await
    }

    /// The same of a backup that is known to be of this volume.
    pub async fn delete_rebasing_of(
        &self,
        volume: Option<Uuid>,
        backup: Uuid,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<DeleteReport, BackupError> {
        let catalog = self.catalog();
        let all = catalog.sets(volume).await?;
        let set = catalog::find(&all, backup).context(NoSuchBackupSnafu { backup })?;
        let ancestors = ancestors(&catalog, &all, backup).await;
        let mut rebased = Vec::new();
        let volume = set.prefix.volume();
        for child in children(&catalog, &all, volume, backup, &ancestors).await? {
            let parent = catalog.manifest(set).await?.parent;
            rebased.push(self.rebase_of(Some(volume), child, parent, progress, cancel).await?);
        }
        cancel.check()?;
        Ok(DeleteReport { rebased, ..self.delete_of(Some(volume), backup).await? })
    }

    /// Removes a manifest for good, or puts it back when a backup turned up that needs it.
    async fn withdraw(
        &self,
        catalog: &Catalog,
        set: &BackupSet,
        ancestors: &HashSet<Uuid>,
    ) -> Result<(), BackupError> {
        let (backup, key) = (set.prefix.backup(), set.prefix.manifest());
        let manifest = match self.store.get(&key, set.manifest_limit()).await {
            // Interrupted, or deleted half-way before: nobody can have been made on it. Nor on what is no manifest.
            Err(StoreError::Missing { .. } | StoreError::TooLarge { .. }) => return Ok(()),
            read => read?,
        };
        self.store.delete(&key).await?;
        let looked = async {
            let now = catalog.sets(Some(set.prefix.volume())).await?;
            let volume = set.prefix.volume();
            refuse_dependents(backup, &children(catalog, &now, volume, backup, ancestors).await?)
        };
        let Err(error) = looked.await else { return Ok(()) };
        match self.store.put(&key, manifest).await {
            Ok(()) => Err(error),
            Err(source) => {
                let error = Box::new(error);
                Err(NotPutBackSnafu { backup, error }.into_error(source))
            }
        }
    }
}

fn refuse_dependents(backup: Uuid, children: &[Uuid]) -> Result<(), BackupError> {
    let names: Vec<String> = children.iter().map(Uuid::to_string).collect();
    ensure!(children.is_empty(), HasDependentsSnafu { backup, children: names.join(", ") });
    Ok(())
}

/// The complete backups that are made on this one. One that cannot be read might be one of them:
/// better to keep its parent.
async fn children(
    catalog: &Catalog,
    sets: &[BackupSet],
    volume: Uuid,
    backup: Uuid,
    ancestors: &HashSet<Uuid>,
) -> Result<Vec<Uuid>, BackupError> {
    let mut children = Vec::new();
    let others = |set: &&BackupSet| set.prefix.volume() == volume && set.prefix.backup() != backup;
    for set in catalog::current(sets).into_iter().filter(others) {
        match catalog.manifest(set).await {
            Ok(manifest) if manifest.parent == Some(backup) => children.push(set.prefix.backup()),
            Ok(_) => {}
            // Deleted since it was listed.
            Err(BackupError::Store { source: StoreError::Missing { .. } }) => {}
            // Made before it: no child of it, or a damaged chain could never be deleted.
            Err(_) if ancestors.contains(&set.prefix.backup()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(children)
}

/// What a backup is made on, as far as that can be read; what goes round ends.
async fn ancestors(catalog: &Catalog, sets: &[BackupSet], backup: Uuid) -> HashSet<Uuid> {
    let mut found = HashSet::new();
    let mut at = backup;
    while let Some(set) = sets.iter().find(|set| set.prefix.backup() == at) {
        match catalog.manifest(set).await {
            Ok(Manifest { parent: Some(parent), .. }) if parent != backup && found.insert(parent) => {
                at = parent
            }
            _ => break,
        }
    }
    found
}
