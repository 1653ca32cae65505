//! Finding and removing what belongs to no backup (K15).

mod find;
mod needed;

use super::Cancel;
use super::catalog::{self, BackupSet};
use super::engine::Engine;
use super::error::BackupError;
use super::format::{Manifest, Prefix};
use super::store::{self, StoreError, Unfinished};
use find::{claim, find_newest, incomplete, item, owner, sort, unfinished};
use jiff::{SignedDuration, Timestamp};
use needed::Needed;
use serde::Serialize;
use std::collections::HashSet;
use uuid::Uuid;

/// Clocks that differ by more than this are worth a warning.
const CLOCKS_AGREE: SignedDuration = SignedDuration::from_mins(5);

/// What is removed.
#[derive(Clone, Copy, Debug)]
pub struct GcOptions {
    /// Younger things stay: somebody may be writing them. By this machine's clock; the store's is asked for.
    pub before: Timestamp,
    /// Nothing is removed, and nothing written: the store's clock is not asked for either.
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
    /// An object that a command tried the store out with, and could not remove.
    Probe,
}

/// By which clock ages are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GcClock {
    /// That of the store, which also dates its objects.
    Store,
    /// That of this machine: in a dry run, where nothing is found, and where the store's cannot be had.
    Machine,
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
    /// When the newest of them was stored, or begun, by the store's clock. Of an incomplete set and of an upload for
    /// one: the newest of both.
    pub newest: Timestamp,
    #[serde(skip)]
    keys: Vec<String>,
    /// The set that somebody may still be writing.
    #[serde(skip)]
    written_under: Option<Prefix>,
    #[serde(skip)]
    unfinished: Option<Unfinished>,
}

/// What was found and done.
#[derive(Clone, Debug, Serialize)]
pub struct GcReport {
    /// Nothing was removed.
    pub dry_run: bool,
    /// What tells how old something is.
    pub clock: GcClock,
    /// Seconds that the store's clock is ahead of this machine's (negative: behind), where it was asked for.
    pub clock_ahead_seconds: Option<i64>,
    /// What people should look after.
    pub warnings: Vec<String>,
    /// Removed, or to be.
    pub removed: Vec<GcItem>,
    /// Left alone because it is too young, or somebody has just gone on with it.
    pub young: Vec<GcItem>,
    /// Sets without a manifest that stay, however old: a backup of that volume rests on one of them, or may.
    pub needed: Vec<GcItem>,
    /// Backups whose manifest cannot be read: what is surplus there is not known.
    pub unread: Vec<Uuid>,
    /// Objects and unfinished uploads whose names are none of ours. Never touched.
    pub foreign: Vec<String>,
    /// Bytes of what was removed, or is to be.
    pub bytes_freed: u64,
}

impl Engine {
    /// Looks through the whole repository. Whatever is a backup, and whatever is not ours, stays.
    pub async fn gc(&self, options: GcOptions, cancel: &Cancel) -> Result<GcReport, BackupError> {
        let mut foreign = Vec::new();
        let (sets, mut found) = sort(self.store.list("").await?, &mut foreign);
        let uploads = claim(self.store.unfinished().await?, &mut foreign);
        let mut report = GcReport::new(options.dry_run, foreign);
        let garbage = self.garbage(&sets, &mut report, cancel).await?;
        found.extend(garbage);
        found.extend(uploads.into_iter().map(unfinished));
        find_newest(&mut found, &sets);
        let before = match options.dry_run {
            true => options.before,
            false if found.is_empty() => options.before,
            false => self.by_the_stores_clock(options.before, &mut report).await,
        };
        let complete: HashSet<&Prefix> =
            sets.iter().filter(|set| set.is_complete()).map(|set| &set.prefix).collect();
        for item in found {
            cancel.check()?;
            let old = item.newest < before;
            if !old || (!options.dry_run && !self.sweep(&item, &complete, cancel).await?) {
                report.young.push(item);
                continue;
            }
            report.bytes_freed += item.bytes.unwrap_or(0);
            report.removed.push(item);
        }
        Ok(report)
    }

    /// The same moment, as the store's clock has it.
    async fn by_the_stores_clock(&self, before: Timestamp, report: &mut GcReport) -> Timestamp {
        let ahead = match store::ahead(self.store.as_ref()).await {
            Ok(ahead) => ahead,
            // Also a store that is full must be swept.
            Err(error) => {
                let warning = format!(
                    "the store's clock cannot be had, ages are by this machine's: check that it is right ({error})"
                );
                report.warnings.push(warning);
                return before;
            }
        };
        (report.clock, report.clock_ahead_seconds) = (GcClock::Store, Some(ahead.as_secs()));
        if ahead.abs() > CLOCKS_AGREE {
            let side = if ahead.is_negative() { "behind" } else { "ahead of" };
            report.warnings.push(format!(
                "the store's clock is {:#} {side} this machine's: ages are by the store's; set the wrong one right",
                SignedDuration::from_mins((ahead.abs().as_secs() + 30) / 60)
            ));
        }
        // Out of range: then nothing is old.
        before.saturating_add(ahead).unwrap_or(Timestamp::MIN)
    }

