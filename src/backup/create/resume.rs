//! Going on with an attempt that was broken off. Nothing is believed of it but names: each object is compared,
//! byte by byte, with what would be put in its place, and what does not belong to the new manifest is removed.
//!
//! A backup whose objects are copied begins anew, and removes what was left when it is complete.
//!
//! With `Resume::Auto` a backup's id follows from the snapshot, the parent and the settings: two processes that
//! find the same id would upload the same bytes.

use super::options::{CreateOptions, Resume};
use super::python_time;
use crate::backup::catalog::{BackupSet, Catalog};
use crate::backup::engine::Engine;
use crate::backup::error::{AlreadyCompleteSnafu, BadRequestSnafu, MadeTwiceSnafu, NoSuchBackupSnafu};
use crate::backup::format::Prefix;
use crate::backup::rebase::next_prefix;
use crate::backup::{BackupError, SnapshotSource};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use snafu::{OptionExt, ensure};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// Of ids that follow from what is backed up.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f0c_1d5a_5f0e_4b52_9d59_3f8f_0b1c_77a4);

/// Where a backup's objects go.
pub(super) struct Begun {
    pub prefix: Prefix,
    /// As the manifest says it.
    pub created_at: String,
    /// What is there already: name and bytes.
    pub earlier: BTreeMap<String, u64>,
    /// An earlier attempt had this prefix.
    pub is_adopted: bool,
    /// Earlier attempts had others.
    pub has_older: bool,
}

/// Chooses the backup's id, or finds the set to go on with.
pub(super) async fn begin(
    catalog: &Catalog,
    options: &CreateOptions,
    source: &Arc<dyn SnapshotSource>,
    parent: Option<Uuid>,
    block: u64,
    is_again: bool,
    adopts: bool,
) -> Result<Begun, BackupError> {
    let wanted = match options.resume {
        Resume::No => return Ok(fresh(options, Uuid::new_v4())),
        Resume::Backup(id) => id,
        Resume::As(id) => {
            let sets = catalog.sets(Some(options.volume)).await?;
            return match sets.iter().find(|set| set.prefix.backup() == id) {
                Some(set) if adopts => adopt(catalog, set).await,
                None if adopts => Ok(fresh(options, id)),
                _ => anew(options, &sets, id),
            };
        }
        Resume::Auto => {
            let sets = catalog.sets(Some(options.volume)).await?;
            let reason = "only a snapshot can be resumed by itself: what an image held then is not known; \
                          name the backup with --resume ID";
            let point = source.point().context(BadRequestSnafu { reason })?;
            let what = format!(
                "{} {} {} {} {parent:?} {} {} {} {block} {}",
                options.volume,
                point.incarnation,
                point.snapshot,
                source.size(),
                options.compression,
                options.chunk_size,
                options.split,
                options.join
            );
            // The same snapshot may be backed up twice on purpose: the next id, then.
            let ids = (0u64..).map(|n| Uuid::new_v5(&NAMESPACE, format!("{what} {n}").as_bytes()));
            let is_complete = |id: &Uuid| sets.iter().any(|s| s.prefix.backup() == *id && s.is_complete());
            let free = ids.into_iter().find(|id| !is_complete(id));
            let id = free.context(BadRequestSnafu { reason: "every id is taken" })?;
            return match sets.iter().find(|set| set.prefix.backup() == id) {
                Some(set) if adopts => adopt(catalog, set).await,
                None if adopts => Ok(fresh(options, id)),
                _ => anew(options, &sets, id),
            };
        }
    };
    let sets = catalog.sets(Some(options.volume)).await?;
    match sets.iter().find(|set| set.prefix.backup() == wanted) {
        Some(set) if adopts => adopt(catalog, set).await,
        Some(_) => anew(options, &sets, wanted),
        // Begun anew by ourselves, and nothing is there any more.
        None if is_again => Ok(fresh(options, wanted)),
        None => NoSuchBackupSnafu { backup: wanted }.fail(),
    }
}

fn fresh(options: &CreateOptions, id: Uuid) -> Begun {
    let now = Timestamp::now();
    let stamp = now.strftime("%Y%m%d%H%M%S").to_string();
    let prefix = Prefix::new(options.volume, &stamp, &options.zone, id);
    Begun {
        prefix,
        created_at: python_time(now),
        earlier: BTreeMap::new(),
        is_adopted: false,
        has_older: false,
    }
}

/// Which objects are copied depends on what is known of the changes, so that objects of one name may be others in each attempt:
/// none goes on with another's, and each has names of its own. That costs little: what is uploaded is small.
fn anew(options: &CreateOptions, sets: &[BackupSet], id: Uuid) -> Result<Begun, BackupError> {
    let older = || sets.iter().filter(|set| set.prefix.backup() == id);
    ensure!(!older().any(BackupSet::is_complete), AlreadyCompleteSnafu { backup: id });
    let fresh = fresh(options, id);
    let latest = older().map(|set| &set.prefix).chain([&fresh.prefix]).max().unwrap_or(&fresh.prefix);
    Ok(Begun { prefix: next_prefix(latest), has_older: older().next().is_some(), ..fresh })
}

async fn adopt(catalog: &Catalog, set: &BackupSet) -> Result<Begun, BackupError> {
    let prefix = set.prefix.clone();
    ensure!(!set.is_complete(), AlreadyCompleteSnafu { backup: prefix.backup() });
    let stamp = prefix.as_str().split('/').nth(1).unwrap_or_default();
    let time = DateTime::strptime("%Y%m%d%H%M%S", stamp).and_then(|time| time.to_zoned(TimeZone::UTC));
    let time = time.map_or_else(|_| Timestamp::now(), |zoned| zoned.timestamp());
    // Made in one go, and never over one that is there.
    let hashes = prefix.hashes();
    catalog.store().delete(&hashes).await?;
    let earlier = set.objects.iter().filter(|object| object.key != hashes);
    let earlier = earlier.map(|object| (object.key.clone(), object.size)).collect();
    Ok(Begun { prefix, created_at: python_time(time), earlier, is_adopted: true, has_older: false })
}

/// Two processes that began the same backup at the same time have two prefixes: one of them goes on.
pub(super) async fn check_alone(
    engine: &Engine,
    options: &CreateOptions,
    ours: &Prefix,
) -> Result<(), BackupError> {
    if !matches!(options.resume, Resume::Auto | Resume::As(_)) {
        return Ok(());
    }
    let sets = engine.catalog().sets(Some(options.volume)).await?;
    let other = sets.iter().find(|set| {
        let is_other = set.prefix.backup() == ours.backup() && set.prefix != *ours;
        is_other && (set.is_complete() || set.prefix < *ours)
    });
    match other {
        None => Ok(()),
        Some(set) => MadeTwiceSnafu { prefix: set.prefix.as_str() }.fail(),
    }
}
