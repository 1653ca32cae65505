//! A backup's objects on their way into the store.

use super::limit::RateLimit;
use super::piece::Piece;
use crate::backup::catalog::BackupSet;
use crate::backup::error::{CancelledSnafu, WorkerSnafu};
use crate::backup::format::{Extent, Prefix};
use crate::backup::store::{ObjectInfo, Store, StoreError};
use crate::backup::{BackupError, Cancel, Progress};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use snafu::ResultExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::{JoinError, JoinSet};

/// Bytes of an earlier attempt's object that are fetched at a time.
const COMPARED: usize = 4 << 20;
/// Deletions at a time.
const DELETIONS: usize = 8;

/// A backup on its way into the store.
pub(super) struct Upload {
    store: Arc<dyn Store>,
    prefix: Prefix,
    progress: Progress,
    concurrency: usize,
    limit: Arc<RateLimit>,
    /// What an earlier attempt left: name and bytes.
    earlier: BTreeMap<String, u64>,
    extents: Vec<Extent>,
    /// Ours, from the moment that it may be in the store.
    manifest: Option<Bytes>,
    tasks: JoinSet<Result<Sent, BackupError>>,
    pub bytes_read: u64,
    pub bytes_changed: u64,
    pub bytes_joined: u64,
    pub bytes_uploaded: u64,
    pub bytes_resumed: u64,
}

/// What became of one object's bytes.
struct Sent {
    uploaded: u64,
    resumed: u64,
}

impl Upload {
    pub fn new(
        store: Arc<dyn Store>,
        prefix: Prefix,
        progress: Progress,
        concurrency: usize,
        rate: Option<u64>,
        earlier: BTreeMap<String, u64>,
    ) -> Self {
        Upload {
            store,
            prefix,
            progress,
            concurrency,
            limit: Arc::new(RateLimit::new(rate)),
            earlier,
            extents: Vec::new(),
            manifest: None,
            tasks: JoinSet::new(),
            bytes_read: 0,
            bytes_changed: 0,
            bytes_joined: 0,
            bytes_uploaded: 0,
            bytes_resumed: 0,
        }
    }

    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// How many objects there are.
    pub fn objects(&self) -> u64 {
        self.extents.len() as u64
    }

    /// What was uploaded, in the order of the volume.
    pub fn extents(&self) -> Vec<Extent> {
        self.extents.clone()
    }

    /// Begins the upload of one object, once fewer than `concurrency` are on their way.
    pub async fn send(&mut self, piece: Piece, cancel: &Cancel) -> Result<(), BackupError> {
        cancel.check()?;
        while self.tasks.len() >= self.concurrency {
            tokio::select! {
                joined = self.tasks.join_next() => self.count(joined)?,
                () = cancel.asked() => return CancelledSnafu.fail(),
            }
        }
        let key = self.prefix.chunk(self.extents.len() as u64 + 1);
        let Piece { offset, length, compression, md5, body } = piece;
        let earlier = self.earlier.remove(&key).filter(|size| *size == body.len() as u64);
        self.bytes_changed += length;
        self.extents.push(Extent { key: key.clone(), offset, length, compression, md5 });
        // The first is put anew even if it is there: a set that is worked on must not look old to who clears away.
        let earlier = earlier.filter(|_| self.extents.len() > 1);
        let (store, progress) = (Arc::clone(&self.store), self.progress.clone());
        let (limit, cancel) = (Arc::clone(&self.limit), cancel.clone());
        self.tasks.spawn(async move {
            let bytes = body.len() as u64;
            if earlier.is_some() && is_stored(store.as_ref(), &key, &body).await? {
                return Ok(Sent { uploaded: 0, resumed: bytes });
            }
            tokio::select! {
                () = limit.pass(bytes) => {}
                () = cancel.asked() => return CancelledSnafu.fail(),
            }
            store.put(&key, body).await?;
            progress.add_transferred(bytes);
            Ok(Sent { uploaded: bytes, resumed: 0 })
        });
        Ok(())
    }

