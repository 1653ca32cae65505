//! A backup's objects on their way into the store.

use super::copies::Whole;
use super::limit::RateLimit;
use super::memory::Memory;
use super::options::CreateOptions;
use super::piece::Piece;
use super::resume::Begun;
use crate::backup::catalog::BackupSet;
use crate::backup::error::{CancelledSnafu, MadeTwiceSnafu, NotCopiedSnafu, WorkerSnafu};
use crate::backup::format::{Extent, Prefix};
use crate::backup::store::{BackendSnafu, Exclusive, ObjectInfo, Store, StoreError};
use crate::backup::{BackupError, Cancel, Progress};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use snafu::{ResultExt, ensure};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinError, JoinSet};

/// Bytes of an earlier attempt's object that are fetched at a time.
const COMPARED: usize = 4 << 20;
/// Deletions at a time.
const DELETIONS: usize = 8;
/// The store copies so many objects for each upload at a time: they take nothing of this machine.
const COPIES: usize = 4;
/// Memory that an object's name and digest take until the manifest is written.
const KEPT: u64 = 256;
/// What each step of the clean-up has once somebody waits for the end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A backup on its way into the store.
pub(super) struct Upload {
    store: Arc<dyn Store>,
    prefix: Prefix,
    progress: Progress,
    memory: Arc<Memory>,
    concurrency: usize,
    limit: Arc<RateLimit>,
    /// What an earlier attempt left: name and bytes.
    earlier: BTreeMap<String, u64>,
    /// Whether names that should be free are looked at. The names of a new backup are, and nobody else knows them; so
    /// they are only where that costs no request.
    looks: bool,
    extents: Vec<Extent>,
    /// Which of them are copies, and the bytes that these must have.
    copied: Vec<(usize, u64)>,
    /// Objects that were begun: 1 to this.
    begun: u64,
    /// Somebody waits for the end.
    pub is_hurried: bool,
    /// Ours, from the moment that it may be in the store.
    manifest: Option<Bytes>,
    tasks: JoinSet<Result<Sent, BackupError>>,
    pub bytes_read: u64,
    pub bytes_changed: u64,
    pub bytes_joined: u64,
    pub bytes_uploaded: u64,
    pub bytes_resumed: u64,
    pub bytes_copied: u64,
}

/// What became of one object's bytes.
struct Sent {
    uploaded: u64,
    resumed: u64,
}

impl Upload {
    pub fn new(
        store: Arc<dyn Store>,
        memory: Arc<Memory>,
        begun: Begun,
        exclusive: Exclusive,
        options: &CreateOptions,
        progress: Progress,
    ) -> Self {
        let Begun { prefix, earlier, is_adopted, .. } = begun;
        Upload {
            store,
            prefix,
            progress,
            memory,
            concurrency: options.concurrency,
            limit: Arc::new(RateLimit::new(options.limit_rate)),
            earlier,
            looks: is_adopted || exclusive == Exclusive::Honoured,
            extents: Vec::new(),
            copied: Vec::new(),
            begun: 0,
            is_hurried: false,
            manifest: None,
            tasks: JoinSet::new(),
            bytes_read: 0,
            bytes_changed: 0,
            bytes_joined: 0,
            bytes_uploaded: 0,
            bytes_resumed: 0,
            bytes_copied: 0,
        }
    }

    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// How many objects there are.
    pub fn objects(&self) -> u64 {
        self.begun
    }

    /// What was uploaded, in the order of the volume: once, for there may be very many.
    pub fn take_extents(&mut self) -> Vec<Extent> {
        std::mem::take(&mut self.extents)
    }

    /// Begins the upload of one object, once fewer than `concurrency` are on their way.
    pub async fn send(&mut self, piece: Piece, cancel: &Cancel) -> Result<(), BackupError> {
        let key = self.begin(self.concurrency, cancel).await?;
        let Piece { offset, length, compression, md5, body } = piece;
        let there = self.earlier.remove(&key);
        let earlier = there.filter(|size| *size == body.len() as u64);
        self.bytes_changed += length;
        self.memory.charge(KEPT);
        self.extents.push(Extent { key: key.clone(), offset, length, compression, md5 });
        // The first is put anew even if it is there: a set that is worked on must not look old to who clears away.
        let earlier = earlier.filter(|_| self.begun > 1);
        let (store, progress, prefix) = (Arc::clone(&self.store), self.progress.clone(), self.prefix.clone());
        let (limit, cancel) = (Arc::clone(&self.limit), cancel.clone());
        let is_new = there.is_none() && self.looks;
        self.tasks.spawn(async move {
            let bytes = body.len() as u64;
            if earlier.is_some() && cancel.or(is_stored(store.as_ref(), &key, &body)).await? {
                return Ok(Sent { uploaded: 0, resumed: bytes });
            }
            tokio::select! {
                () = limit.pass(bytes) => {}
                () = cancel.asked() => return CancelledSnafu.fail(),
            }
            let put = if is_new { store.put_new(&key, body) } else { store.put(&key, body) };
            cancel.or_soon(put).await.map_err(|error| instead_of_taken(&prefix, error))?;
            progress.add_transferred(bytes);
            Ok(Sent { uploaded: bytes, resumed: 0 })
        });
        Ok(())
    }

