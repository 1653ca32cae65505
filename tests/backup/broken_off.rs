//! Backups and deletions that are broken off, or meet one another.

use crate::util::{Bytes, Repository, create, noise, small};
use bytes::Bytes as Body;
use futures::future::BoxFuture;
use std::fmt::{Debug, Formatter};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use strata::backup::store::{ObjectWriter, Store, StoreError};
use strata::backup::{
    BackupError, Cancel, Canceller, Engine, ErrorKind, ParentChoice, Progress, SnapshotSource,
};
use strata::image::ReadError;
use uuid::Uuid;

/// A volume that lets something happen in the middle of its being read.
struct Eventful<F> {
    volume: Bytes,
    reads: AtomicU64,
    /// Called with the number of the read.
    event: F,
    lost: AtomicBool,
}

impl<F: Fn(u64) -> bool + Send + Sync + 'static> Eventful<F> {
    /// `event` answers whether the hold on the source is lost with that read.
    fn new(data: Vec<u8>, event: F) -> Arc<Self> {
        let (reads, lost) = (AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Eventful { volume: Bytes(data), reads, event, lost })
    }
}

impl<F: Fn(u64) -> bool + Send + Sync + 'static> SnapshotSource for Eventful<F> {
    fn size(&self) -> u64 {
        self.volume.size()
    }
    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        self.volume.data_ranges(range)
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), ReadError> {
        if (self.event)(self.reads.fetch_add(1, Ordering::SeqCst) + 1) {
            self.lost.store(true, Ordering::SeqCst);
        }
        self.volume.read_at(buffer, offset)
    }
    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }
}

/// 200 objects of 16 KiB.
const LENGTH: usize = 200 * 16 * 1024;

/// The objects that a repository holds, counted from any thread.
fn objects(repository: &Repository) -> usize {
    fn count(folder: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
    }
    count(&repository.path("repo"))
}

/// Waits for the first objects: reading may be ahead of storing.
fn some_object(repository: &Repository) -> usize {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match objects(repository) {
            0 if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            found => return found,
        }
    }
}

/// B9, B13: a backup that is cancelled in the middle leaves nothing, although objects had been there.
#[tokio::test(flavor = "multi_thread")]
async fn cancelled_means_gone() {
    let repository = Arc::new(Repository::new());
    let (canceller, cancel) = Canceller::new();
    let seen = Arc::new(AtomicU64::new(0));
    let (store, stored) = (Arc::clone(&repository), Arc::clone(&seen));
    let source = Eventful::new(noise(6, LENGTH), move |read| {
        if read == 60 {
            stored.store(some_object(&store) as u64, Ordering::SeqCst);
            canceller.cancel();
        }
        false
    });
    let options = small(Uuid::new_v4(), ParentChoice::None);
    let reading = Arc::clone(&source);
    let error = repository.engine.create(reading, &options, &Progress::default(), &cancel).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(seen.load(Ordering::SeqCst) > 0, "nothing had been stored when it was cancelled");
    assert!(source.reads.load(Ordering::SeqCst) < 200, "it read on to the end");
    assert_eq!(repository.store.list("").await.unwrap(), vec![]);
    assert_eq!(objects(&repository), 0);
}

/// B13: what is read while the pin is lost is thrown away, also when it happens with the last read.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_lost_makes_no_backup() {
    for lost_at in [60, 200] {
        let repository = Repository::new();
        let source = Eventful::new(noise(6, LENGTH), move |read| read == lost_at);
        let options = small(Uuid::new_v4(), ParentChoice::None);
        let progress = Progress::default();
        let created = repository.engine.create(source, &options, &progress, &Cancel::never()).await;
        let error = created.unwrap_err();
        assert!(matches!(error, BackupError::SourceLost), "{error}");
        assert!(progress.state().read > 0, "what it cost is told of a backup that failed, too");
        assert_eq!(repository.store.list("").await.unwrap(), vec![]);
    }
}

/// What happens right after a step of one operation, as if another machine did it.
enum Meanwhile {
    /// After this object was deleted, that one is put.
    AfterDelete(String, String, Body),
    /// After an object with that end was put, this one is deleted.
    AfterPut(&'static str, String),
}

/// A store on which something else happens meanwhile, once.
struct Raced {
    store: Arc<dyn Store>,
    meanwhile: Mutex<Option<Meanwhile>>,
}

impl Debug for Raced {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("Raced")
    }
}

impl Raced {
    fn engine(repository: &Repository, meanwhile: Meanwhile) -> Engine {
        let store = Arc::clone(&repository.store);
        Engine::new(Arc::new(Raced { store, meanwhile: Mutex::new(Some(meanwhile)) }))
    }

