//! Repairing what `verify` finds: an object is made anew from bytes that have the digests it had, wherever they are
//! found, and stored only when it is certain to be right (X7).

use super::catalog::Catalog;
use super::engine::Engine;
use super::error::{BackupError, BadRequestSnafu};
use super::format::{Extent, MAX_CHUNK_SIZE, MIN_HASH_BLOCK, Manifest, Prefix, is_hash_block};
use super::repair_chunk::{Kept, Source, rebuild};
use super::repair_hashes::rebuild_hashes;
use super::verify::{Damage, VerifyOptions, Which, by_volume, read_family};
use super::verify_set::Family;
use super::{Cancel, Limits, Progress, SnapshotSource};
use serde::Serialize;
use snafu::ensure;
use std::sync::Arc;
use std::time::Instant;
use uuid::Uuid;

/// Why something else than a chunk or a hash file stays as it is.
const NOT_A_CHUNK: &str = "only chunks and hash files can be made anew: a manifest cannot, and what no manifest names \
                           is for `strata backup gc` to remove";

/// How to repair.
#[derive(Clone)]
pub struct RepairOptions {
    /// Which backup, with all that it rests on.
    pub backup: Uuid,
    /// Where the volume's bytes may still be: any state of it, for each block is compared with its hash.
    pub source: Option<Arc<dyn SnapshotSource>>,
    /// Bytes per hash, for a hash file that is lost with every other of the volume; not used while one of them tells.
    pub hash_block: Option<u64>,
    /// How much at a time, while damage is looked for and hashes are made.
    pub limits: Limits,
}

impl RepairOptions {
    /// What `create` would refuse, no reader would understand.
    fn check(&self) -> Result<(), BackupError> {
        let Some(block) = self.hash_block else { return Ok(()) };
        let reason = format!("a hash block has {MIN_HASH_BLOCK} to {MAX_CHUNK_SIZE} bytes, not {block}");
        ensure!(is_hash_block(block), BadRequestSnafu { reason });
        Ok(())
    }
}

/// An object that is whole again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// Its key.
    pub object: String,
    /// What was wrong with it.
    pub reason: String,
    /// Where its bytes were found.
    pub from: Vec<String>,
}

/// What was done.
#[derive(Clone, Debug, Serialize)]
pub struct RepairReport {
    /// Which backup.
    pub backup_id: Uuid,
    /// Nothing of it and of what it rests on is damaged now.
    pub good: bool,
    /// Objects that are whole again.
    pub repaired: Vec<Repaired>,
    /// What is still damaged; the reason says what is missing for its repair.
    pub left: Vec<Damage>,
    /// Chunks that were looked at.
    pub objects: u64,
    /// From begin to end.
    pub seconds: f64,
}

impl Engine {
    /// Finds what is damaged of a backup and of those that it rests on, and makes it whole as far as its bytes are
    /// found. Nothing is stored that does not have the digests of what it replaces.
    pub async fn repair(
        &self,
        options: &RepairOptions,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<RepairReport, BackupError> {
        let started = Instant::now();
        options.check()?;
        let which = Which::Backup(options.backup);
        let verify = VerifyOptions { which, data: 1.0, seed: 0, limits: options.limits };
        let found = self.verify(&verify, progress, cancel).await?;
        let catalog = self.catalog();
        let (repaired, left) = (Vec::new(), Vec::new());
        let mut repair = Repair { engine: self, options, catalog, repaired, left, hashes: None };
        let (hashes, others): (Vec<Damage>, Vec<Damage>) =
            found.damage.into_iter().partition(|damage| damage.object.ends_with("_sha256file"));
        if !(hashes.is_empty() && others.is_empty()) {
            let family = cancel.or(repair.family()).await?;
            for damage in others {
                cancel.check()?;
                cancel.or_soon(repair.chunk(&family, damage)).await?;
            }
            repair.hash_files(hashes, progress, cancel).await?;
        }
        let Repair { repaired, left, .. } = repair;
        let (good, objects) = (left.is_empty(), found.objects);
        let seconds = started.elapsed().as_secs_f64();
        Ok(RepairReport { backup_id: options.backup, good, repaired, left, objects, seconds })
    }
}

struct Repair<'a> {
    engine: &'a Engine,
    options: &'a RepairOptions,
    catalog: Catalog,
    repaired: Vec<Repaired>,
    left: Vec<Damage>,
    hashes: Kept,
}

impl Repair<'_> {
    /// All backups of the volume as they are now.
    async fn family(&self) -> Result<Family, BackupError> {
        let volumes = by_volume(&self.catalog, Which::Backup(self.options.backup)).await?;
        let sets = volumes.into_values().flatten().filter(|set| set.is_complete()).collect();
        read_family(&self.catalog, sets).await
    }

    async fn chunk(&mut self, family: &Family, damage: Damage) -> Result<(), BackupError> {
        let manifest = family.manifest(damage.backup_id);
        let extent = manifest.and_then(|m| m.extents.iter().find(|extent| extent.key == damage.object));
        let (Some(manifest), Some(extent)) = (manifest, extent) else {
            self.leave(damage, NOT_A_CHUNK);
            return Ok(());
        };
        let source = Source { engine: self.engine, family, image: self.options.source.as_ref() };
        match rebuild(&source, &mut self.hashes, manifest, extent).await? {
            Ok((body, from)) => {
                self.engine.store.put(&damage.object, body).await?;
                self.note(&damage, from);
            }
            Err(reason) => self.leave(damage, reason),
        }
        Ok(())
    }

    /// Hash files follow the chunks: they are made from them.
    async fn hash_files(
        &mut self,
        damage: Vec<Damage>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<(), BackupError> {
        let mut done: Vec<String> = Vec::new();
        for damage in damage {
            // One that contradicts several chunks is told of once for each.
            if done.contains(&damage.object) {
                continue;
            }
            done.push(damage.object.clone());
            cancel.check()?;
            let family = cancel.or(self.family()).await?;
            let id = damage.backup_id;
            match rebuild_hashes(self.engine, &family, id, self.options, progress, cancel).await? {
                Ok(()) => self.note(&damage, vec!["the chunks of its chain".to_owned()]),
                Err(reason) => self.leave(damage, reason),
            }
        }
        Ok(())
    }

    fn note(&mut self, damage: &Damage, from: Vec<String>) {
        let (object, reason) = (damage.object.clone(), damage.reason.clone());
        self.repaired.push(Repaired { object, reason, from });
    }

    fn leave(&mut self, mut damage: Damage, why: impl Into<String>) {
        damage.reason = format!("{}; not repaired: {}", damage.reason, why.into());
        self.left.push(damage);
    }
}

/// The word for one backup in a report.
pub(super) fn backup_word(prefix: &Prefix) -> String {
    format!("backup {}", prefix.backup())
}

/// The manifests of a volume beside one, those made at about the same time first.
pub(super) fn nearest(family: &Family, id: Uuid) -> Vec<&Manifest> {
    let all = family.all();
    let place = all.iter().position(|other| *other == id).unwrap_or(0);
    let mut others: Vec<(usize, Uuid)> =
        all.into_iter().enumerate().filter(|(_, other)| *other != id).collect();
    others.sort_by_key(|(at, _)| at.abs_diff(place));
    others.into_iter().filter_map(|(_, other)| family.manifest(other)).collect()
}

/// The extents of a manifest that touch a range.
pub(super) fn touching<'a>(manifest: &'a Manifest, extent: &Extent) -> impl Iterator<Item = &'a Extent> {
    let (start, end) = (extent.offset, extent.end());
    manifest.extents.iter().filter(move |other| other.offset < end && other.end() > start)
}
