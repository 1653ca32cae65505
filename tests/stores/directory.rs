//! What only a directory does: durable without leftovers, private, fast to list.

use bytes::Bytes;
use futures::future::join_all;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};
use strata::backup::store::{LocalStore, Store, StoreError};

#[tokio::test(flavor = "multi_thread")]
async fn what_it_makes_is_private() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("repository");
    let store = LocalStore::new(&root);
    store.put_new("volume_a/1/new", Bytes::from_static(b"1")).await.unwrap();
    store.put("volume_a/1/put", Bytes::from_static(b"1")).await.unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    for (path, expected) in
        [("", 0o700), ("volume_a/1", 0o700), ("volume_a/1/new", 0o600), ("volume_a/1/put", 0o600)]
    {
        assert_eq!(mode(&root.join(path)), expected, "{path:?}");
    }
}

/// What a writer that was killed leaves is no object, is told, and can be removed.
#[tokio::test(flavor = "multi_thread")]
async fn leftovers_are_told_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path()).without_nameless_files(true);
    let mut writer = store.begin("volume_a/1").await.unwrap();
    writer.write(Bytes::from_static(b"some")).await.unwrap();
    let left = store.unfinished().await.unwrap();
    assert_eq!(left.len(), 1);
    assert!((jiff::Timestamp::now() - left[0].begun).total(jiff::Unit::Second).unwrap().abs() < 60.0);
    assert_eq!(store.list("").await.unwrap(), vec![]);
    store.remove_unfinished(&left[0]).await.unwrap();
    store.remove_unfinished(&left[0]).await.unwrap();
    assert_eq!(store.unfinished().await.unwrap(), vec![]);
    // Whoever still writes it fails, and nothing appears.
    assert!(writer.finish().await.is_err());
    assert_eq!(store.list("").await.unwrap(), vec![]);
    // A nameless file cannot be left at all.
    let nameless = LocalStore::new(folder.path());
    let mut writer = nameless.begin("volume_a/1").await.unwrap();
    writer.write(Bytes::from_static(b"some")).await.unwrap();
    assert_eq!(nameless.unfinished().await.unwrap(), vec![]);
}

/// A listing never leaves the directory, whatever the prefix is.
#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_cannot_lead_outside() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("outside"), "x").unwrap();
    let store = LocalStore::new(folder.path().join("repository"));
    store.put_new("inside", Bytes::new()).await.unwrap();
    let absolute = format!("{}/", folder.path().display());
    for prefix in ["../", "../outside", "a/../../", absolute.as_str(), "/"] {
        assert_eq!(store.list(prefix).await.unwrap(), vec![], "{prefix}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_its_place_and_a_directory_that_may_not_be_written_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = LocalStore::new(file.join("below")).ensure().await.unwrap_err().to_string();
    assert!(error.contains("/file is there and is no directory"), "{error}");
    // On /proc nobody can make a directory, root neither.
    let error = LocalStore::new("/proc/strata").put_new("a", Bytes::new()).await.unwrap_err();
    assert!(matches!(error, StoreError::Backend { .. }), "{error}");
}

/// Names in many folders and in one; milliseconds per thousand, not seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_many_objects_is_quick() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    for set in 0..10 {
        let below = folder.path().join(format!("volume_{set}/20260101000000"));
        std::fs::create_dir_all(&below).unwrap();
        for chunk in 0..1000 {
            std::fs::write(below.join(format!("az_nova_backup_x-{chunk:05}")), "").unwrap();
        }
    }
    let store = LocalStore::new(folder.path());
    let started = Instant::now();
    let listed = store.list("").await.unwrap();
    let whole = started.elapsed();
    assert_eq!(listed.len(), 10_000);
    assert!(listed.is_sorted());
    assert!(whole < Duration::from_secs(2), "10,000 objects took {whole:?}");
    assert_eq!(store.list("volume_3/20260101000000/az_nova_backup_x-0001").await.unwrap().len(), 10);
}

/// Puts at the same time share the flushes of their folder, and all of them are there.
#[tokio::test(flavor = "multi_thread")]
async fn many_puts_at_the_same_time_all_land() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path().join("repository"));
    let keys: Vec<String> = (0..200).map(|n| format!("volume_{}/{n}", n % 3)).collect();
    let puts = keys.iter().map(|key| store.put_new(key, Bytes::copy_from_slice(key.as_bytes())));
    for result in join_all(puts).await {
        result.unwrap();
    }
    assert_eq!(store.list("").await.unwrap().len(), 200);
    for key in &keys {
        assert_eq!(store.get(key, 100).await.unwrap(), key.as_str());
    }
}