    fn take(&self, is: impl Fn(&Meanwhile) -> bool) -> Option<Meanwhile> {
        let mut meanwhile = self.meanwhile.lock().unwrap();
        if meanwhile.as_ref().is_some_and(is) { meanwhile.take() } else { None }
    }
}

/// After it has finished, something else happens.
struct RacedWriter {
    inner: Box<dyn ObjectWriter>,
    store: Arc<dyn Store>,
    after: Option<Meanwhile>,
}

impl Debug for RacedWriter {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("RacedWriter")
    }
}

impl ObjectWriter for RacedWriter {
    fn write(&mut self, bytes: Body) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.write(bytes)
    }
    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(async move {
            self.inner.finish().await?;
            match self.after {
                Some(Meanwhile::AfterPut(_, delete)) => self.store.delete(&delete).await,
                _ => Ok(()),
            }
        })
    }
    fn replace(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        self.inner.replace()
    }
    fn abort(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        self.inner.abort()
    }
}

impl Store for Raced {
    forward!(store: ensure get get_range list);

    fn put<'a>(&'a self, key: &'a str, body: Body) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.store.put(key, body).await?;
            let due = self.take(|m| matches!(m, Meanwhile::AfterPut(end, _) if key.ends_with(end)));
            match due {
                Some(Meanwhile::AfterPut(_, delete)) => self.store.delete(&delete).await,
                _ => Ok(()),
            }
        })
    }
    fn begin<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Box<dyn ObjectWriter>, StoreError>> {
        Box::pin(async move {
            let after = self.take(|m| matches!(m, Meanwhile::AfterPut(end, _) if key.ends_with(end)));
            let inner = self.store.begin(key).await?;
            let store = Arc::clone(&self.store);
            Ok(Box::new(RacedWriter { inner, store, after }) as Box<dyn ObjectWriter>)
        })
    }
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.store.delete(key).await?;
            let due = self.take(|m| matches!(m, Meanwhile::AfterDelete(deleted, ..) if deleted == key));
            match due {
                Some(Meanwhile::AfterDelete(_, put, body)) => self.store.put(&put, body).await,
                _ => Ok(()),
            }
        })
    }
}

/// B12: an incremental that is finished just when its parent goes keeps its parent.
#[tokio::test]
async fn a_child_that_appears_during_the_deletion_keeps_its_parent() {
    let repository = Repository::new();
    let (volume, mut data) = (Uuid::new_v4(), noise(3, 50_000));
    let parent = repository.create(&data, &small(volume, ParentChoice::None)).await.unwrap();
    data[0] ^= 1;
    let child = repository.create(&data, &small(volume, ParentChoice::Latest)).await.unwrap();
    let manifest = format!("{}_metadata", child.prefix);
    let body = repository.store.get(&manifest, 1 << 20).await.unwrap();
    repository.store.delete(&manifest).await.unwrap();
    let parents = format!("{}_metadata", parent.prefix);
    let meanwhile = Meanwhile::AfterDelete(parents, manifest, body);
    let refused = Raced::engine(&repository, meanwhile).delete(parent.backup_id).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsafe);
    assert!(refused.to_string().contains(&child.backup_id.to_string()), "{refused}");
    assert!(repository.restored(child.backup_id).await == data);
    // Without children it goes.
    repository.engine.delete(child.backup_id).await.unwrap();
    repository.engine.delete(parent.backup_id).await.unwrap();
    assert_eq!(repository.store.list("").await.unwrap(), vec![]);
}

/// B13: of a child whose parent goes while its last object is stored nothing stays; what is made is a full one.
#[tokio::test]
async fn a_parent_that_goes_at_the_last_moment_is_no_parent() {
    let repository = Repository::new();
    let (volume, mut data) = (Uuid::new_v4(), noise(3, 50_000));
    let parent = repository.create(&data, &small(volume, ParentChoice::None)).await.unwrap();
    data[0] ^= 1;
    for end in ["_sha256file", "_metadata"] {
        let manifest = format!("{}_metadata", parent.prefix);
        let body = repository.store.get(&manifest, 1 << 20).await.unwrap();
        let engine = Raced::engine(&repository, Meanwhile::AfterPut(end, manifest.clone()));
        let made = create(&engine, &data, &small(volume, ParentChoice::Latest)).await.unwrap();
        let why = format!("parent {} was deleted meanwhile", parent.backup_id);
        assert_eq!((made.parent_id, made.full_because), (None, Some(why)), "{end}");
        assert!(repository.restored(made.backup_id).await == data, "{end}");
        repository.engine.delete(made.backup_id).await.unwrap();
        let left = repository.store.list("").await.unwrap();
        assert!(left.iter().all(|object| object.key.starts_with(&parent.prefix)), "{end}: {left:?}");
        repository.store.put(&manifest, body).await.unwrap();
    }
}
