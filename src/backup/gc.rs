//! Finding and removing what belongs to no backup (K15).

use super::Cancel;
use super::catalog::{self, BackupSet};
use super::engine::Engine;
use super::error::BackupError;
use super::format::Prefix;
use super::store::{ObjectInfo, Unfinished};
use jiff::Timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use uuid::Uuid;

/// What is removed.
#[derive(Clone, Copy, Debug)]
pub struct GcOptions {
    /// Younger things stay: somebody may be writing them.
    pub before: Timestamp,
    /// Nothing is removed.
    pub dry_run: bool,
}

/// What kind of garbage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GcKind {
    /// A set without manifest: a backup, a rebase or a deletion that was broken off.
    Incomplete,
    /// A complete set that a rebase has replaced.
    Superseded,
    /// Chunks under a complete backup's name that its manifest does not name.
    Surplus,
    /// What a writer that died left outside of any listing.
    Unfinished,
}

/// One find.
#[derive(Clone, Debug, Serialize)]
pub struct GcItem {
    /// Which kind.
    pub kind: GcKind,
    /// What the objects' names begin with.
    pub name: String,
    /// Of which backup.
    pub backup_id: Option<Uuid>,
    /// How many.
    pub objects: u64,
    /// Their bytes; `None` where the store does not tell.
    pub bytes: Option<u64>,
    /// When the newest of them was stored, or begun, by the store's clock.
    pub newest: Timestamp,
    #[serde(skip)]
    keys: Vec<String>,
    #[serde(skip)]
    unfinished: Option<Unfinished>,
}

/// What was found and done.
#[derive(Clone, Debug, Serialize)]
pub struct GcReport {
    /// Nothing was removed.
    pub dry_run: bool,
    /// Removed, or to be.
    pub removed: Vec<GcItem>,
    /// Left alone because it is too young.
    pub young: Vec<GcItem>,
    /// Backups whose manifest cannot be read: what is surplus there is not known.
    pub unread: Vec<Uuid>,
    /// Objects whose names are none of ours. Never touched.
    pub foreign: Vec<String>,
    /// Bytes of what was removed, or is to be.
    pub bytes_freed: u64,
}

impl Engine {
    /// Looks through the whole repository. Whatever is a backup, and whatever is not ours, stays.
    pub async fn gc(&self, options: GcOptions, cancel: &Cancel) -> Result<GcReport, BackupError> {
        let mut foreign = Vec::new();
        let sets = sort(self.store.list("").await?, &mut foreign);
        let (mut found, unread) = self.garbage(&sets, cancel).await?;
        for object in self.store.unfinished().await? {
            found.push(unfinished(object));
        }
        let (removed, mut young): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|item| item.newest < options.before);
        let (mut done, mut bytes_freed) = (Vec::new(), 0);
        for item in removed {
            cancel.check()?;
            if !options.dry_run && !self.sweep(&item).await? {
                young.push(item);
                continue;
            }
            bytes_freed += item.bytes.unwrap_or(0);
            done.push(item);
        }
        Ok(GcReport { dry_run: options.dry_run, removed: done, young, unread, foreign, bytes_freed })
    }

    async fn garbage(
        &self,
        sets: &[BackupSet],
        cancel: &Cancel,
    ) -> Result<(Vec<GcItem>, Vec<Uuid>), BackupError> {
        let catalog = self.catalog();
        let (mut found, mut unread) = (Vec::new(), Vec::new());
        let current: HashSet<&Prefix> = catalog::current(sets).iter().map(|set| &set.prefix).collect();
        let mut whole: HashSet<Uuid> = HashSet::new();
        // From the latest name on: what replaces a set is looked at before it.
        for set in sets.iter().rev() {
            cancel.check()?;
            let (name, backup) = (set.prefix.to_string(), set.prefix.backup());
            if !set.is_complete() {
                found.extend(item(GcKind::Incomplete, name, Some(backup), set.objects.clone()));
                continue;
            }
            if !current.contains(&set.prefix) {
                if whole.contains(&backup) {
                    found.extend(item(GcKind::Superseded, name, Some(backup), set.objects.clone()));
                }
                continue;
            }
            let manifest = match catalog.manifest(set).await {
                Err(e) if e.is_about_the_set() => {
                    unread.push(backup);
                    continue;
                }
                read => read?,
            };
            let named: HashSet<&str> = manifest.extents.iter().map(|extent| extent.key.as_str()).collect();
            let (surplus, rest): (Vec<_>, Vec<_>) = set.objects.iter().cloned().partition(|object| {
                set.prefix.owns_chunk(&object.key) && !named.contains(object.key.as_str())
            });
            if catalog::check_listing(&BackupSet { objects: rest, ..set.clone() }, &manifest).is_ok() {
                whole.insert(backup);
            }
            found.extend(item(GcKind::Surplus, name, Some(backup), surplus));
        }
        found.reverse();
        unread.reverse();
        Ok((found, unread))
    }

    /// Removes one find, unless somebody has gone on with it since it was listed: then `false`.
    async fn sweep(&self, item: &GcItem) -> Result<bool, BackupError> {
        if let Some(unfinished) = &item.unfinished {
            self.store.remove_unfinished(unfinished).await?;
            return Ok(true);
        }
        if item.kind == GcKind::Incomplete {
            let now = self.store.list(&item.name).await?;
            if now.iter().any(|object| object.modified > item.newest) {
                return Ok(false);
            }
        }
        // In the order of the names the manifest of a replaced set would be the last to go.
        let mut keys = item.keys.clone();
        keys.sort_by_key(|key| !key.ends_with("_metadata"));
        for key in keys {
            self.store.delete(&key).await?;
        }
        Ok(true)
    }
}

/// Objects by set, and what is none of ours.
fn sort(objects: Vec<ObjectInfo>, foreign: &mut Vec<String>) -> Vec<BackupSet> {
    let mut sets: BTreeMap<Prefix, Vec<ObjectInfo>> = BTreeMap::new();
    for object in objects {
        let prefix = Prefix::of_key(&object.key).map(|(prefix, _)| prefix);
        let ours = |prefix: &Prefix| {
            let key = object.key.as_str();
            prefix.owns_chunk(key) || key == prefix.hashes() || key == prefix.manifest()
        };
        match prefix.filter(ours) {
            Some(prefix) => sets.entry(prefix).or_default().push(object),
            None => foreign.push(object.key),
        }
    }
    sets.into_iter().map(|(prefix, objects)| BackupSet { prefix, objects }).collect()
}

/// Nothing for no objects.
fn item(kind: GcKind, name: String, backup_id: Option<Uuid>, found: Vec<ObjectInfo>) -> Option<GcItem> {
    let newest = found.iter().map(|object| object.modified).max()?;
    let (objects, bytes) = (found.len() as u64, found.iter().map(|object| object.size).sum());
    let keys = found.into_iter().map(|object| object.key).collect();
    Some(GcItem { kind, name, backup_id, objects, bytes: Some(bytes), newest, keys, unfinished: None })
}

fn unfinished(found: Unfinished) -> GcItem {
    GcItem {
        kind: GcKind::Unfinished,
        // A staged file does not tell what it was to become.
        name: if found.key.is_empty() { found.id.clone() } else { found.key.clone() },
        backup_id: Prefix::of_key(&found.key).map(|(prefix, _)| prefix.backup()),
        objects: 1,
        bytes: None,
        newest: found.begun,
        keys: Vec::new(),
        unfinished: Some(found),
    }
}
