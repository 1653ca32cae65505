//! Making a backup: full, or incremental on a parent by comparing hashes.

use super::catalog::Catalog;
use super::engine::Engine;
use super::error::{
    BackupError, BadRequestSnafu, LeftBehindSnafu, NoParentSnafu, OtherHashBlockSnafu, ShrunkSnafu,
    SourceLostSnafu,
};
use super::format::{
    Compression, DEFAULT_CHUNK_SIZE, DEFAULT_HASH_BLOCK, HashList, MAX_CHUNK_SIZE, MIN_HASH_BLOCK, Manifest,
    Prefix, ZoneName,
};
use super::upload::Upload;
use super::window::WindowWork;
use super::{Cancel, Progress, SnapshotSource, blocking};
use jiff::Timestamp;
use serde::Serialize;
use snafu::{IntoError, ensure};
use std::sync::Arc;
use std::time::Instant;
use uuid::Uuid;

/// On which backup an incremental one is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParentChoice {
    /// A full backup.
    None,
    /// The newest complete one of the same volume; a full one if there is none.
    Latest,
    /// This one; a full one if it is gone or damaged.
    Backup(Uuid),
}

/// How to make a backup.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Whose backup it is.
    pub volume: Uuid,
    /// Full or incremental.
    pub parent: ParentChoice,
    /// Of chunks that shrink by it.
    pub compression: Compression,
    /// A multiple of `hash_block`.
    pub chunk_size: u64,
    /// Bytes per hash: the grain of an incremental backup.
    pub hash_block: u64,
    /// Part of the objects' names.
    pub zone: ZoneName,
    /// For people.
    pub name: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// The volume's metadata, encoded.
    pub volume_meta: Option<String>,
}

impl CreateOptions {
    /// A full backup with Cinder's sizes.
    pub fn new(volume: Uuid) -> Self {
        CreateOptions {
            volume,
            parent: ParentChoice::None,
            compression: Compression::default(),
            chunk_size: DEFAULT_CHUNK_SIZE,
            hash_block: DEFAULT_HASH_BLOCK,
            zone: ZoneName::default(),
            name: None,
            description: None,
            volume_meta: None,
        }
    }

    fn check(&self, size: u64) -> Result<(), BackupError> {
        let bad = |reason: String| BadRequestSnafu { reason };
        let Self { chunk_size: chunk, hash_block: block, .. } = *self;
        ensure!(size > 0, bad("the volume has no bytes: there is nothing to back up".to_owned()));
        let reason = format!("a hash block has at least {MIN_HASH_BLOCK} bytes, not {block}");
        ensure!(block >= MIN_HASH_BLOCK, bad(reason));
        let reason = format!("the chunk size {chunk} is no multiple of the hash block size {block}");
        ensure!(chunk > 0 && chunk % block == 0, bad(reason));
        let reason = format!("a chunk has at most {MAX_CHUNK_SIZE} bytes, not {chunk}");
        ensure!(chunk <= MAX_CHUNK_SIZE, bad(reason));
        Ok(())
    }
}

/// What was done.
#[derive(Clone, Debug, Serialize)]
pub struct CreateReport {
    /// The new backup.
    pub backup_id: Uuid,
    /// What it is made on; absent for a full one.
    pub parent_id: Option<Uuid>,
    /// What its objects' names begin with.
    pub prefix: String,
    /// Chunks; the manifest and the hashes are not counted.
    pub objects: u64,
    /// The volume's size.
    pub bytes_total: u64,
    /// Read from the source.
    pub bytes_read: u64,
    /// Of the volume, stored in this backup's chunks.
    pub bytes_changed: u64,
    /// Put into the repository.
    pub bytes_uploaded: u64,
    /// From begin to end.
    pub seconds: f64,
    /// Why it is a full one although a parent was asked for.
    pub full_because: Option<String>,
}

struct Parent {
    id: Uuid,
    prefix: Prefix,
    hashes: HashList,
}

enum Basis {
    Full(Option<String>),
    On(Parent),
}

