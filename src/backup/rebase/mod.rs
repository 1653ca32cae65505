//! Making a backup independent of some of its ancestors: docs/decisions/0010-rebased-backups.md tells why the result
//! is a whole new set under a name of its own.

mod full;
mod plan;
mod write;

pub use full::FullReport;
use plan::{Shape, merge};
use write::Synthesis;

use super::catalog::{self, BackupSet, Chain};
use super::engine::Engine;
use super::error::{BackupError, BadRequestSnafu, LeftBehindSnafu, NoParentSnafu, NoSuchBackupSnafu};
use super::format::{Compression, Manifest, Prefix};
use super::hash_reader::HashReader;
use super::{Cancel, Progress, blocking};
use jiff::civil::DateTime;
use jiff::{Timestamp, ToSpan};
use serde::Serialize;
use snafu::{IntoError, OptionExt, ensure};
use std::sync::Arc;
use uuid::Uuid;

/// What was done.
#[derive(Clone, Debug, Serialize)]
pub struct RebaseReport {
    /// Which backup.
    pub backup_id: Uuid,
    /// What it is made on now; `None`: it is a full one.
    pub parent_id: Option<Uuid>,
    /// What its objects' names begin with now.
    pub prefix: String,
    /// Its chunks.
    pub objects: u64,
    /// Got from the repository.
    pub bytes_fetched: u64,
    /// Put into it.
    pub bytes_uploaded: u64,
    /// Stored by the store's own copying, after they were fetched and checked.
    pub bytes_copied: u64,
}

