//! Deleting a backup (B12).

use super::catalog::BackupSet;
use super::engine::Engine;
use super::error::{BackupError, HasDependentsSnafu, NoSuchBackupSnafu};
use serde::Serialize;
use snafu::ensure;
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
}

impl Engine {
    /// Removes a backup, or what an interrupted one left. One that others are made on is refused.
    /// The manifest goes first: what remains of a deletion that failed is no backup, and deleting
    /// again removes it.
    pub async fn delete(&self, backup: Uuid) -> Result<DeleteReport, BackupError> {
        let catalog = self.catalog();
        let all = catalog.sets(None).await?;
        let ours: Vec<&BackupSet> = all.iter().filter(|set| set.prefix.backup() == backup).collect();
        ensure!(!ours.is_empty(), NoSuchBackupSnafu { backup });
        let volume = ours[0].prefix.volume();
        let mut children = Vec::new();
        let others = |set: &&BackupSet| set.prefix.volume() == volume && set.prefix.backup() != backup;
        for set in all.iter().filter(others).filter(|set| set.is_complete()) {
            // One that cannot be read might be a child: better to keep its parent.
            if catalog.manifest(set).await?.parent == Some(backup) {
                children.push(set.prefix.backup().to_string());
            }
        }
        ensure!(children.is_empty(), HasDependentsSnafu { backup, children: children.join(", ") });
        let (mut objects, mut bytes_freed) = (0, 0);
        for set in ours {
            let manifest = set.prefix.manifest();
            self.store.delete(&manifest).await?;
            for object in &set.objects {
                self.store.delete(&object.key).await?;
                objects += 1;
                bytes_freed += object.size;
            }
        }
        Ok(DeleteReport { backup_id: backup, objects, bytes_freed })
    }
}
