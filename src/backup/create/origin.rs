//! Finds the stored backup whose objects the first backup of a clone, or of a restored volume, can take over.

use super::options::CreateOptions;
use super::parent::{Basis, Parent, check_sizes};
use crate::backup::catalog::{self, BackupSet, Catalog, Chain};
use crate::backup::error::NoSuchBackupSnafu;
use crate::backup::format::Manifest;
use crate::backup::hash_reader::HashReader;
use crate::backup::{BackupError, DataPoint, Origin, SnapshotSource, blocking};
use jiff::Timestamp;
use snafu::OptionExt;
use std::cmp::Reverse;
use std::sync::Arc;
use uuid::Uuid;

/// Manifests of one volume that are looked into: that of a large full backup has 50 MiB.
const MOST: usize = 50;

/// A backup whose data the volume was made from, or something near them.
pub(super) struct Found {
    /// As a parent would be; which it is not, for it is another volume's.
    pub parent: Parent,
    pub links: Vec<(BackupSet, Manifest)>,
    /// Why there is no parent.
    pub because: String,
}

struct Candidate {
    volume: Uuid,
    backup: Uuid,
    /// The volume's own state that holds what the backup holds.
    state: Option<DataPoint>,
}

/// The best one that can be used. `because`: why there is no parent.
pub(super) async fn find(
    catalog: &Catalog,
    options: &CreateOptions,
    source: &Arc<dyn SnapshotSource>,
    because: &str,
) -> Result<Basis, BackupError> {
    let asked = Arc::clone(source);
    let origins = blocking(move || Ok(asked.origins())).await?;
    let mut reason = because.to_owned();
    for candidate in candidates(catalog, origins).await? {
        let Candidate { volume, backup, state } = candidate;
        match open(catalog, options, source.size(), &candidate).await {
            Ok((mut parent, chain)) => {
                parent.point = state.or(parent.point);
                let found = Found { parent, links: chain.links, because: because.to_owned() };
                return Ok(Basis::Copied(Box::new(found)));
            }
            Err(e) if e.is_about_the_set() => {
                reason += &format!("; backup {backup} of its origin, volume {volume}, cannot be used: {e}");
            }
            Err(e) => return Err(e),
        }
    }
    Ok(Basis::Full(Some(reason)))
}

/// Backups that hold a state which the volume was made from; then, as a last resort, the newest of each volume.
async fn candidates(catalog: &Catalog, origins: Vec<Origin>) -> Result<Vec<Candidate>, BackupError> {
    let (mut exact, mut near) = (Vec::new(), Vec::new());
    for origin in origins {
        let (Origin::Volume { volume, .. } | Origin::Backup { volume, .. }) = origin;
        let all = catalog.sets(Some(volume)).await?;
        let mut sets = catalog::current(&all);
        sets.sort_by_key(|set| Reverse(&set.prefix));
        match origin {
            Origin::Backup { backup, state, .. } => {
                let there = sets.iter().any(|set| set.prefix.backup() == backup);
                exact.extend(there.then_some(Candidate { volume, backup, state }));
            }
            Origin::Volume { states, .. } => {
                let known = match states.is_empty() {
                    true => None,
                    false => of_states(catalog, &sets, &states).await?,
                };
                let candidate = |backup| Candidate { volume, backup, state: None };
                match known {
                    Some(backup) => exact.push(candidate(backup)),
                    None => near.extend(catalog.newest(&all).await?.map(|(backup, _)| candidate(backup))),
                }
            }
        }
    }
    exact.extend(near);
    Ok(exact)
}

async fn of_states(
    catalog: &Catalog,
    sets: &[&BackupSet],
    states: &[DataPoint],
) -> Result<Option<Uuid>, BackupError> {
    let mut best: Option<(usize, Option<Timestamp>, Uuid)> = None;
    for set in sets.iter().take(MOST) {
        let named = catalog::named_time(&set.prefix);
        // Names have whole seconds: of those made within one, the states tell which is the latest.
        if best.as_ref().is_some_and(|(at, found, _)| *at == 0 || *found != named) {
            break;
        }
        let manifest = match catalog.manifest(set).await {
            Ok(manifest) => manifest,
            Err(e) if e.is_about_the_set() => continue,
            Err(e) => return Err(e),
        };
        let point = manifest.volume_meta.as_deref().and_then(DataPoint::of_meta);
        let at = point.and_then(|point| states.iter().position(|state| *state == point));
        if let Some(at) = at.filter(|at| best.as_ref().is_none_or(|(best, ..)| at < best)) {
            best = Some((at, named, set.prefix.backup()));
        }
    }
    Ok(best.map(|(.., backup)| backup))
}

async fn open(
    catalog: &Catalog,
    options: &CreateOptions,
    size: u64,
    candidate: &Candidate,
) -> Result<(Parent, Chain), BackupError> {
    let Candidate { volume, backup, .. } = *candidate;
    let sets = catalog.sets(Some(volume)).await?;
    catalog::find(&sets, backup).context(NoSuchBackupSnafu { backup })?;
    let chain = catalog.chain_in(&sets, backup, None).await?;
    let parent = Parent::open(catalog, &chain).await?;
    check_sizes(&parent, options, size)?;
    Ok((parent, chain))
}

impl Parent {
    /// What is to be known of the newest backup of a chain.
    pub async fn open(catalog: &Catalog, chain: &Chain) -> Result<Parent, BackupError> {
        let newest = chain.newest();
        let prefix = newest.prefix.clone();
        let point = newest.volume_meta.as_deref().and_then(DataPoint::of_meta);
        let hashes = HashReader::open(catalog, &prefix).await?;
        Ok(Parent { id: prefix.backup(), size: chain.size(), prefix, point, hashes })
    }
}