    fn count(
        &mut self,
        joined: Option<Result<Result<Sent, BackupError>, JoinError>>,
    ) -> Result<(), BackupError> {
        let Some(ended) = joined else { return Ok(()) };
        let sent = ended.context(WorkerSnafu)??;
        self.bytes_uploaded += sent.uploaded;
        self.bytes_resumed += sent.resumed;
        Ok(())
    }

    /// Waits for all that is on its way.
    pub async fn drain(&mut self) -> Result<(), BackupError> {
        let mut first = Ok(());
        while let Some(joined) = self.tasks.join_next().await {
            let ended = self.count(Some(joined));
            first = first.and(ended);
        }
        first
    }

    /// Removes what an earlier attempt left and this one has no use for: a set is exactly its manifest's objects.
    pub async fn remove_surplus(&mut self) -> Result<(), BackupError> {
        let surplus = std::mem::take(&mut self.earlier);
        Ok(self.delete(surplus.into_keys().collect()).await?)
    }

    /// Stores the manifest, never over one that somebody else made.
    pub async fn put_manifest(&mut self, body: Bytes) -> Result<(), BackupError> {
        self.bytes_uploaded += body.len() as u64;
        self.manifest = Some(body.clone());
        Ok(self.store.put_new(&self.prefix.manifest(), body).await?)
    }

    pub async fn exists(&self, key: &str) -> Result<bool, BackupError> {
        let found = self.store.list(key).await?;
        Ok(found.iter().any(|object| object.key == key))
    }

    /// What is stored of this set at this moment.
    pub async fn listed(&self) -> Result<BackupSet, BackupError> {
        let objects = self.store.list(self.prefix.as_str()).await?;
        let ours = |object: &ObjectInfo| Prefix::of_key(&object.key).is_some_and(|(p, _)| p == self.prefix);
        Ok(BackupSet { prefix: self.prefix.clone(), objects: objects.into_iter().filter(ours).collect() })
    }

    /// Removes our manifest: with it the set is no backup any more. `false`: there is one that another process made,
    /// and with it the set is that one's.
    pub async fn withdraw(&self) -> Result<bool, StoreError> {
        let key = self.prefix.manifest();
        let ours = self.manifest.as_ref();
        match self.store.get(&key, ours.map_or(0, |ours| ours.len() as u64)).await {
            Err(StoreError::Missing { .. }) => Ok(true),
            Ok(found) if ours == Some(&found) => self.store.delete(&key).await.map(|()| true),
            Ok(_) | Err(StoreError::TooLarge { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Removes all that was, or may have been, stored: the manifest first, so that no half of it is
    /// ever a backup.
    pub async fn remove(&mut self) -> Result<(), StoreError> {
        if !self.withdraw().await? {
            return Ok(());
        }
        self.store.delete(&self.prefix.hashes()).await?;
        let mut keys: Vec<String> = self.extents.iter().map(|extent| extent.key.clone()).collect();
        keys.extend(std::mem::take(&mut self.earlier).into_keys());
        self.delete(keys).await
    }

    async fn delete(&self, keys: Vec<String>) -> Result<(), StoreError> {
        let deletions = keys.iter().map(|key| self.store.delete(key));
        stream::iter(deletions).buffer_unordered(DELETIONS).try_collect().await
    }
}

/// Whether an object holds exactly these bytes. Nothing else is believed: neither a name nor a size. Fetched in
/// parts, for memory is counted without it, and up to the first difference.
async fn is_stored(store: &dyn Store, key: &str, body: &Bytes) -> Result<bool, BackupError> {
    // One byte more is asked for: a longer object is another one.
    for start in (0..=body.len()).step_by(COMPARED) {
        let wanted = &body[start..body.len().min(start + COMPARED)];
        let end = if wanted.len() < COMPARED { start + wanted.len() + 1 } else { start + COMPARED };
        match store.get_range(key, start as u64..end as u64).await {
            Ok(found) if found == wanted => {}
            Ok(_) | Err(StoreError::Missing { .. }) => return Ok(false),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(true)
}
