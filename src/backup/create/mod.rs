//! Making a backup: full, or incremental on a parent by comparing hashes.

mod clean_up;
mod copies;
mod ground;
pub(super) mod hash_writer;
mod limit;
mod measure;
mod memory;
mod options;
mod origin;
mod pack;
mod parent;
mod piece;
mod pipeline;
mod plan;
mod resume;
mod upload;
mod window;

pub use options::{
    CHOOSE_HASH_BLOCK, CreateOptions, CreateReport, DEFAULT_CONCURRENCY, DEFAULT_MEMORY, DEFAULT_SPLIT,
    ParentChoice, Resume,
};

use super::catalog::{self, BackupSet, Catalog};
use super::engine::Engine;
use super::error::{BackupError, ChangedMeanwhileSnafu, HashesShortSnafu, NoParentSnafu, SourceLostSnafu};
use super::format::{ENTRY, HashFrame, Manifest, Prefix, ZeroText};
use super::store::{Exclusive, ObjectInfo};
use super::{Cancel, Progress, SnapshotSource, blocking, source};
use ground::{Ground, Of};
use hash_writer::HashWriter;
use jiff::Timestamp;
use memory::Memory;
use parent::Basis;
use piece::Pieces;
use pipeline::{Known, Pipeline};
use snafu::ensure;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use upload::Upload;
use uuid::Uuid;
use window::WindowWork;

/// One backup being made.
struct Attempt<'a> {
    engine: &'a Engine,
    source: &'a Arc<dyn SnapshotSource>,
    options: &'a CreateOptions,
    progress: &'a Progress,
    cancel: &'a Cancel,
    exclusive: Exclusive,
}

impl Engine {
    /// Backs up `source`. On failure, or when cancelled, nothing of it stays in the repository (B13), unless
    /// `options.resume` asks for it: then a failure leaves what was uploaded, and no manifest.
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
        cancel.or(self.store.ensure()).await?;
        // Before anything is stored that a store might not let be finished.
        let exclusive = cancel.or(self.store.exclusive()).await?;
        let catalog = Catalog::new(Arc::clone(&self.store));
        let mut basis = cancel.or(parent::find(&catalog, options, &source)).await?;
        let mut use_delta = Ok(());
        let attempt = Attempt { engine: self, source: &source, options, progress, cancel, exclusive };
        let mut is_again = false;
        loop {
            let made = attempt.make(&catalog, basis, use_delta, is_again).await;
            is_again = true;
            let error = match made {
                Ok(report) => return Ok(CreateReport { seconds: started.elapsed().as_secs_f64(), ..report }),
                Err(error) => error,
            };
            basis = match error {
                // Seen only on the way: begun again without what cannot be relied on.
                e @ BackupError::UnusableParent { .. } => {
                    use_delta = Ok(());
                    Basis::Full(Some(e.to_string()))
                }
                e @ BackupError::WrongDelta { .. } => {
                    use_delta = Err(e.to_string());
                    cancel.or(parent::find(&catalog, options, &source)).await?
                }
                BackupError::NoParent { parent, .. } => {
                    use_delta = Ok(());
                    Basis::Full(Some(format!("parent {parent} was deleted meanwhile")))
                }
                e @ BackupError::NotCopied { .. } => {
                    use_delta = Ok(());
                    Basis::Full(Some(format!("the volume has no earlier backup, and {e}")))
                }
                e => return Err(e),
            };
            // What a failure has read stays counted; what is begun again is not counted twice.
            progress.restart();
        }
    }
}

