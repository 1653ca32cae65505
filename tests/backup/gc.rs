//! What belongs to no backup is found, and nothing else is touched.

use crate::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
use crate::util::{Repository, create, noise, restored, small};
use bytes::Bytes;
use futures::future::BoxFuture;
use jiff::{Timestamp, ToSpan};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use strata::backup::store::{LocalStore, ObjectBacked, ObjectInfo, S3Options, Store, StoreError};
use strata::backup::{
    Cancel, CreateReport, Engine, GcItem, GcKind, GcOptions, GcReport, Limits, ParentChoice, Progress,
    VerifyOptions, Which,
};
use uuid::Uuid;

async fn gc(engine: &Engine, before: Timestamp, dry_run: bool) -> GcReport {
    engine.gc(GcOptions { before, dry_run }, &Cancel::never()).await.unwrap()
}

/// One of each kind beside a good chain, on any store.
async fn each_kind(store: Arc<dyn Store>) {
    let engine = Engine::new(Arc::clone(&store));
    let (volume, mut data) = (Uuid::new_v4(), noise(1, 50_000));
    let full = create(&engine, &data, &small(volume, ParentChoice::None)).await.unwrap();
    data[0] ^= 1;
    let child = create(&engine, &data, &small(volume, ParentChoice::Latest)).await.unwrap();
    let broken_off = create(&engine, &data, &small(volume, ParentChoice::None)).await.unwrap();
    store.delete(&format!("{}_metadata", broken_off.prefix)).await.unwrap();
    // What a rebase has replaced: the same backup under an earlier name.
    let at = child.prefix.match_indices('/').next().unwrap().0;
    let replaced =
        format!("{}/20200101000000/{}", &child.prefix[..at], child.prefix.rsplit('/').next().unwrap());
    for end in ["_sha256file", "_metadata"] {
        let body = store.get(&format!("{}{end}", child.prefix), 1 << 20).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap().replace(&child.prefix, &replaced);
        store.put(&format!("{replaced}{end}"), body.into()).await.unwrap();
    }
    // What was replaced counts no more: each backup is looked at once.
    let options = VerifyOptions { which: Which::All, data: 1.0, seed: 1, limits: Limits::default() };
    let verified = engine.verify(&options, &Progress::default(), &Cancel::never()).await.unwrap();
    let mut backups = [full.backup_id, child.backup_id];
    backups.sort_by_key(|id| verified.backups.iter().position(|found| found == id));
    assert!(verified.good && verified.backups == backups, "{verified:?}");
    store.put(&format!("{}-00099", full.prefix), Bytes::from_static(b"surplus")).await.unwrap();
    let foreign = ["readme.txt".to_owned(), format!("volume_{volume}/notes"), "volume_x/1".to_owned()];
    for key in &foreign {
        store.put(key, Bytes::from_static(b"somebody's")).await.unwrap();
    }
    let now = Timestamp::now();
    // S3 tells whole seconds: an hour is far enough from all of them.
    let young = gc(&engine, now - 1.hour(), false).await;
    assert_eq!((young.removed.len(), young.young.len()), (0, 3));
    let dry = gc(&engine, now + 1.hour(), true).await;
    let kinds = |report: &GcReport| {
        let mut kinds: Vec<_> =
            report.removed.iter().map(|item| (format!("{:?}", item.kind), item.backup_id)).collect();
        kinds.sort();
        kinds
    };
    let expected = [
        ("Incomplete".to_owned(), Some(broken_off.backup_id)),
        ("Superseded".to_owned(), Some(child.backup_id)),
        ("Surplus".to_owned(), Some(full.backup_id)),
    ];
    assert_eq!(kinds(&dry), expected);
    let done = gc(&engine, now + 1.hour(), false).await;
    assert_eq!((kinds(&done), done.bytes_freed, done.foreign.len()), (expected.to_vec(), dry.bytes_freed, 3));
    assert!(foreign.iter().all(|key| done.foreign.contains(key)));
    let left = gc(&engine, now + 1.hour(), false).await;
    assert!(left.removed.is_empty());
    assert!(restored(&engine, child.backup_id).await == data);
    let objects = store.list("").await.unwrap();
    assert_eq!(objects.len() as u64, full.objects + child.objects + 4 + 3);
}

#[tokio::test]
async fn each_kind_in_a_directory() {
    each_kind(Repository::new().store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_on_s3() {
    let server = S3Server::start();
    let options = S3Options {
        endpoint: Some(server.endpoint.clone()),
        region: Some("us-east-1".to_owned()),
        credentials: Some((ACCESS_KEY.to_owned(), SECRET_KEY.to_owned())),
        ..S3Options::default()
    };
    let store: Arc<dyn Store> = Arc::new(ObjectBacked::s3("bucket", "some/prefix", &options).unwrap());
    store.ensure().await.unwrap();
    each_kind(store).await;
}

/// What a killed writer left in a directory; a damaged manifest keeps all that lies beside it.
#[tokio::test]
async fn staged_files_and_manifests_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalStore::new(folder.path()));
    let engine = Engine::new(Arc::clone(&store) as _);
    let made = create(&engine, &noise(1, 50_000), &small(Uuid::new_v4(), ParentChoice::None)).await.unwrap();
    let staged = folder.path().join(".strata-staging/left");
    std::fs::create_dir_all(staged.parent().unwrap()).unwrap();
    std::fs::write(&staged, b"half of it").unwrap();
    std::fs::write(folder.path().join(format!("{}_metadata", made.prefix)), b"{").unwrap();
    std::fs::write(folder.path().join(format!("{}-00099", made.prefix)), b"surplus").unwrap();
    let before = store.list("").await.unwrap().len();
    let report = gc(&engine, Timestamp::MAX, false).await;
    assert_eq!((report.removed.len(), report.removed[0].kind), (1, GcKind::Unfinished));
    assert_eq!((report.removed[0].bytes, report.unread), (None, vec![made.backup_id]));
    assert!(!staged.exists());
    assert_eq!(store.list("").await.unwrap().len(), before);
}

