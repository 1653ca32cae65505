//! What a backup is made on, and what has to be read for it.

use super::options::{CHOOSE_HASH_BLOCK, CreateOptions, ParentChoice};
use super::origin::{self, Found};
use super::plan::Wanted;
use crate::backup::catalog::{self, Catalog, Chain};
use crate::backup::error::{BadRequestSnafu, OtherHashBlockSnafu, ShrunkSnafu};
use crate::backup::format::Prefix;
use crate::backup::hash_reader::HashReader;
use crate::backup::{BackupError, Changed, DataPoint, SnapshotSource, blocking};
use snafu::ensure;
use std::sync::Arc;
use uuid::Uuid;

/// A backup that another one is made on.
pub(super) struct Parent {
    pub id: Uuid,
    pub prefix: Prefix,
    /// The volume's size then.
    pub size: u64,
    /// Which point of the volume's life it is of, if it says so.
    pub point: Option<DataPoint>,
    pub hashes: HashReader,
}

/// The parent, or why there is none (B7).
pub(super) enum Basis {
    Full(Option<String>),
    On(Box<Parent>),
    /// A full one, made of what the store has of the volume's origin.
    Copied(Box<Found>),
}

/// Finds the parent.
pub(super) async fn find(
    catalog: &Catalog,
    options: &CreateOptions,
    source: &Arc<dyn SnapshotSource>,
) -> Result<Basis, BackupError> {
    let full = |reason: String| Ok(Basis::Full(Some(reason)));
    if options.parent == ParentChoice::None {
        return Ok(Basis::Full(None));
    }
    let none_earlier = "the volume has no earlier backup";
    if options.parent == ParentChoice::Origin {
        return origin::find(catalog, options, source, none_earlier).await;
    }
    let sets = catalog.sets(Some(options.volume)).await?;
    let (id, manifest) = match options.parent {
        ParentChoice::Backup(id) => (id, None),
        _ => match catalog.newest(&sets).await? {
            Some(newest) => newest,
            None => return origin::find(catalog, options, source, none_earlier).await,
        },
    };
    let unusable = |e: BackupError| match e.is_about_the_set() {
        true => full(format!("parent {id} cannot be used: {e}")),
        false => Err(e),
    };
    let chain = match catalog::find(&sets, id) {
        Some(_) => match catalog.chain_in(&sets, id, manifest).await {
            // It may be there, as another volume's: the error tells.
            Err(BackupError::NoParent { .. }) => catalog.chain(id).await,
            chain => chain,
        },
        // Of another volume, or of none.
        None => catalog.chain(id).await,
    };
    let chain = match chain {
        Ok(chain) => chain,
        Err(e) => return unusable(e),
    };
    let parent = match Parent::open(catalog, &chain).await {
        Ok(parent) => parent,
        Err(e) => return unusable(e),
    };
    if parent.prefix.volume() != options.volume {
        return of_another_volume(parent, chain, options, source).await;
    }
    check_sizes(&parent, options, source.size())?;
    Ok(Basis::On(Box::new(parent)))
}

pub(super) fn check_sizes(parent: &Parent, options: &CreateOptions, size: u64) -> Result<(), BackupError> {
    let (theirs, ours) = (parent.hashes.block(), options.hash_block);
    let same = theirs == ours || ours == CHOOSE_HASH_BLOCK;
    ensure!(same, OtherHashBlockSnafu { parent: parent.id, theirs, ours });
    let chunk = options.chunk_size;
    let reason = format!(
        "the chunk size {chunk} is no multiple of {theirs}, the hash block size of parent {}: \
         give another --chunk-size, or --parent none for a full backup",
        parent.id
    );
    ensure!(chunk.is_multiple_of(theirs), BadRequestSnafu { reason });
    let then = parent.size;
    ensure!(size >= then, ShrunkSnafu { parent: parent.id, theirs: then, ours: size });
    Ok(())
}

/// A clone may know a backup of another volume as its origin. Cinder's format has no chain from one volume to another, so
/// its first backup is a full one; but the store has most of it.
async fn of_another_volume(
    parent: Parent,
    chain: Chain,
    options: &CreateOptions,
    source: &Arc<dyn SnapshotSource>,
) -> Result<Basis, BackupError> {
    let known = match parent.point {
        Some(point) => matches!(changed_since(source, point).await?, Changed::Only(_)),
        None => false,
    };
    let (id, theirs) = (parent.id, parent.prefix.volume());
    let reason = format!("parent {id} is a backup of volume {theirs}, not of {}", options.volume);
    ensure!(known, BadRequestSnafu { reason });
    let because = format!("{reason}: the format chains the backups of one volume only");
    match check_sizes(&parent, options, source.size()) {
        Ok(()) => Ok(Basis::Copied(Box::new(Found { parent, links: chain.links, because }))),
        Err(e) => Ok(Basis::Full(Some(format!("{because}; and {e}")))),
    }
}

async fn changed_since(source: &Arc<dyn SnapshotSource>, point: DataPoint) -> Result<Changed, BackupError> {
    let source = Arc::clone(source);
    blocking(move || Ok(source.changed_since(&point)?)).await
}

/// What has to be read for a backup on `parent`; and if that is everything, why.
pub(super) async fn wanted(
    source: &Arc<dyn SnapshotSource>,
    parent: &Parent,
    options: &CreateOptions,
) -> Result<(Wanted, Option<String>), BackupError> {
    let size = source.size();
    let all = |reason: String| Ok((Wanted::all(size), Some(reason)));
    let Some(point) = parent.point else {
        return all(format!("parent {} does not say of which snapshot it is", parent.id));
    };
    let mut changed = match changed_since(source, point).await {
        Ok(Changed::Only(changed)) => changed,
        Ok(Changed::Unknown(reason)) => return all(reason),
        Err(e) => return all(format!("what changed since {} cannot be told: {e}", point.snapshot)),
    };
    // Past the parent's end there is nothing to compare with, and its last block may have been a short one.
    let tail = parent.size / parent.hashes.block() * parent.hashes.block();
    if size > parent.size {
        changed.retain(|range| range.start < tail);
        if let Some(last) = changed.last_mut() {
            last.end = last.end.min(tail);
        }
        changed.push(tail..size);
    }
    match Wanted::of(changed, parent.hashes.block(), options.join, size) {
        Ok(wanted) => Ok((wanted, None)),
        Err(reason) => all(reason),
    }
}