    async fn garbage(
        &self,
        sets: &[BackupSet],
        report: &mut GcReport,
        cancel: &Cancel,
    ) -> Result<Vec<GcItem>, BackupError> {
        let (mut found, mut begun, mut needed) = (Vec::new(), Vec::new(), Needed::default());
        let current: HashSet<&Prefix> = catalog::current(sets).iter().map(|set| &set.prefix).collect();
        let mut whole: HashSet<Uuid> = HashSet::new();
        // From the latest name on: what replaces a set is looked at before it.
        for set in sets.iter().rev() {
            cancel.check()?;
            let (name, backup) = (set.prefix.to_string(), set.prefix.backup());
            let is_current = current.contains(&set.prefix);
            if !set.is_complete() {
                begun.push(set);
                continue;
            }
            if !is_current && whole.contains(&backup) {
                found.extend(item(GcKind::Superseded, name, Some(backup), set.objects.clone()));
                continue;
            }
            let Some(manifest) = self.read_for_gc(set, is_current, report).await? else {
                needed.unread(set);
                continue;
            };
            needed.read(set, manifest.parent);
            if !is_current {
                continue;
            }
            let named: HashSet<&str> = manifest.extents.iter().map(|extent| extent.key.as_str()).collect();
            let (surplus, rest): (Vec<_>, Vec<_>) = set.objects.iter().cloned().partition(|object| {
                set.prefix.owns_chunk(&object.key) && !named.contains(object.key.as_str())
            });
            if catalog::check_listing(&BackupSet { prefix: set.prefix.clone(), objects: rest }, &manifest)
                .is_ok()
            {
                whole.insert(backup);
            }
            found.extend(item(GcKind::Surplus, name, Some(backup), surplus));
        }
        let (kept, gone): (Vec<_>, Vec<_>) = begun.into_iter().partition(|set| needed.keeps(set));
        report.needed.extend(kept.into_iter().rev().filter_map(incomplete));
        found.extend(gone.into_iter().filter_map(incomplete));
        found.reverse();
        report.unread.reverse();
        Ok(found)
    }

    /// Nothing for a manifest that cannot be read, which is told, and for one that was deleted since it was listed.
    async fn read_for_gc(
        &self,
        set: &BackupSet,
        is_current: bool,
        report: &mut GcReport,
    ) -> Result<Option<Manifest>, BackupError> {
        match self.catalog().manifest(set).await {
            Err(BackupError::Store { source: StoreError::Missing { .. } }) => Ok(None),
            Err(e) if e.is_about_the_set() => {
                report.unread.extend(is_current.then(|| set.prefix.backup()));
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    /// Whether somebody has gone on with it since it was listed; or a backup has come, or come back, that may be this
    /// set or rest on it.
    async fn is_in_use(&self, item: &GcItem, complete: &HashSet<&Prefix>) -> Result<bool, BackupError> {
        let Some(prefix) = &item.written_under else { return Ok(false) };
        let is_set = item.kind == GcKind::Incomplete;
        let under = if is_set { Prefix::of_volume(prefix.volume()) } else { prefix.to_string() };
        let now = self.store.list(&under).await?;
        Ok(now.iter().any(|object| {
            let Some(owner) = owner(&object.key) else { return false };
            let is_younger = owner == *prefix && object.modified > item.newest;
            is_younger || (is_set && object.key == owner.manifest() && !complete.contains(&owner))
        }))
    }

    /// Removes one find, unless it is in use by now: then `false`.
    async fn sweep(
        &self,
        item: &GcItem,
        complete: &HashSet<&Prefix>,
        cancel: &Cancel,
    ) -> Result<bool, BackupError> {
        if self.is_in_use(item, complete).await? {
            return Ok(false);
        }
        if let Some(unfinished) = &item.unfinished {
            self.store.remove_unfinished(unfinished).await?;
            return Ok(true);
        }
        // Of a replaced set the manifest goes first.
        let (manifest, others): (Vec<_>, Vec<_>) =
            item.keys.iter().cloned().partition(|key| key.ends_with("_metadata"));
        let store = self.store.as_ref();
        store::delete_all(store, manifest).await?;
        cancel.or(store::delete_all(store, others)).await?;
        Ok(true)
    }
}

impl GcReport {
    /// Nothing is done yet, and no clock asked.
    fn new(dry_run: bool, foreign: Vec<String>) -> GcReport {
        GcReport {
            dry_run,
            clock: GcClock::Machine,
            clock_ahead_seconds: None,
            warnings: Vec::new(),
            removed: Vec::new(),
            young: Vec::new(),
            needed: Vec::new(),
            unread: Vec::new(),
            foreign,
            bytes_freed: 0,
        }
    }
}