impl Attempt<'_> {
    async fn make(
        &self,
        catalog: &Catalog,
        basis: Basis,
        use_delta: Result<(), String>,
        is_again: bool,
    ) -> Result<CreateReport, BackupError> {
        let (options, size) = (self.options, self.source.size());
        let ground = self.ground(catalog, basis, use_delta).await?;
        let of = ground.of();
        let Ground { known, copies, wanted, block, bytes_read, full_because, read_all_because } = ground;
        let parent_id = of.parent.as_ref().map(|(id, _)| *id);
        let adopts = copies.is_none();
        let begun = resume::begin(catalog, options, self.source, parent_id, block, is_again, adopts);
        let begun = self.cancel.or(begun).await?;
        let has_older = begun.has_older;
        let store = Arc::clone(&self.engine.store);
        let progress = self.progress.clone();
        let created_at = begun.created_at.clone();
        let work = Arc::new(self.work(block));
        let largest = size.min(options.chunk_size);
        let text = if parent_id.is_some() { largest.div_ceil(block) as usize * ENTRY } else { 0 };
        let window = work.cost(std::slice::from_ref(&(0..largest)), text);
        let memory = Memory::new(options.memory, window)?;
        let mut upload = Upload::new(store, Arc::clone(&memory), begun, self.exclusive, options, progress);
        upload.bytes_read = bytes_read;
        let known = known.map(|known| Known {
            blocks: known.size.div_ceil(block),
            reader: known.hashes,
            backup: known.id,
            copies,
        });
        let pipeline = Pipeline {
            work,
            memory: Arc::clone(&memory),
            wanted,
            chunk: options.chunk_size,
            size,
            progress: self.progress.clone(),
            spots: self.spots(size.div_ceil(block)),
        };
        let stored = self.store(&mut upload, pipeline, known, &of, &created_at).await;
        let prefix = upload.prefix().clone();
        if let Err(error) = stored {
            return Err(self.clean_up(error, &mut upload, adopts).await);
        }
        if has_older {
            self.remove_older(&prefix).await;
        }
        Ok(CreateReport {
            backup_id: prefix.backup(),
            parent_id,
            prefix: prefix.to_string(),
            objects: upload.objects(),
            bytes_total: size,
            hash_block: block,
            bytes_read: upload.bytes_read,
            bytes_changed: upload.bytes_changed,
            bytes_joined: upload.bytes_joined,
            bytes_uploaded: upload.bytes_uploaded,
            copied_from: of.copied.map(|(id, _)| id),
            objects_copied: upload.objects_copied(),
            bytes_copied: upload.bytes_copied,
            bytes_resumed: upload.bytes_resumed,
            bytes_buffered: memory.peak(),
            seconds: 0.0,
            full_because,
            read_all_because,
        })
    }

    fn work(&self, block: u64) -> WindowWork {
        WindowWork {
            source: Arc::clone(self.source),
            block,
            join: self.options.join,
            zeros: ZeroText::new(block, (self.options.chunk_size / block) as usize),
            pieces: Pieces::new(self.options.compression, self.options.chunk_size, self.options.part(block)),
            cancel: self.cancel.clone(),
            is_over: AtomicBool::new(false),
        }
    }

    /// Blocks at random: the ids' generator is at hand, and good enough.
    fn spots(&self, blocks: u64) -> Vec<u64> {
        let random = |_| (Uuid::new_v4().as_u128() % u128::from(blocks)) as u64;
        let mut spots: Vec<u64> = (0..self.options.spot_checks).map(random).collect();
        spots.sort_unstable();
        spots
    }

    /// Chunks, then the two files, the manifest last: with it the backup exists.
    async fn store(
        &self,
        upload: &mut Upload,
        pipeline: Pipeline,
        known: Option<Known>,
        of: &Of,
        created_at: &str,
    ) -> Result<(), BackupError> {
        let (prefix, options, block) = (upload.prefix().clone(), self.options, pipeline.work.block);
        let (name, description) = (options.name.as_deref(), options.description.as_deref());
        let frame = HashFrame::new(&prefix, block, name, description, created_at)?;
        let memory = Arc::clone(&pipeline.memory);
        let store = self.engine.store.as_ref();
        let mut hashes = self.cancel.or(HashWriter::begin(store, &prefix.hashes(), frame)).await?;
        let blocks = pipeline.size.div_ceil(block);
        let done = pipeline.run(known, upload, &mut hashes).await.and_then(|()| self.cancel.check());
        if let Err(error) = done {
            // Nothing of it has a name yet.
            if let Err(e) = self.cancel.or_soon(hashes.abort()).await {
                tracing::warn!(error = %e, "parts of the hash file of {prefix} stay until they are cleared away");
            }
            return Err(error);
        }
        memory.shrink();
        let (written, reason) = (hashes.entries(), format!("{} hashes of {blocks}", hashes.entries()));
        ensure!(written == blocks, HashesShortSnafu { reason });
        let finished = self.cancel.or_soon(hashes.finish()).await;
        upload.bytes_uploaded += finished.map_err(|e| upload::instead_of_taken(upload.prefix(), e))?;
        self.cancel.or_soon(upload.remove_surplus()).await?;
        let manifest = Manifest {
            prefix,
            parent: of.parent.as_ref().map(|(id, _)| *id),
            name: options.name.clone(),
            description: options.description.clone(),
            created_at: created_at.to_owned(),
            volume_meta: self.volume_meta(of),
            extents: upload.take_extents(),
        };
        let listed = self.cancel.or(upload.listed()).await?;
        upload.check_copies(&manifest.extents, &listed)?;
        let (encoded, manifest) = blocking(move || Ok((manifest.encode()?, manifest))).await?;
        check_stored(listed, &manifest, false)?;
        self.cancel.check()?;
        // Deleted while we worked: this backup could never be restored. Seen before it is one, it is never listed.
        self.cancel.or(self.check_parent(upload, of.parent.as_ref())).await?;
        if of.copied.is_none() {
            self.cancel.or(resume::check_alone(self.engine, self.options, upload.prefix())).await?;
        }
        ensure!(!self.source.is_lost(), SourceLostSnafu);
        // Not to be cut: a manifest that lands after the chunks were removed would be a damaged backup.
        upload.put_manifest(encoded.into()).await?;
        // And again: who deletes the parent looks for our manifest only after having removed its own; and who clears
        // away what looks like an orphan leaves a set alone once it has its manifest.
        self.check_parent(upload, of.parent.as_ref()).await?;
        check_stored(upload.listed().await?, &manifest, true)
    }

    /// A parent that was deleted meanwhile. One that was made whole without its own parent has another prefix, and is
    /// the same backup.
    async fn check_parent(
        &self,
        upload: &Upload,
        parent: Option<&(Uuid, Prefix)>,
    ) -> Result<(), BackupError> {
        let Some((id, prefix)) = parent else { return Ok(()) };
        if upload.exists(&prefix.manifest()).await? {
            return Ok(());
        }
        let sets = self.engine.catalog().sets(Some(prefix.volume())).await?;
        let there = sets.iter().any(|set| set.prefix.backup() == *id && set.is_complete());
        ensure!(there, NoParentSnafu { backup: upload.prefix().backup(), parent: *id });
        Ok(())
    }

    /// The volume's metadata, with the point that the next backup can ask the changes since, and with what objects were
    /// copied from.
    fn volume_meta(&self, of: &Of) -> Option<String> {
        let meta = self.options.volume_meta.as_ref()?;
        let meta = self.source.point().map_or_else(|| meta.clone(), |point| point.note_in(meta));
        Some(match &of.copied {
            Some((backup, prefix)) => source::note_copied(&meta, prefix.volume(), *backup),
            None => meta,
        })
    }
}

/// Every object of the manifest is in the store, and nothing else of ours: what was removed behind our back while we
/// worked is seen before the backup is said to be made.
fn check_stored(mut listed: BackupSet, manifest: &Manifest, has_manifest: bool) -> Result<(), BackupError> {
    if !has_manifest {
        let key = listed.prefix.manifest();
        listed.objects.push(ObjectInfo { key, size: 0, modified: Timestamp::UNIX_EPOCH });
    }
    let backup = listed.prefix.backup();
    catalog::check_listing(&listed, manifest)
        .map_err(|error| ChangedMeanwhileSnafu { backup, error: error.to_string() }.build())
}

/// A time as Python prints it.
fn python_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S.%6f+00:00").to_string()
}
