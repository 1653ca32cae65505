//! Garbage under a clock that goes wrong, beside other programs' uploads, and while backups go away.

use crate::util::{Repository, create, noise, small};
use bytes::Bytes;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp, ToSpan};
use std::sync::{Arc, Mutex};
use strata::backup::store::{ObjectInfo, Store, StoreError, Unfinished};
use strata::backup::{Cancel, CreateReport, Engine, GcClock, GcKind, GcOptions, GcReport, ParentChoice};
use uuid::Uuid;

/// A directory whose clock is ahead, that may be read only, has uploads, and loses a manifest when it is read.
#[derive(Debug)]
struct Bent {
    inner: Arc<dyn Store>,
    ahead: SignedDuration,
    no_put: bool,
    no_delete: bool,
    lose_manifests: bool,
    uploads: Mutex<Vec<Unfinished>>,
}

impl Bent {
    fn over(repository: &Repository) -> Bent {
        Bent {
            inner: Arc::clone(&repository.store),
            ahead: SignedDuration::ZERO,
            no_put: false,
            no_delete: false,
            lose_manifests: false,
            uploads: Mutex::default(),
        }
    }

    fn with_uploads(repository: &Repository, keys: &[String], begun: Timestamp) -> Bent {
        let upload =
            |key: &String| Unfinished { key: key.clone(), id: format!("id of {key}"), size: 0, begun };
        Bent { uploads: Mutex::new(keys.iter().map(upload).collect()), ..Bent::over(repository) }
    }

    fn uploads_left(&self) -> Vec<String> {
        self.uploads.lock().unwrap().iter().map(|upload| upload.key.clone()).collect()
    }
}

fn refused(operation: &'static str, key: &str) -> StoreError {
    StoreError::Backend { operation, key: key.to_owned(), source: "AccessDenied".into() }
}

impl Store for Bent {
    forward!(inner: ensure get_range begin);

    fn put<'a>(&'a self, key: &'a str, body: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        if self.no_put { Box::pin(async { Err(refused("writing", key)) }) } else { self.inner.put(key, body) }
    }
    fn get<'a>(&'a self, key: &'a str, limit: u64) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move {
            if self.lose_manifests && key.ends_with("_metadata") {
                self.inner.delete(key).await?;
            }
            self.inner.get(key, limit).await
        })
    }
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        if self.no_delete {
            Box::pin(async { Err(refused("removing", key)) })
        } else {
            self.inner.delete(key)
        }
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<ObjectInfo>, StoreError>> {
        Box::pin(async move {
            let mut found = self.inner.list(prefix).await?;
            for object in &mut found {
                object.modified += self.ahead;
            }
            Ok(found)
        })
    }
    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<Unfinished>, StoreError>> {
        Box::pin(async { Ok(self.uploads.lock().unwrap().clone()) })
    }
    fn remove_unfinished<'a>(&'a self, of: &'a Unfinished) -> BoxFuture<'a, Result<(), StoreError>> {
        self.uploads.lock().unwrap().retain(|upload| upload != of);
        Box::pin(async { Ok(()) })
    }
}

/// What is older than a day.
async fn gc(store: &Arc<Bent>, dry_run: bool) -> GcReport {
    let options = GcOptions { before: Timestamp::now() - 24.hours(), dry_run };
    Engine::new(Arc::clone(store) as _).gc(options, &Cancel::never()).await.unwrap()
}

async fn broken_off(repository: &Repository) -> CreateReport {
    let options = small(Uuid::new_v4(), ParentChoice::None);
    let made = create(&repository.engine, &noise(1, 50_000), &options).await.unwrap();
    repository.store.delete(&format!("{}_metadata", made.prefix)).await.unwrap();
    made
}

/// Makes what is below the repository that much older.
fn age(repository: &Repository, prefix: &str, hours: u64) {
    let folder = repository.file(prefix).parent().unwrap().to_owned();
    let then = std::time::SystemTime::now() - std::time::Duration::from_secs(hours * 3600);
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = std::fs::File::open(entry.unwrap().path()).unwrap();
        file.set_modified(then).unwrap();
    }
}

/// Keys that no store of ours could hold among them.
#[tokio::test]
async fn other_programs_uploads_are_told_and_left_alone() {
    let repository = Repository::new();
    repository.store.ensure().await.unwrap();
    let ours = format!("volume_{0}/20260101000000/az_nova_backup_{0}_sha256file", Uuid::new_v4());
    let foreign = ["images/disk.qcow2".to_owned(), "a b/100%".to_owned(), format!("{ours}.part")];
    let keys = [&foreign[..], std::slice::from_ref(&ours)].concat();
    let store = Arc::new(Bent::with_uploads(&repository, &keys, Timestamp::now() - 48.hours()));
    let report = gc(&store, false).await;
    assert_eq!((report.removed.len(), &report.removed[0].name), (1, &ours));
    assert_eq!((report.removed[0].kind, report.removed[0].backup_id.is_some()), (GcKind::Unfinished, true));
    assert_eq!(report.foreign, foreign);
    assert_eq!(store.uploads_left(), foreign);
}

