//! How one backup is made: into which repository, under which id, on which parent.

use super::failure::Failure;
use super::source::claim_meta;
use super::status::StatusWriter;
use crate::backup::catalog::BackupSet;
use crate::backup::format::{DEFAULT_CHUNK_SIZE, ZoneName};
use crate::backup::{
    BackupError, CHOOSE_HASH_BLOCK, CreateOptions, DEFAULT_CONCURRENCY, ParentChoice, Resume, snapshot_meta,
    volume_meta,
};
use crate::kube::context::Context;
use crate::kube::names;
use crate::kube::repository::{self, Opened};
use crate::volume::Pinned;
use ::kube::ResourceExt;
use uuid::Uuid;

/// How many backups a repository takes at a time unless it says otherwise.
const MAX_BACKUPS: u32 = 4;

/// What is to be done.
pub(super) struct Plan {
    pub opened: Opened,
    pub options: CreateOptions,
    pub id: Uuid,
    /// It is in the repository already: an earlier process came as far, and could not say so.
    pub is_done: bool,
}

/// The repository of a backup, if its namespace may use it.
pub(super) async fn open(context: &Context, writer: &StatusWriter) -> Result<Opened, Failure> {
    let namespace = writer.object.namespace().unwrap_or_default();
    let name = &writer.object.spec.repository;
    Ok(repository::open(&context.client, &context.settings.namespace, name, Some(&namespace)).await?)
}

/// How many backups it takes at a time.
pub(super) fn limit(opened: &Opened) -> usize {
    opened.object.spec.max_backups.unwrap_or(MAX_BACKUPS).max(1) as usize
}

/// Plans the next try. `full` makes it a full one whatever the object says.
pub(super) async fn plan(
    context: &Context,
    writer: &StatusWriter,
    opened: Opened,
    pinned: &Pinned,
    full: bool,
) -> Result<Plan, Failure> {
    let volume = pinned.volume.handle.volume.uuid();
    opened.engine.ensure().await?;
    let sets = opened.engine.catalog().sets(Some(volume)).await?;
    let is_complete = |id: Uuid| sets.iter().any(|set| set.prefix.backup() == id && set.is_complete());
    let recorded = writer.status.backup_id;
    let mut options = options(context, &opened, volume);
    if let Some(id) = recorded.filter(|id| is_complete(*id)) {
        return Ok(Plan { opened, options, id, is_done: true });
    }
    let begun = recorded.filter(|id| sets.iter().any(|set| set.prefix.backup() == *id));
    let parent = match (full, begun, writer.status.parent_id) {
        (true, ..) => None,
        // What was begun is gone on with, on what it was begun on.
        (_, Some(_), None) => None,
        (_, Some(_), Some(parent)) if is_complete(parent) => Some(parent),
        _ => choose(&opened, writer, volume, &sets).await?,
    };
    let uid = writer.object.metadata.uid.as_deref().unwrap_or_default();
    let CreateOptions { compression, chunk_size, hash_block, .. } = options;
    let id = names::backup_id(&format!("{uid} {parent:?} {compression} {chunk_size} {hash_block}"));
    // Begun with other settings: nobody goes on with it.
    if let Some(old) = begun.filter(|old| *old != id) {
        match opened.engine.delete_of(Some(volume), old).await {
            Ok(_) | Err(BackupError::NoSuchBackup { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let looked = !full && matches!(writer.object.spec.parent.as_deref(), None | Some("latest"));
    options.parent = match parent {
        Some(parent) => ParentChoice::Backup(parent),
        None if looked => ParentChoice::Origin,
        None => ParentChoice::None,
    };
    if parent.is_some() {
        // The parent's.
        options.hash_block = CHOOSE_HASH_BLOCK;
    }
    options.resume = Resume::As(id);
    options.name = Some(writer.object.name_any());
    let mut extra = snapshot_meta(pinned);
    extra.extend(claim_meta(context, writer).await?);
    let size = pinned.size;
    let meta = volume_meta(volume, &pinned.volume.name, size, &ZoneName::default(), extra);
    options.volume_meta = Some(meta.encode());
    Ok(Plan { opened, options, id, is_done: false })
}

/// The parent that the object asks for: by itself the newest complete one of the volume.
async fn choose(
    opened: &Opened,
    writer: &StatusWriter,
    volume: Uuid,
    sets: &[BackupSet],
) -> Result<Option<Uuid>, Failure> {
    match writer.object.spec.parent.as_deref() {
        Some("none") => Ok(None),
        None | Some("latest") => Ok(opened.engine.catalog().latest(volume).await?),
        Some(text) => {
            let id: Uuid = text.parse().map_err(|_| {
                Failure::stays("BadParent", format!("spec.parent {text:?} is neither latest, none nor an id"))
            })?;
            let there = sets.iter().any(|set| set.prefix.backup() == id && set.is_complete());
            there.then_some(Some(id)).ok_or_else(|| {
                let message =
                    format!("spec.parent {id} is no complete backup of this volume in the repository");
                Failure::stays("BadParent", message)
            })
        }
    }
}

fn options(context: &Context, opened: &Opened, volume: Uuid) -> CreateOptions {
    let spec = &opened.object.spec;
    CreateOptions {
        compression: spec.compression.into(),
        chunk_size: spec.chunk_size.map_or(DEFAULT_CHUNK_SIZE, |size| size.0),
        hash_block: spec.hash_block_size.map_or(CHOOSE_HASH_BLOCK, |size| size.0),
        memory: context.settings.memory,
        concurrency: spec.concurrency.map_or(DEFAULT_CONCURRENCY, |number| number as usize),
        limit_rate: spec.bandwidth.map(|rate| rate.0),
        ..CreateOptions::new(volume)
    }
}