    /// Has the store begin to copy an object of another backup.
    pub async fn copy(&mut self, whole: Whole, cancel: &Cancel) -> Result<(), BackupError> {
        let key = self.begin(self.concurrency * COPIES, cancel).await?;
        let Whole { extent, stored } = whole;
        self.memory.charge(KEPT);
        self.copied.push((self.extents.len(), stored));
        self.bytes_copied += stored;
        self.extents.push(Extent { key: key.clone(), ..extent.clone() });
        let (store, prefix, cancel) = (Arc::clone(&self.store), self.prefix.clone(), cancel.clone());
        self.tasks.spawn(async move {
            match cancel.or_soon(store.copy(&extent.key, &key)).await {
                Ok(()) => Ok(Sent { uploaded: 0, resumed: 0 }),
                Err(BackupError::Store {
                    source: source @ (StoreError::CannotCopy { .. } | StoreError::Missing { .. }),
                }) => NotCopiedSnafu { reason: source.to_string() }.fail(),
                Err(error) => Err(instead_of_taken(&prefix, error)),
            }
        });
        Ok(())
    }

    /// The name of the next object, once fewer than so many are on their way.
    async fn begin(&mut self, most: usize, cancel: &Cancel) -> Result<String, BackupError> {
        cancel.check()?;
        while self.tasks.len() >= most {
            tokio::select! {
                joined = self.tasks.join_next() => self.count(joined)?,
                () = cancel.asked() => return CancelledSnafu.fail(),
            }
        }
        self.begun += 1;
        Ok(self.prefix.chunk(self.begun))
    }

    /// How many objects are copies.
    pub fn objects_copied(&self) -> u64 {
        self.copied.len() as u64
    }

    /// Copies are as long as what they are copies of: their bytes were not seen here. `extents` are those that were taken.
    pub fn check_copies(&self, extents: &[Extent], listed: &BackupSet) -> Result<(), BackupError> {
        for (at, bytes) in &self.copied {
            let key = &extents[*at].key;
            let found = listed.objects.binary_search_by(|object| object.key.cmp(key)).ok();
            // One that is not there was removed by somebody: that is looked for, too.
            let found = found.map_or(*bytes, |at| listed.objects[at].size);
            let reason = || format!("the store made {key} with {found} bytes of {bytes}");
            ensure!(found == *bytes, NotCopiedSnafu { reason: reason() });
        }
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
        Ok(self.delete(surplus.into_keys()).await?)
    }

    /// Stores the manifest, never over one that somebody else made.
    pub async fn put_manifest(&mut self, body: Bytes) -> Result<(), BackupError> {
        self.bytes_uploaded += body.len() as u64;
        self.manifest = Some(body.clone());
        let put = self.store.put_new(&self.prefix.manifest(), body).await;
        put.map_err(|error| instead_of_taken(&self.prefix, error.into()))
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
        let there = self.store.get(&key, ours.map_or(0, |ours| ours.len() as u64));
        match self.soon("looking for", &key, there).await {
            Err(StoreError::Missing { .. }) => Ok(true),
            Ok(found) if ours == Some(&found) => self.delete(vec![key]).await.map(|()| true),
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
        let mut keys = vec![self.prefix.hashes()];
        keys.extend(std::mem::take(&mut self.earlier).into_keys());
        self.delete(keys).await?;
        let chunks = (1..=self.begun).map(|number| self.prefix.chunk(number));
        self.delete(chunks).await
    }

    async fn delete(&self, keys: impl IntoIterator<Item = String>) -> Result<(), StoreError> {
        let deletions = keys
            .into_iter()
            .map(|key| async move { self.soon("removing", &key, self.store.delete(&key)).await });
        stream::iter(deletions).buffer_unordered(DELETIONS).try_collect().await
    }

    async fn soon<T>(
        &self,
        operation: &'static str,
        key: &str,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        if !self.is_hurried {
            return work.await;
        }
        let late =
            |_| Box::<dyn Error + Send + Sync>::from(format!("no answer for {} s", PATIENCE.as_secs()));
        let done = tokio::time::timeout(PATIENCE, work).await;
        done.map_err(late).context(BackendSnafu { operation, key })?
    }
}

/// The names of a backup are taken by nobody but who goes on with it, and then it is made by that one.
pub(super) fn instead_of_taken(prefix: &Prefix, error: BackupError) -> BackupError {
    match error {
        BackupError::Store { source: StoreError::Exists { .. } } => {
            MadeTwiceSnafu { prefix: prefix.as_str() }.build()
        }
        other => other,
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
