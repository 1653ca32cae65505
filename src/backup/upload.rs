//! The pipeline of a backup: windows are read, hashed and compressed side by side, numbered in
//! order, and uploaded while the next ones are worked on. A permit per window, given back when its
//! last object is stored, bounds the memory whatever the size of the volume.

use super::format::{Digest, Extent, Prefix};
use super::store::{Store, StoreError};
use super::window::{Piece, WindowWork};
use super::{BackupError, Cancel, Progress, blocking};
use bytes::Bytes;
use futures::{StreamExt, stream};
use snafu::ResultExt;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

/// Chunks in memory, raw and compressed, stay below this; two windows are always allowed.
const MEMORY: u64 = 512 << 20;
/// Requests at a time: enough to hide a round trip to the store, few enough for a small server.
const UPLOADS: usize = 4;
/// Windows compressed at a time, if there are as many cores.
const MAX_WORKERS: usize = 4;

/// A backup on its way into the store.
pub(super) struct Upload {
    store: Arc<dyn Store>,
    prefix: Prefix,
    progress: Progress,
    extents: Vec<Extent>,
    tasks: JoinSet<Result<(), StoreError>>,
    pub bytes_read: u64,
    pub bytes_changed: u64,
    pub bytes_uploaded: u64,
}

impl Upload {
    pub fn new(store: Arc<dyn Store>, prefix: Prefix, progress: Progress) -> Self {
        let (extents, tasks) = (Vec::new(), JoinSet::new());
        Upload { store, prefix, progress, extents, tasks, bytes_read: 0, bytes_changed: 0, bytes_uploaded: 0 }
    }

    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// What was uploaded, in the order of the volume.
    pub fn extents(&self) -> Vec<Extent> {
        self.extents.clone()
    }

    /// Takes the whole volume through the pipeline; answers the hash of every block.
    pub async fn run(
        &mut self,
        work: WindowWork,
        size: u64,
        cancel: &Cancel,
    ) -> Result<Vec<Digest>, BackupError> {
        let done = self.pump(Arc::new(work), size, cancel).await;
        // Also after a failure: what is still on its way must have landed before it can be removed.
        let drained = self.drain().await;
        let digests = done?;
        drained?;
        Ok(digests)
    }

    async fn pump(
        &mut self,
        work: Arc<WindowWork>,
        size: u64,
        cancel: &Cancel,
    ) -> Result<Vec<Digest>, BackupError> {
        let workers = std::thread::available_parallelism().map_or(2, usize::from).min(MAX_WORKERS);
        let fitting = (MEMORY / (2 * work.chunk_size)).clamp(2, (workers + UPLOADS) as u64);
        let permits = Arc::new(Semaphore::new(fitting as usize));
        let chunk = work.chunk_size;
        let windows = stream::iter((0..size).step_by(chunk as usize)).then(|start| {
            // Taken one after the other, so that a later window never keeps an earlier one waiting.
            let permits = Arc::clone(&permits);
            async move { (start..size.min(start + chunk), permits.acquire_owned().await) }
        });
        let results = windows.map(|(range, permit): (Range<u64>, _)| {
            let work = Arc::clone(&work);
            async move {
                cancel.check()?;
                let bytes = range.end - range.start;
                let result = blocking(move || work.run(range)).await?;
                Ok::<_, BackupError>((result, bytes, permit))
            }
        });
        let mut results = std::pin::pin!(results.buffered(workers));
        let mut digests = Vec::with_capacity(size.div_ceil(work.block) as usize);
        while let Some(next) = results.next().await {
            let (result, bytes, permit) = next?;
            // The semaphore lives until the stream ends and is never closed.
            let permit = permit.ok().map(Arc::new);
            self.bytes_read += result.bytes_read;
            digests.extend(result.digests);
            for piece in result.pieces {
                self.send(piece, permit.clone(), cancel).await?;
            }
            self.progress.add_done(bytes);
        }
        Ok(digests)
    }

    async fn send(
        &mut self,
        piece: Piece,
        permit: Option<Arc<OwnedSemaphorePermit>>,
        cancel: &Cancel,
    ) -> Result<(), BackupError> {
        cancel.check()?;
        while self.tasks.len() >= UPLOADS {
            self.join_one().await?;
        }
        let key = self.prefix.chunk(self.extents.len() as u64 + 1);
        let Piece { offset, length, compression, md5, body } = piece;
        self.bytes_changed += length;
        self.bytes_uploaded += body.len() as u64;
        self.extents.push(Extent { key: key.clone(), offset, length, compression, md5 });
        let (store, progress) = (Arc::clone(&self.store), self.progress.clone());
        self.tasks.spawn(async move {
            let bytes = body.len() as u64;
            store.put(&key, body).await?;
            progress.add_transferred(bytes);
            drop(permit);
            Ok(())
        });
        Ok(())
    }

    async fn join_one(&mut self) -> Result<(), BackupError> {
        match self.tasks.join_next().await {
            None => Ok(()),
            Some(ended) => Ok(ended.context(super::error::WorkerSnafu)??),
        }
    }

    async fn drain(&mut self) -> Result<(), BackupError> {
        let mut first = Ok(());
        while !self.tasks.is_empty() {
            let ended = self.join_one().await;
            first = first.and(ended);
        }
        first
    }

    pub async fn put_hashes(&mut self, body: Bytes) -> Result<(), BackupError> {
        self.bytes_uploaded += body.len() as u64;
        Ok(self.store.put(&self.prefix.hashes(), body).await?)
    }

    pub async fn put_manifest(&mut self, body: Bytes) -> Result<(), BackupError> {
        self.bytes_uploaded += body.len() as u64;
        Ok(self.store.put(&self.prefix.manifest(), body).await?)
    }

    pub async fn exists(&self, key: &str) -> Result<bool, BackupError> {
        let found = self.store.list(key).await?;
        Ok(found.iter().any(|object| object.key == key))
    }

    /// Removes all that was, or may have been, stored: the manifest first, so that no half of it is
    /// ever a backup.
    pub async fn remove(&mut self) -> Result<(), StoreError> {
        let mut keys = vec![self.prefix.manifest(), self.prefix.hashes()];
        keys.extend(self.extents.iter().map(|extent| extent.key.clone()));
        for key in &keys {
            self.store.delete(key).await?;
        }
        Ok(())
    }
}