/// Three backups, each made on the one before, and what the volume held at the last.
async fn chain(repository: &Repository) -> (Vec<CreateReport>, Vec<u8>) {
    let (volume, mut data, mut made) = (Uuid::new_v4(), noise(1, 50_000), Vec::new());
    for at in 0..3 {
        data[at * 20_000] ^= 1;
        made.push(repository.create(&data, &small(volume, ParentChoice::Latest)).await.unwrap());
    }
    (made, data)
}

fn ids(items: &[GcItem]) -> Vec<Uuid> {
    let mut ids: Vec<Uuid> = items.iter().filter_map(|item| item.backup_id).collect();
    ids.sort();
    ids
}

/// A manifest that was lost can come back (a bucket with versions, a copy); the chunks that it names must not go before.
#[tokio::test]
async fn what_a_backup_rests_on_stays_without_its_manifest() {
    for lost in [vec![0], vec![1], vec![0, 1]] {
        let repository = Repository::new();
        let (made, data) = chain(&repository).await;
        let (store, engine) = (&repository.store, &repository.engine);
        let mut manifests = Vec::new();
        for at in &lost {
            let key = format!("{}_metadata", made[*at].prefix);
            manifests.push((key.clone(), store.get(&key, 1 << 20).await.unwrap()));
            store.delete(&key).await.unwrap();
        }
        let before = store.list("").await.unwrap();
        let report = gc(engine, Timestamp::MAX, false).await;
        assert_eq!((report.removed.len(), report.young.len(), report.bytes_freed), (0, 0, 0), "{report:?}");
        let mut expected: Vec<Uuid> = lost.iter().map(|at| made[*at].backup_id).collect();
        expected.sort();
        assert_eq!(ids(&report.needed), expected);
        assert_eq!(store.list("").await.unwrap(), before);
        for (key, body) in manifests {
            store.put(&key, body).await.unwrap();
        }
        assert!(restored(engine, made[2].backup_id).await == data, "without {lost:?}");
        assert!(gc(engine, Timestamp::MAX, false).await.needed.is_empty());
    }
}

/// Who rests on what is not known where a manifest cannot be read; other volumes are not concerned.
#[tokio::test]
async fn a_manifest_that_cannot_be_read_keeps_what_it_may_rest_on() {
    let repository = Repository::new();
    let (made, _) = chain(&repository).await;
    let (other, _) = chain(&repository).await;
    let broken_off = [&made[0], &made[1], &other[2]];
    for made in broken_off {
        repository.store.delete(&format!("{}_metadata", made.prefix)).await.unwrap();
    }
    let last = format!("{}_metadata", made[2].prefix);
    repository.store.put(&last, Bytes::from_static(b"{")).await.unwrap();
    let report = gc(&repository.engine, Timestamp::MAX, false).await;
    assert_eq!((ids(&report.removed), report.unread), (vec![other[2].backup_id], vec![made[2].backup_id]));
    let mut expected = [made[0].backup_id, made[1].backup_id];
    expected.sort();
    assert_eq!(ids(&report.needed), expected);
    // Once it is given up, nothing rests on them.
    repository.engine.delete(made[2].backup_id).await.unwrap();
    let report = gc(&repository.engine, Timestamp::MAX, false).await;
    assert_eq!((report.removed.len(), report.needed.len()), (2, 0), "{report:?}");
    assert!(restored(&repository.engine, other[1].backup_id).await.len() == 50_000);
}

/// Its first listing has no manifests: they come back right after it.
#[derive(Debug)]
struct Late {
    inner: Arc<dyn Store>,
    is_back: AtomicBool,
}

impl Store for Late {
    forward!(inner: ensure put get get_range begin delete);

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<ObjectInfo>, StoreError>> {
        Box::pin(async move {
            let mut found = self.inner.list(prefix).await?;
            let is_back = self.is_back.swap(true, Ordering::SeqCst);
            found.retain(|object| is_back || !object.key.ends_with("_metadata"));
            // A manifest that is put back from a copy may be as old as its chunks.
            found.iter_mut().for_each(|object| object.modified = Timestamp::UNIX_EPOCH);
            Ok(found)
        })
    }
}

#[tokio::test]
async fn a_manifest_that_is_put_back_meanwhile_is_seen() {
    let repository = Repository::new();
    let (made, data) = chain(&repository).await;
    let late = Late { inner: Arc::clone(&repository.store), is_back: AtomicBool::new(false) };
    let report = gc(&Engine::new(Arc::new(late)), Timestamp::MAX, false).await;
    assert_eq!((report.removed.len(), report.young.len()), (0, 3), "{report:?}");
    assert!(restored(&repository.engine, made[2].backup_id).await == data);
}
