//! Listing and showing backups.

use super::catalog::{self, BackupSet};
use super::engine::Engine;
use super::error::BackupError;
use super::format::Manifest;
use super::store::StoreError;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use std::collections::{BTreeSet, HashMap, HashSet};
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
    /// How many backups a restore reads: itself and what it rests on.
    pub depth: u64,
    /// Why it cannot be restored, as far as names and manifests tell.
    pub damage: Option<String>,
    /// Whether its manifest could be read.
    #[serde(skip)]
    pub(super) is_read: bool,
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
    /// Every complete backup, of one volume or of all, in order of volume, then time; a damaged one says so instead of
    /// ending the list.
    pub async fn list(&self, volume: Option<Uuid>) -> Result<Vec<BackupInfo>, BackupError> {
        let catalog = self.catalog();
        let sets = catalog.sets(volume).await?;
        let infos = stream::iter(catalog::current(&sets).into_iter().map(|set| {
            let catalog = &catalog;
            async move {
                match catalog.manifest(set).await {
                    Ok(manifest) => {
                        let mut info = info(set, Ok(&manifest));
                        info.damage = catalog::check_listing(set, &manifest).err().map(|e| e.to_string());
                        Ok(Some(info))
                    }
                    // Deleted since it was listed.
                    Err(BackupError::Store { source: StoreError::Missing { .. } }) => Ok(None),
                    Err(e) if e.is_about_the_set() => Ok(Some(info(set, Err(&e)))),
                    Err(e) => Err(e),
                }
            }
        }));
        let infos: Vec<Option<BackupInfo>> = infos.buffered(READS).try_collect().await?;
        let mut infos: Vec<BackupInfo> = infos.into_iter().flatten().collect();
        follow_chains(&mut infos);
        infos.sort_by(|a, b| {
            (a.volume_id, &a.created_at, &a.prefix).cmp(&(b.volume_id, &b.created_at, &b.prefix))
        });
        Ok(infos)
    }

    /// One backup and its chain.
    pub async fn show(&self, backup: Uuid) -> Result<ChainInfo, BackupError> {
        let chain = self.catalog().chain(backup).await?;
        let (set, manifest) = &chain.links[0];
        let words: BTreeSet<String> = manifest.extents.iter().map(|e| e.compression.to_string()).collect();
        let depth = chain.links.len() as u64;
        Ok(ChainInfo {
            backup: BackupInfo { depth, ..info(set, Ok(manifest)) },
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
        depth: 1,
        damage: manifest.err().map(|e| e.to_string()),
        is_read: good.is_some(),
    }
}

/// Counts each chain, and marks what rests on something that is damaged or gone.
fn follow_chains(infos: &mut [BackupInfo]) {
    let index: HashMap<Uuid, usize> = infos.iter().enumerate().map(|(at, i)| (i.backup_id, at)).collect();
    let found: Vec<(u64, Option<String>)> = infos
        .iter()
        .map(|info| {
            let (mut depth, mut seen, mut below) = (1, HashSet::from([info.backup_id]), info);
            while let Some(parent) = below.parent_id {
                let Some(above) = index.get(&parent).map(|at| &infos[*at]) else {
                    return (
                        depth,
                        Some(format!("it needs backup {parent}, which is not in the repository")),
                    );
                };
                if above.volume_id != info.volume_id || !seen.insert(parent) {
                    return (depth, Some(format!("its chain is damaged at backup {parent}")));
                }
                if let Some(damage) = &above.damage {
                    return (depth, Some(format!("it needs backup {parent}, which is damaged: {damage}")));
                }
                (depth, below) = (depth + 1, above);
            }
            (depth, None)
        })
        .collect();
    for (info, (depth, damage)) in infos.iter_mut().zip(found) {
        info.depth = depth;
        info.damage = info.damage.take().or(damage);
    }
}
