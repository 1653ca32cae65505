//! Backups that failed and are gone on with.

use crate::delta::Recorded;
use crate::util::{Repository, noise, small};
use bytes::Bytes as Body;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use strata::backup::store::{Store, StoreError};
use strata::backup::{
    BackupError, Cancel, Canceller, Changed, CreateOptions, Engine, ErrorKind, ParentChoice, Progress, Resume,
};
use uuid::Uuid;

/// A store that goes away after so many chunks, and comes back when it is told to.
#[derive(Debug)]
struct Failing {
    store: Arc<dyn Store>,
    left: AtomicU64,
    put: AtomicU64,
}

impl Failing {
    fn over(repository: &Repository, left: u64) -> Arc<Self> {
        let (left, put) = (AtomicU64::new(left), AtomicU64::new(0));
        Arc::new(Failing { store: Arc::clone(&repository.store), left, put })
    }
}

impl Store for Failing {
    forward!(store: ensure get get_range begin delete list);

    fn put<'a>(&'a self, key: &'a str, body: Body) -> BoxFuture<'a, Result<(), StoreError>> {
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        Box::pin(async move {
            if left.is_err() {
                let source = "the network is away".into();
                return Err(StoreError::Backend { operation: "writing", key: key.to_owned(), source });
            }
            self.put.fetch_add(1, Ordering::SeqCst);
            self.store.put(key, body).await
        })
    }
}

async fn make(
    store: &Arc<Failing>,
    source: &Arc<Recorded>,
    options: &CreateOptions,
) -> Result<strata::backup::CreateReport, BackupError> {
    let engine = Engine::new(Arc::clone(store) as Arc<dyn Store>);
    engine.create(Arc::clone(source) as _, options, &Progress::default(), &Cancel::never()).await
}

fn source(data: &[u8]) -> Arc<Recorded> {
    Recorded::new(data, Changed::Unknown("nobody knows".to_owned()))
}

/// 20 objects of 16 KiB.
const LENGTH: usize = 20 * 16 * 1024;

/// A backup fails, is no backup, and is gone on with: what is there and right is not put again, what is damaged
/// or surplus is put right.
#[tokio::test(flavor = "multi_thread")]
async fn gone_on_with() {
    let (repository, data) = (Repository::new(), noise(3, LENGTH));
    let options = CreateOptions { resume: Resume::Auto, ..small(Uuid::new_v4(), ParentChoice::None) };
    let (store, source) = (Failing::over(&repository, 10), source(&data));
    let error = make(&store, &source, &options).await.unwrap_err();
    let BackupError::Resumable { backup, .. } = error else { panic!("{error}") };
    let said = error.to_string();
    assert!(said.contains("network is away") && said.contains(&format!("--resume {backup}")), "{said}");
    let left = repository.store.list("").await.unwrap();
    assert!((8..=10).contains(&left.len()), "{left:?}");
    assert!(repository.engine.list(None).await.unwrap().is_empty());
    // Somebody meddles: other bytes of the same number, and an object that no manifest will name.
    let damaged = repository.file(&left[2].key);
    let mut bytes = std::fs::read(&damaged).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    let surplus = left[0].key.replace("-00001", "-00099");
    repository.store.put(&surplus, Body::from_static(b"surplus")).await.unwrap();
    store.left.store(u64::MAX, Ordering::SeqCst);
    let made = make(&store, &source, &options).await.unwrap();
    assert_eq!(made.backup_id, backup);
    let resumed: u64 =
        left.iter().enumerate().filter(|(n, _)| ![0, 2].contains(n)).map(|(_, object)| object.size).sum();
    assert_eq!(made.bytes_resumed, resumed);
    assert!(repository.restored(backup).await == data);
    // The same snapshot once more is another backup.
    let again = make(&store, &source, &options).await.unwrap();
    assert!(again.backup_id != backup && again.bytes_resumed == 0);
    let done = CreateOptions { resume: Resume::Backup(backup), ..options };
    assert_eq!(make(&store, &source, &done).await.unwrap_err().kind(), ErrorKind::Usage);
}

/// By its id, with other settings and other bytes: still right.
#[tokio::test(flavor = "multi_thread")]
async fn gone_on_with_otherwise() {
    let (repository, mut data) = (Repository::new(), noise(3, LENGTH));
    let mut options = CreateOptions { resume: Resume::Auto, ..small(Uuid::new_v4(), ParentChoice::None) };
    let store = Failing::over(&repository, 10);
    let error = make(&store, &source(&data), &options).await.unwrap_err();
    let BackupError::Resumable { backup, .. } = error else { panic!("{error}") };
    store.left.store(u64::MAX, Ordering::SeqCst);
    data[20_000] ^= 1;
    options.resume = Resume::Backup(backup);
    options.chunk_size = 64 * 1024;
    let made = make(&store, &source(&data), &options).await.unwrap();
    assert_eq!((made.backup_id, made.bytes_resumed), (backup, 0));
    assert!(repository.restored(backup).await == data);
    let unknown = CreateOptions { resume: Resume::Backup(Uuid::new_v4()), ..options };
    assert_eq!(make(&store, &source(&data), &unknown).await.unwrap_err().kind(), ErrorKind::NotFound);
}

/// B9, B13: nothing stays after a failure or a cancel, unless resuming was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays() {
    let (repository, data) = (Repository::new(), noise(3, LENGTH));
    let options = small(Uuid::new_v4(), ParentChoice::None);
    let failed = make(&Failing::over(&repository, 10), &source(&data), &options).await.unwrap_err();
    assert!(failed.to_string().contains("network is away"), "{failed}");
    assert_eq!(repository.store.list("").await.unwrap(), []);
    let (canceller, cancel) = Canceller::new();
    canceller.cancel();
    let cancelled = repository.engine.create(source(&data), &options, &Progress::default(), &cancel).await;
    assert_eq!(cancelled.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(repository.store.list("").await.unwrap(), []);
}