impl Engine {
    /// Backs up `source`. On failure, or when cancelled, nothing of it stays in the repository (B13).
    pub async fn create(
        &self,
        source: Arc<dyn SnapshotSource>,
        options: &CreateOptions,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<CreateReport, BackupError> {
        let started = Instant::now();
        let size = source.size();
        options.check(size)?;
        progress.set_total(size);
        self.store.ensure().await?;
        let catalog = Catalog::new(Arc::clone(&self.store));
        let (parent, full_because) = match find_parent(&catalog, options, size).await? {
            Basis::Full(reason) => (None, reason),
            Basis::On(parent) => (Some(parent), None),
        };
        let now = Timestamp::now();
        let stamp = now.strftime("%Y%m%d%H%M%S").to_string();
        let prefix = Prefix::new(options.volume, &stamp, &options.zone, Uuid::new_v4());
        let (parent_of, hashes) = match parent {
            None => (None, None),
            Some(parent) => (Some((parent.id, parent.prefix)), Some(parent.hashes)),
        };
        let held = Arc::clone(&source);
        let work =
            WindowWork::new(source, options.compression, options.chunk_size, options.hash_block, hashes);
        let mut upload = Upload::new(Arc::clone(&self.store), prefix.clone(), progress.clone());
        let created_at = now.strftime("%Y-%m-%d %H:%M:%S.%6f+00:00").to_string();
        let stored = async {
            let digests = upload.run(work, size, cancel).await?;
            let manifest = Manifest {
                prefix: prefix.clone(),
                parent: parent_of.as_ref().map(|(id, _)| *id),
                name: options.name.clone(),
                description: options.description.clone(),
                created_at,
                volume_meta: options.volume_meta.clone(),
                extents: upload.extents(),
            };
            let hashes = HashList { block: options.hash_block, digests };
            finish(&mut upload, hashes, manifest, parent_of.as_ref(), held.as_ref(), cancel).await
        };
        if let Err(error) = stored.await {
            return Err(match upload.remove().await {
                Ok(()) => error,
                Err(source) => LeftBehindSnafu { error, prefix: prefix.as_str() }.into_error(source),
            });
        }
        Ok(CreateReport {
            backup_id: prefix.backup(),
            parent_id: parent_of.map(|(id, _)| id),
            prefix: prefix.to_string(),
            objects: upload.extents().len() as u64,
            bytes_total: size,
            bytes_read: upload.bytes_read,
            bytes_changed: upload.bytes_changed,
            bytes_uploaded: upload.bytes_uploaded,
            seconds: started.elapsed().as_secs_f64(),
            full_because,
        })
    }
}

/// Stores the two files, the manifest last: with it the backup exists.
async fn finish(
    upload: &mut Upload,
    hashes: HashList,
    manifest: Manifest,
    parent: Option<&(Uuid, Prefix)>,
    source: &dyn SnapshotSource,
    cancel: &Cancel,
) -> Result<(), BackupError> {
    let (hashes, encoded) = blocking(move || {
        let (name, description) = (manifest.name.as_deref(), manifest.description.as_deref());
        let hashes = hashes.encode(&manifest.prefix, name, description, &manifest.created_at)?;
        Ok((hashes, manifest.encode()?))
    })
    .await?;
    upload.put_hashes(hashes.into()).await?;
    cancel.check()?;
    // Deleted while we worked: this backup could never be restored. Seen before it is one, it is never listed.
    check_parent(upload, parent).await?;
    ensure!(!source.is_lost(), SourceLostSnafu);
    upload.put_manifest(encoded.into()).await?;
    // And again: who deletes the parent looks for our manifest only after having removed its own.
    check_parent(upload, parent).await
}

async fn check_parent(upload: &Upload, parent: Option<&(Uuid, Prefix)>) -> Result<(), BackupError> {
    let Some((id, prefix)) = parent else { return Ok(()) };
    let there = upload.exists(&prefix.manifest()).await?;
    ensure!(there, NoParentSnafu { backup: upload.prefix().backup(), parent: *id });
    Ok(())
}

/// The parent, or why there is none (B7).
async fn find_parent(catalog: &Catalog, options: &CreateOptions, size: u64) -> Result<Basis, BackupError> {
    let id = match options.parent {
        ParentChoice::None => return Ok(Basis::Full(None)),
        ParentChoice::Backup(id) => id,
        ParentChoice::Latest => match catalog.latest(options.volume).await? {
            Some(id) => id,
            None => return Ok(Basis::Full(Some("the volume has no earlier backup".to_owned()))),
        },
    };
    let unusable = |e: BackupError| match e.is_about_the_set() {
        true => Ok(Basis::Full(Some(format!("parent {id} cannot be used: {e}")))),
        false => Err(e),
    };
    let chain = match catalog.chain(id).await {
        Ok(chain) => chain,
        Err(e) => return unusable(e),
    };
    let prefix = chain.newest().prefix.clone();
    let reason = format!("parent {id} is a backup of volume {}, not of {}", prefix.volume(), options.volume);
    ensure!(prefix.volume() == options.volume, BadRequestSnafu { reason });
    let hashes = match catalog.hashes(&prefix).await {
        Ok(hashes) => hashes,
        Err(e) => return unusable(e),
    };
    if !hashes.fits(chain.size()) {
        let reason = format!("parent {id} cannot be used: its hashes do not fit its chunks");
        return Ok(Basis::Full(Some(reason)));
    }
    let (theirs, ours) = (hashes.block, options.hash_block);
    ensure!(theirs == ours, OtherHashBlockSnafu { parent: id, theirs, ours });
    let then = chain.size();
    ensure!(size >= then, ShrunkSnafu { parent: id, theirs: then, ours: size });
    Ok(Basis::On(Parent { id, prefix, hashes }))
}
