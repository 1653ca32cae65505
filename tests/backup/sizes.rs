//! What is too large to be right is refused by its size, before it is read.

use crate::util::{noise, restore, small};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use strata::backup::store::{LocalStore, Store, StoreError};
use strata::backup::{BackupError, Cancel, Engine, ParentChoice, Progress};
use strata::image::Format;
use uuid::Uuid;

/// Counts the bytes that are read from it.
#[derive(Debug)]
struct Counting {
    inner: LocalStore,
    read: AtomicU64,
}

impl Counting {
    fn counted(&self, got: Result<Bytes, StoreError>) -> Result<Bytes, StoreError> {
        if let Ok(bytes) = &got {
            self.read.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        }
        got
    }
}

impl Store for Counting {
    forward!(inner: ensure put begin delete list);

    fn get<'a>(&'a self, key: &'a str, limit: u64) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move { self.counted(self.inner.get(key, limit).await) })
    }
    fn get_range<'a>(&'a self, key: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move { self.counted(self.inner.get_range(key, range).await) })
    }
}

/// A manifest of 2 GB, in a set of five chunks.
#[tokio::test]
async fn a_manifest_of_two_gigabytes_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("repo");
    let store = Arc::new(Counting { inner: LocalStore::new(&root), read: AtomicU64::new(0) });
    let engine = Engine::new(Arc::clone(&store) as Arc<dyn Store>);
    let options = small(Uuid::new_v4(), ParentChoice::None);
    let made = crate::util::create(&engine, &noise(1, 80_000), &options).await.unwrap();
    let manifest = root.join(format!("{}_metadata", made.prefix));
    File::options().write(true).open(&manifest).unwrap().set_len(2_000_000_000).unwrap();
    let before = store.read.load(Ordering::SeqCst);

    let listed = engine.list(None).await.unwrap();
    let damage = listed[0].damage.as_deref().unwrap();
    assert!(damage.contains("_metadata has 2000000000 bytes"), "{damage}");
    let refused = [
        engine.show(made.backup_id).await.map(drop),
        restore(&engine, made.backup_id, &folder.path().join("new"), Format::Raw, false).await.map(drop),
    ];
    for refused in refused {
        let right = matches!(&refused, Err(BackupError::Store { source: StoreError::TooLarge { .. } }));
        assert!(right, "{refused:?}");
    }
    let source = Arc::new(crate::util::Bytes(noise(1, 80_000)));
    let next = small(options.volume, ParentChoice::Backup(made.backup_id));
    let next = engine.create(source, &next, &Progress::default(), &Cancel::never()).await.unwrap();
    assert!(next.full_because.unwrap().contains("2000000000 bytes"));
    engine.delete(made.backup_id).await.unwrap();
    let read = store.read.load(Ordering::SeqCst) - before;
    assert!(read < 100_000, "{read} bytes were read");
    assert!(!manifest.exists());
}
