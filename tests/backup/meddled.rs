//! Others work in the same repository while a backup is made.

use crate::delta::Recorded;
use crate::util::{Repository, noise, small};
use bytes::Bytes as Body;
use futures::future::BoxFuture;
use std::fmt::{Debug, Formatter};
use std::sync::{Arc, Mutex};
use strata::backup::store::{Exclusive, Store, StoreError};
use strata::backup::{
    BackupError, Cancel, Changed, CreateOptions, CreateReport, Engine, ParentChoice, Progress, Resume,
};
use tokio::runtime::Handle;
use uuid::Uuid;

type Deed = Box<dyn FnOnce() + Send>;

/// Something asynchronous as a deed: on a thread of its own, for who waits for it is on the runtime.
fn deed<F: Future<Output = ()>>(work: impl FnOnce() -> F + Send + 'static) -> Deed {
    Box::new(move || Handle::current().block_on(work()))
}

/// A store beside which something happens, once, before an object of a name with this end is put.
struct Meddled {
    store: Arc<dyn Store>,
    end: &'static str,
    deed: Mutex<Option<Deed>>,
}

impl Debug for Meddled {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meddled")
    }
}

impl Meddled {
    fn engine(repository: &Repository, end: &'static str, deed: Deed) -> Engine {
        let (store, deed) = (Arc::clone(&repository.store), Mutex::new(Some(deed)));
        Engine::new(Arc::new(Meddled { store, end, deed }))
    }
}

impl Meddled {
    async fn meddle(&self, key: &str) {
        let due = if key.ends_with(self.end) { self.deed.lock().unwrap().take() } else { None };
        if let Some(deed) = due {
            tokio::task::spawn_blocking(deed).await.unwrap();
        }
    }
}

impl Store for Meddled {
    forward!(store: ensure get get_range begin delete list);

    fn put<'a>(&'a self, key: &'a str, body: Body) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.meddle(key).await;
            self.store.put(key, body).await
        })
    }
    fn put_new<'a>(&'a self, key: &'a str, body: Body) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.meddle(key).await;
            self.store.put_new(key, body).await
        })
    }
    fn exclusive(&self) -> BoxFuture<'_, Result<Exclusive, StoreError>> {
        self.store.exclusive()
    }
}

fn source(data: &[u8]) -> Arc<Recorded> {
    Recorded::new(data, Changed::Unknown("nobody knows".to_owned()))
}

async fn make(
    engine: &Engine,
    source: &Arc<Recorded>,
    options: &CreateOptions,
) -> Result<CreateReport, BackupError> {
    engine.create(Arc::clone(source) as _, options, &Progress::default(), &Cancel::never()).await
}

/// 20 objects of 16 KiB.
const LENGTH: usize = 20 * 16 * 1024;

/// Two processes go on with the same backup: the first to end has made it, and the other leaves it as it is.
#[tokio::test(flavor = "multi_thread")]
async fn the_second_of_two_that_resume_leaves_the_firsts_backup() {
    let (repository, data) = (Repository::new(), noise(3, LENGTH));
    let options = CreateOptions { resume: Resume::Auto, ..small(Uuid::new_v4(), ParentChoice::None) };
    let (other, same, snapshot) = (repository.engine.clone(), options.clone(), source(&data));
    let theirs = Arc::clone(&snapshot);
    let made = Arc::new(Mutex::new(None));
    let note = Arc::clone(&made);
    let first = deed(move || async move {
        let backup = make(&other, &theirs, &same).await.unwrap().backup_id;
        *note.lock().unwrap() = Some(backup);
    });
    let engine = Meddled::engine(&repository, "-00012", first);
    let second = make(&engine, &snapshot, &options).await.unwrap_err();
    assert!(matches!(second, BackupError::MadeTwice { .. }), "{second}");
    let backup = made.lock().unwrap().expect("the first one was made");
    assert!(repository.restored(backup).await == data);
}

/// A writer stands still for so long that somebody goes on with its backup, from other bytes. Once it wakes it writes
/// over none of them, and removes none.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_wakes_late_leaves_the_backup_that_another_completed() {
    for resume in [Resume::No, Resume::Auto] {
        let (repository, data, others) = (Repository::new(), noise(3, LENGTH), noise(4, LENGTH));
        let volume = Uuid::new_v4();
        let options = CreateOptions { resume, concurrency: 1, ..small(volume, ParentChoice::None) };
        let (other, theirs) = (repository.engine.clone(), source(&others));
        let made = Arc::new(Mutex::new(None));
        let note = Arc::clone(&made);
        let goes_on = deed(move || async move {
            let sets = other.catalog().sets(Some(volume)).await.unwrap();
            let backup = sets[0].prefix.backup();
            let options =
                CreateOptions { resume: Resume::Backup(backup), ..small(volume, ParentChoice::None) };
            make(&other, &theirs, &options).await.unwrap();
            *note.lock().unwrap() = Some(backup);
        });
        let engine = Meddled::engine(&repository, "-00012", goes_on);
        let late = make(&engine, &source(&data), &options).await.unwrap_err();
        assert!(matches!(late, BackupError::MadeTwice { .. }), "{resume:?}: {late}");
        let backup = made.lock().unwrap().expect("the other one was made");
        assert!(repository.restored(backup).await == others, "{resume:?}");
    }
}

/// What is gone behind the back of a running backup is seen before it is said to be made.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_lost_an_object_while_it_was_made_is_none() {
    let (repository, data) = (Repository::new(), noise(3, LENGTH));
    let options = small(Uuid::new_v4(), ParentChoice::None);
    for end in ["-00012", "_metadata"] {
        let store = Arc::clone(&repository.store);
        let removes = deed(move || async move {
            let there = store.list("").await.unwrap();
            let chunk = there.iter().find(|object| object.key.ends_with("-00002")).unwrap();
            store.delete(&chunk.key).await.unwrap();
        });
        let error =
            make(&Meddled::engine(&repository, end, removes), &source(&data), &options).await.unwrap_err();
        assert!(matches!(error, BackupError::ChangedMeanwhile { .. }), "{end}: {error}");
        assert!(error.to_string().contains("-00002"), "{error}");
        assert_eq!(repository.store.list("").await.unwrap(), [], "{end}");
    }
}

/// A parent that is made whole without its own parent meanwhile is the same backup under another name.
#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_is_rebased_meanwhile_stays_the_parent() {
    let (repository, mut data) = (Repository::new(), noise(3, LENGTH));
    let volume = Uuid::new_v4();
    let full = repository.create(&data, &small(volume, ParentChoice::None)).await.unwrap();
    data[20_000] ^= 1;
    let parent = repository.create(&data, &small(volume, ParentChoice::Latest)).await.unwrap();
    for at in (0..LENGTH).step_by(16 * 1024) {
        data[at] ^= 1;
    }
    let engine = repository.engine.clone();
    let rebases = deed(move || async move {
        engine.delete_rebasing(full.backup_id, &Progress::default(), &Cancel::never()).await.unwrap();
    });
    let engine = Meddled::engine(&repository, "-00012", rebases);
    let made =
        make(&engine, &source(&data), &small(volume, ParentChoice::Backup(parent.backup_id))).await.unwrap();
    assert_eq!(made.parent_id, Some(parent.backup_id));
    assert!(repository.restored(made.backup_id).await == data);
}
