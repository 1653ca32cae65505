//! Objects are removed several at a time, and no more of them once somebody asks to stop.

use crate::util::{Repository, noise, small};
use bytes::Bytes;
use futures::future::BoxFuture;
use jiff::{Timestamp, ToSpan};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use strata::backup::store::{Store, StoreError};
use strata::backup::{BackupError, Cancel, Canceller, Engine, GcOptions, ParentChoice};
use tokio::sync::Barrier;
use uuid::Uuid;

/// A store that is watched while objects go.
#[derive(Debug)]
struct Watched {
    store: Arc<dyn Store>,
    /// No chunk goes before so many of them are to go.
    together: Barrier,
    removed: AtomicUsize,
    /// Asks to stop after so many removals.
    stop: (usize, Canceller),
}

impl Store for Watched {
    forward!(store: ensure put get get_range begin list);

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            if key[key.len() - 6..].starts_with("-0000") {
                self.together.wait().await;
            }
            self.store.delete(key).await?;
            if self.removed.fetch_add(1, Ordering::SeqCst) + 1 == self.stop.0 {
                self.stop.1.cancel();
            }
            Ok(())
        })
    }
}

#[tokio::test]
async fn a_deletion_removes_several_objects_at_a_time() {
    let repository = Repository::new();
    let made =
        repository.create(&noise(1, 60_000), &small(Uuid::new_v4(), ParentChoice::None)).await.unwrap();
    assert_eq!(made.objects, 4);
    let (store, stop) = (Arc::clone(&repository.store), (usize::MAX, Canceller::new().0));
    let store = Watched { store, together: Barrier::new(4), removed: AtomicUsize::new(0), stop };
    let engine = Engine::new(Arc::new(store));
    let deleted = tokio::time::timeout(Duration::from_secs(60), engine.delete(made.backup_id)).await;
    assert_eq!(deleted.expect("one after the other").unwrap().objects, 6);
    assert_eq!(repository.store.list("").await.unwrap(), vec![]);
}

#[tokio::test]
async fn a_sweep_is_stopped_within_a_set() {
    let repository = Repository::new();
    let made =
        repository.create(&noise(1, 10_000), &small(Uuid::new_v4(), ParentChoice::None)).await.unwrap();
    repository.store.delete(&format!("{}_metadata", made.prefix)).await.unwrap();
    for number in 2..=100 {
        repository.store.put(&format!("{}-{number:05}", made.prefix), Bytes::new()).await.unwrap();
    }
    let (canceller, cancel) = Canceller::new();
    let (store, stop) = (Arc::clone(&repository.store), (20, canceller));
    let store = Watched { store, together: Barrier::new(1), removed: AtomicUsize::new(0), stop };
    let options = GcOptions { before: Timestamp::now() + 1.hour(), dry_run: false };
    let stopped = Engine::new(Arc::new(store)).gc(options, &cancel).await;
    assert!(matches!(stopped, Err(BackupError::Cancelled)), "{stopped:?}");
    let left = repository.store.list("").await.unwrap().len();
    assert!((50..=81).contains(&left), "{left}");
    let swept = repository.engine.gc(options, &Cancel::never()).await.unwrap();
    assert_eq!(swept.removed.iter().map(|item| item.objects).sum::<u64>(), left as u64);
    assert_eq!(repository.store.list("").await.unwrap(), vec![]);
}