impl Engine {
    /// Makes a backup rest on one of its ancestors, or on nothing, instead of on its parent. Its id, its bytes and
    /// what is made on it stay; at every moment it can be restored.
    pub async fn rebase(
        &self,
        backup: Uuid,
        onto: Option<Uuid>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<RebaseReport, BackupError> {
        self.rebase_of(None, backup, onto, progress, cancel).await
    }

    /// The same of a backup that may be known to be of this volume: then only that one's objects are listed.
    pub(super) async fn rebase_of(
        &self,
        volume: Option<Uuid>,
        backup: Uuid,
        onto: Option<Uuid>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<RebaseReport, BackupError> {
        let catalog = self.catalog();
        let sets = cancel.or(catalog.sets(volume)).await?;
        let chain = cancel.or(catalog.chain_in(&sets, backup, None)).await?;
        drop(sets);
        let merged = merged_links(&chain, onto)?;
        let (set, old) = &chain.links[0];
        let prefix = next_prefix(&set.prefix);
        let mut report = RebaseReport {
            backup_id: backup,
            parent_id: onto,
            prefix: set.prefix.to_string(),
            objects: old.extents.len() as u64,
            bytes_fetched: 0,
            bytes_uploaded: 0,
            bytes_copied: 0,
        };
        if old.parent != onto {
            // Before anything is stored that a store might not let be finished.
            cancel.or(self.store.exclusive()).await?;
            let work = Synthesis {
                from: Arc::clone(&self.store),
                to: Arc::clone(&self.store),
                compression: usual_compression(&chain.links[..merged]),
                prefix: prefix.clone(),
                progress: progress.clone(),
                cancel: cancel.clone(),
            };
            let hashes = HashReader::open(&catalog, &set.prefix).await?;
            let shape = Shape::new(&chain.links, chain.size(), hashes.block());
            let runs = merge(&chain.links[..merged], shape, onto.is_none())?;
            let chunks = runs.len() as u64;
            let stored = async {
                let mut written = work.chunks(runs, hashes, shape).await?;
                written.bytes_uploaded += work.copy(&set.prefix.hashes(), &prefix.hashes()).await?;
                let extents = written.extents.clone();
                let manifest = Manifest { prefix: prefix.clone(), parent: onto, extents, ..old.clone() };
                self.complete(manifest, &chain, cancel).await?;
                Ok(written)
            };
            let written = match stored.await {
                Ok(written) => written,
                Err(error) => {
                    return Err(match work.remove(chunks).await {
                        Ok(()) => error,
                        Err(source) => LeftBehindSnafu { error, prefix: prefix.as_str() }.into_error(source),
                    });
                }
            };
            report.prefix = prefix.to_string();
            report.objects = chunks;
            report.bytes_fetched = written.bytes_fetched;
            report.bytes_uploaded = written.bytes_uploaded;
            report.bytes_copied = written.bytes_copied;
        }
        self.remove_superseded(set.prefix.volume(), backup).await?;
        Ok(report)
    }

    /// Stores the manifest. What the set rests on must be there after that: who deletes it looks for us after having
    /// removed it, as when a backup is made.
    async fn complete(&self, manifest: Manifest, chain: &Chain, cancel: &Cancel) -> Result<(), BackupError> {
        cancel.check()?;
        let (key, parent) = (manifest.prefix.manifest(), manifest.parent);
        let body = blocking(move || Ok(manifest.encode()?)).await?;
        self.store.put(&key, body.into()).await?;
        let Some((set, _)) = chain.links.iter().find(|(set, _)| Some(set.prefix.backup()) == parent) else {
            return Ok(());
        };
        let listed = self.store.list(&set.prefix.manifest()).await?;
        let backup = chain.links[0].0.prefix.backup();
        ensure!(!listed.is_empty(), NoParentSnafu { backup, parent: set.prefix.backup() });
        Ok(())
    }

    /// Removes the sets of a backup that a rebase has replaced, once the new one is seen to be whole.
    pub(super) async fn remove_superseded(&self, volume: Uuid, backup: Uuid) -> Result<(), BackupError> {
        let catalog = self.catalog();
        let all = catalog.sets(Some(volume)).await?;
        let newest = catalog::find(&all, backup).context(NoSuchBackupSnafu { backup })?;
        catalog::check_listing(newest, &catalog.manifest(newest).await?)?;
        let old = |set: &&BackupSet| set.prefix.backup() == backup && set.prefix < newest.prefix;
        for set in all.iter().filter(old) {
            self.remove_set(set).await?;
        }
        Ok(())
    }

    /// Removes all objects of a set, the manifest first: what remains if that fails is no backup.
    pub(super) async fn remove_set(&self, set: &BackupSet) -> Result<(), BackupError> {
        self.store.delete(&set.prefix.manifest()).await?;
        for object in &set.objects {
            self.store.delete(&object.key).await?;
        }
        Ok(())
    }
}

/// How many of the chain's backups become one.
fn merged_links(chain: &Chain, onto: Option<Uuid>) -> Result<usize, BackupError> {
    let Some(onto) = onto else { return Ok(chain.links.len()) };
    let at = chain.links.iter().skip(1).position(|(set, _)| set.prefix.backup() == onto);
    let backup = chain.links[0].0.prefix.backup();
    let reason = format!("backup {backup} does not rest on {onto}: it cannot be rebased onto it");
    Ok(at.context(BadRequestSnafu { reason })? + 1)
}

/// The same backup's next name: some seconds later, by chance, so that two that rebase one backup at a time stay out of
/// each other's way. Names of one backup differ in nothing else.
pub(super) fn next_prefix(prefix: &Prefix) -> Prefix {
    const STAMP: &str = "%Y%m%d%H%M%S";
    const MOST: u128 = 600;
    let seconds = (Uuid::new_v4().as_u128() % MOST) as i64 + 1;
    let text = prefix.as_str();
    let mut parts: Vec<&str> = text.split('/').collect();
    let later =
        DateTime::strptime(STAMP, parts[1]).ok().and_then(|time| time.checked_add(seconds.seconds()).ok());
    // Digits that are no time were none of ours: now is later than any that is.
    let later =
        later.map_or_else(|| Timestamp::now().strftime(STAMP).to_string(), |t| t.strftime(STAMP).to_string());
    parts[1] = &later;
    let next = Prefix::of_key(&parts.join("/")).map(|(prefix, _)| prefix);
    next.unwrap_or_else(|| prefix.clone())
}

/// What most objects are compressed with, the newest backup's first.
pub(super) fn usual_compression(links: &[(BackupSet, Manifest)]) -> Compression {
    let used = links.iter().flat_map(|(_, m)| &m.extents).map(|extent| extent.compression);
    used.into_iter().find(|word| *word != Compression::None).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_name_is_a_later_one() {
        let text = "volume_00000000-0000-0000-0000-000000000000/20261231235959/\
                    az_a_backup_b_backup_ffffffff-ffff-ffff-ffff-ffffffffffff";
        let next = next_prefix(&Prefix::of_key(text).unwrap().0);
        assert!(
            next.as_str() > text
                && next.as_str() <= text.replace("20261231235959", "20270101000959").as_str()
        );
        assert_eq!(next.as_str().split('/').next_back(), text.split('/').next_back());
        assert_eq!((next.volume(), next.backup()), (Uuid::nil(), Uuid::max()));
    }
}
