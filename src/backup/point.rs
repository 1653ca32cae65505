//! One backup as somebody sees it who is to make a volume of it.

use super::engine::Engine;
use super::error::BackupError;
use super::format::VolumeMeta;
use jiff::Timestamp;
use std::collections::BTreeMap;
use uuid::Uuid;

/// What the manifests of a backup tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupPoint {
    /// Bytes of the volume.
    pub bytes: u64,
    /// When it was begun, as far as its manifest says so.
    pub created_at: Option<Timestamp>,
    /// The volume's own metadata: of Strata's backups what `docs/backup.md` tells, of Cinder's whatever its users set.
    pub metadata: BTreeMap<String, String>,
}

impl Engine {
    /// One backup of a volume, with all that it rests on held to the listing; no chunk is read.
    pub async fn point(&self, volume: Uuid, backup: Uuid) -> Result<BackupPoint, BackupError> {
        let chain = self.catalog().chain_of(volume, backup).await?;
        let newest = chain.newest();
        Ok(BackupPoint {
            bytes: chain.size(),
            created_at: newest.created_at.parse().ok(),
            metadata: newest.volume_meta.as_deref().map(VolumeMeta::extra_in).unwrap_or_default(),
        })
    }
}
