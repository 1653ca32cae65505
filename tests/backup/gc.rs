//! What belongs to no backup is found, and nothing else is touched.

use crate::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
use crate::util::{Repository, create, noise, restored, small};
use bytes::Bytes;
use jiff::{Timestamp, ToSpan};
use std::sync::Arc;
use strata::backup::store::{LocalStore, ObjectBacked, S3Options, Store};
use strata::backup::{Cancel, Engine, GcKind, GcOptions, GcReport, ParentChoice};
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