/// A backup that runs for days keeps its hash file's upload open all the time.
#[tokio::test]
async fn an_upload_is_as_young_as_the_youngest_object_beside_it() {
    let repository = Repository::new();
    let made = broken_off(&repository).await;
    let key = format!("{}_sha256file", made.prefix);
    let begun = Timestamp::now() - 72.hours();
    let store = Arc::new(Bent::with_uploads(&repository, std::slice::from_ref(&key), begun));
    let report = gc(&store, false).await;
    assert_eq!((report.removed.len(), report.young.len()), (0, 2), "{report:?}");
    assert_eq!(store.uploads_left(), [key.as_str()]);
    age(&repository, &made.prefix, 25);
    let report = gc(&store, false).await;
    assert_eq!((report.removed.len(), report.young.len()), (2, 0), "{report:?}");
    assert_eq!(store.uploads_left(), Vec::<String>::new());
    assert_eq!(repository.store.list("").await.unwrap(), vec![]);
}

/// A backup that is gone on with has old chunks and a new upload.
#[tokio::test]
async fn old_chunks_are_as_young_as_the_upload_beside_them() {
    let repository = Repository::new();
    let made = broken_off(&repository).await;
    age(&repository, &made.prefix, 25);
    let key = format!("{}_sha256file", made.prefix);
    let store = Arc::new(Bent::with_uploads(&repository, &[key], Timestamp::now() - 1.hour()));
    let report = gc(&store, false).await;
    assert_eq!((report.removed.len(), report.young.len()), (0, 2), "{report:?}");
}

#[tokio::test]
async fn ages_are_by_the_stores_clock() {
    let repository = Repository::new();
    let made = broken_off(&repository).await;
    let behind = Bent { ahead: SignedDuration::from_hours(-25), ..Bent::over(&repository) };
    let report = gc(&Arc::new(behind), false).await;
    assert_eq!((report.removed.len(), report.young.len()), (0, 1), "{report:?}");
    let told = report.clock_ahead_seconds.unwrap();
    assert!(report.clock == GcClock::Store && (told + 25 * 3600).abs() < 30, "{report:?}");
    assert!(report.warnings[0].contains("25h") && report.warnings[0].contains("behind"), "{report:?}");
    age(&repository, &made.prefix, 25);
    let ahead = Bent { ahead: SignedDuration::from_hours(3), ..Bent::over(&repository) };
    let report = gc(&Arc::new(ahead), false).await;
    assert_eq!((report.removed.len(), report.young.len()), (1, 0), "{report:?}");
    assert!(report.warnings[0].contains("3h") && report.warnings[0].contains("ahead of"), "{report:?}");
    assert_eq!(repository.store.list("").await.unwrap(), vec![], "the probe left something");
}

#[tokio::test]
async fn clocks_that_agree_are_not_warned_of() {
    let repository = Repository::new();
    broken_off(&repository).await;
    let report = gc(&Arc::new(Bent::over(&repository)), false).await;
    assert_eq!((report.clock_ahead_seconds, report.warnings), (Some(0), vec![]));
}

#[tokio::test]
async fn a_dry_run_needs_no_right_to_write() {
    let repository = Repository::new();
    let made = broken_off(&repository).await;
    age(&repository, &made.prefix, 25);
    let store = Arc::new(Bent { no_put: true, no_delete: true, ..Bent::over(&repository) });
    let report = gc(&store, true).await;
    assert_eq!((report.removed.len(), report.clock, report.clock_ahead_seconds), (1, GcClock::Machine, None));
    assert_eq!(report.warnings, Vec::<String>::new());
}

#[tokio::test]
async fn a_store_that_takes_nothing_more_is_swept_with_a_warning() {
    let repository = Repository::new();
    let made = broken_off(&repository).await;
    age(&repository, &made.prefix, 25);
    let store = Arc::new(Bent { no_put: true, ..Bent::over(&repository) });
    let report = gc(&store, false).await;
    assert_eq!((report.removed.len(), report.clock), (1, GcClock::Machine));
    assert!(report.warnings[0].contains("AccessDenied"), "{report:?}");
    assert_eq!(repository.store.list("").await.unwrap(), vec![]);
}

#[tokio::test]
async fn probes_that_were_left_are_removed_when_they_are_old() {
    let repository = Repository::new();
    let id = Uuid::new_v4();
    let probes = [format!(".strata-probe-{id}"), format!(".strata-probe-{}/clock", Uuid::new_v4())];
    let foreign = format!(".strata-probe-{id}.txt");
    for key in [&probes[0], &probes[1], &foreign] {
        repository.store.put(key, Bytes::from_static(b"x")).await.unwrap();
    }
    let store = Arc::new(Bent::over(&repository));
    assert_eq!(gc(&store, false).await.young.len(), 2);
    probes.iter().for_each(|probe| age(&repository, probe, 25));
    let report = gc(&store, false).await;
    assert!(report.removed.iter().all(|item| item.kind == GcKind::Probe) && report.removed.len() == 2);
    assert_eq!(report.foreign, [foreign]);
    assert_eq!(repository.store.list("").await.unwrap().len(), 1);
}

/// Another machine deletes it while this one looks.
#[tokio::test]
async fn a_backup_that_goes_away_meanwhile_is_no_unread_one() {
    let repository = Repository::new();
    let options = small(Uuid::new_v4(), ParentChoice::None);
    create(&repository.engine, &noise(1, 50_000), &options).await.unwrap();
    let store = Arc::new(Bent { lose_manifests: true, ..Bent::over(&repository) });
    let report = gc(&store, true).await;
    assert_eq!((report.unread, report.removed.len(), report.young.len()), (vec![], 0, 0));
}
