//! Listing and showing backups.

use super::catalog::BackupSet;
use super::engine::Engine;
use super::error::BackupError;
use super::format::Manifest;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use std::collections::BTreeSet;
use uuid::Uuid;

/// Manifests read at a time.
const READS: usize = 8;

/// One backup of a listing.
#[derive(Clone, Debug, Serialize)]
pub struct BackupInfo {
    /// Its id.
    pub backup_id: Uuid,
    /// Whose it is.
    pub volume_id: Uuid,
    /// What it is made on.
    pub parent_id: Option<Uuid>,
    /// For people.
    pub name: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// When it was begun.
    pub created_at: String,
    /// What its objects' names begin with.
    pub prefix: String,
    /// Chunks.
    pub objects: u64,
    /// Of the volume, in its chunks.
    pub bytes_changed: u64,
    /// In the repository, manifest and hashes included.
    pub bytes_stored: u64,
    /// Why its manifest cannot be read, if so.
    pub damage: Option<String>,
}

/// One backup with what it rests on.
#[derive(Clone, Debug, Serialize)]
pub struct ChainInfo {
    /// The backup.
    #[serde(flatten)]
    pub backup: BackupInfo,
    /// It and its ancestors, the newest first.
    pub chain: Vec<Uuid>,
    /// The volume's size.
    pub bytes_total: u64,
    /// How its chunks are stored.
    pub compression: Vec<String>,
    /// The volume's metadata as stored.
    pub volume_meta: Option<String>,
}

impl Engine {
    /// Every complete backup, of one volume or of all; a damaged one says so instead of ending the list.
    pub async fn list(&self, volume: Option<Uuid>) -> Result<Vec<BackupInfo>, BackupError> {
        let catalog = self.catalog();
        let sets = catalog.sets(volume).await?;
        let complete = sets.iter().filter(|set| set.is_complete());
        let infos = stream::iter(complete.map(|set| {
            let catalog = &catalog;
            async move {
                match catalog.manifest(set).await {
                    Ok(manifest) => Ok(info(set, Ok(&manifest))),
                    Err(e) if e.is_about_the_set() => Ok(info(set, Err(&e))),
                    Err(e) => Err(e),
                }
            }
        }));
        infos.buffered(READS).try_collect().await
    }

    /// One backup and its chain.
    pub async fn show(&self, backup: Uuid) -> Result<ChainInfo, BackupError> {
        let chain = self.catalog().chain(backup).await?;
        let (set, manifest) = &chain.links[0];
        let words: BTreeSet<String> = manifest.extents.iter().map(|e| e.compression.to_string()).collect();
        Ok(ChainInfo {
            backup: info(set, Ok(manifest)),
            chain: chain.links.iter().map(|(set, _)| set.prefix.backup()).collect(),
            bytes_total: chain.size(),
            compression: words.into_iter().collect(),
            volume_meta: manifest.volume_meta.clone(),
        })
    }
}

fn info(set: &BackupSet, manifest: Result<&Manifest, &BackupError>) -> BackupInfo {
    let good = manifest.ok();
    BackupInfo {
        backup_id: set.prefix.backup(),
        volume_id: set.prefix.volume(),
        parent_id: good.and_then(|m| m.parent),
        name: good.and_then(|m| m.name.clone()),
        description: good.and_then(|m| m.description.clone()),
        created_at: good.map(|m| m.created_at.clone()).unwrap_or_default(),
        prefix: set.prefix.to_string(),
        objects: good.map_or(0, |m| m.extents.len() as u64),
        bytes_changed: good.map_or(0, |m| m.extents.iter().map(|e| e.length).sum()),
        bytes_stored: set.stored_bytes(),
        damage: manifest.err().map(|e| e.to_string()),
    }
}
