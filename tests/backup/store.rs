//! One contract for every store: memory, a directory, S3 over HTTP.

use crate::s3_server::S3Server;
use crate::util::{create, restored, s3_store, small};
use bytes::Bytes;
use std::sync::Arc;
use strata::backup::store::{LocalStore, ObjectBacked, RepositoryUrl, Store, StoreError};
use strata::backup::{Engine, ParentChoice};
use uuid::Uuid;

async fn contract(store: &dyn Store) {
    store.ensure().await.unwrap();
    store.ensure().await.unwrap();
    assert_eq!(store.list("").await.unwrap(), vec![]);
    let keys = ["volume_a/1/x-00001", "volume_a/1/x_metadata", "volume_a/2/y_metadata", "volume_b/1/z"];
    for key in keys {
        store.put(key, Bytes::from(key.repeat(3))).await.unwrap();
    }
    assert_eq!(store.get(keys[0], 1000).await.unwrap(), keys[0].repeat(3));
    // A prefix is text: it may end inside a name.
    for (prefix, expected) in [
        ("volume_a/1/x", &keys[..2]),
        ("volume_a/1/x-", &keys[..1]),
        ("volume_a/", &keys[..3]),
        ("volume_", &keys[..]),
        ("w", &[]),
    ] {
        let listed = store.list(prefix).await.unwrap();
        assert_eq!(listed.iter().map(|o| o.key.as_str()).collect::<Vec<_>>(), expected, "{prefix}");
        assert!(listed.iter().all(|o| o.size == 3 * o.key.len() as u64));
    }
    // Over one of that name, and read back at once.
    store.put(keys[0], Bytes::from_static(b"new")).await.unwrap();
    assert_eq!(store.get(keys[0], 3).await.unwrap(), "new");
    assert!(matches!(store.get(keys[0], 2).await, Err(StoreError::TooLarge { size: 3, limit: 2, .. })));
    assert!(matches!(store.get("volume_a/1/none", 9).await, Err(StoreError::Missing { .. })));
    store.put("volume_b/empty", Bytes::new()).await.unwrap();
    assert_eq!(store.get("volume_b/empty", 0).await.unwrap(), "");
    for (range, expected) in [(0..2, "ne"), (1..3, "ew"), (2..9, "w"), (3..9, ""), (7..9, "")] {
        assert_eq!(store.get_range(keys[0], range).await.unwrap(), expected);
    }
    assert!(matches!(store.get_range("volume_a/1/none", 0..1).await, Err(StoreError::Missing { .. })));
    bit_by_bit(store).await;
    for key in ["../x", "a/../b", "/a", "a//b", "", "a b", "a/"] {
        assert!(matches!(store.put(key, Bytes::new()).await, Err(StoreError::BadKey { .. })), "{key:?}");
    }
    for key in keys {
        store.delete(key).await.unwrap();
        store.delete(key).await.unwrap();
    }
    store.delete("volume_b/empty").await.unwrap();
    assert_eq!(store.list("").await.unwrap(), vec![]);
}

/// Bytes that come one after the other are an object only at the end; more than one part of them, or none.
async fn bit_by_bit(store: &dyn Store) {
    let key = "volume_b/bits";
    for part in [0usize, 1000, 5 << 20] {
        let parts: Vec<Bytes> = (1..=4).map(|n| Bytes::from(vec![n; part])).collect();
        let mut broken_off = store.begin(key).await.unwrap();
        broken_off.write(parts[0].clone()).await.unwrap();
        broken_off.abort().await.unwrap();
        let mut writer = store.begin(key).await.unwrap();
        for part in &parts {
            writer.write(part.clone()).await.unwrap();
        }
        assert_eq!(store.list(key).await.unwrap(), vec![]);
        writer.finish().await.unwrap();
        assert_eq!(store.get(key, 1 << 30).await.unwrap(), parts.concat());
        store.delete(key).await.unwrap();
    }
    assert!(matches!(store.begin("../x").await, Err(StoreError::BadKey { .. })));
}

/// The whole job over a store: full, incremental, both restored.
async fn job(store: Arc<dyn Store>) {
    let engine = Engine::new(store);
    let volume = Uuid::new_v4();
    let mut data = crate::util::noise(1, 100_000);
    let full = create(&engine, &data, &small(volume, ParentChoice::None)).await.unwrap();
    let before = data.clone();
    data[50_000] ^= 1;
    let second = create(&engine, &data, &small(volume, ParentChoice::Latest)).await.unwrap();
    assert_eq!((second.parent_id, second.objects), (Some(full.backup_id), 1));
    assert!(restored(&engine, full.backup_id).await == before);
    assert!(restored(&engine, second.backup_id).await == data);
    engine.delete(second.backup_id).await.unwrap();
    engine.delete(full.backup_id).await.unwrap();
    assert!(engine.list(None).await.unwrap().is_empty());
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    contract(&ObjectBacked::memory()).await;
    job(Arc::new(ObjectBacked::memory())).await;
}

#[tokio::test]
async fn a_directory_keeps_the_contract_and_leaves_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("not/there/yet");
    let store = LocalStore::new(&root);
    let missing = store.list("").await.unwrap_err();
    assert!(matches!(missing, StoreError::NoRepository { .. }), "{missing:?}");
    contract(&store).await;
    job(Arc::new(store)).await;
    let left: Vec<_> = std::fs::read_dir(&root).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [".strata-staging"]);
    assert_eq!(std::fs::read_dir(root.join(".strata-staging")).unwrap().count(), 0);
}

/// B4: the bucket is made when it is missing. B15: path style, unsigned payloads.
#[tokio::test(flavor = "multi_thread")]
async fn s3_keeps_the_contract_and_makes_its_bucket() {
    let server = S3Server::start();
    let store = s3_store(&server, "new-bucket", "");
    let missing = store.list("").await.unwrap_err();
    assert!(matches!(missing, StoreError::NoRepository { .. }), "{missing:?}");
    contract(&store).await;
    job(Arc::new(store)).await;
    let prefixed = s3_store(&server, "new-bucket", "some/prefix");
    contract(&prefixed).await;
    prefixed.put("a", Bytes::from_static(b"1")).await.unwrap();
    assert_eq!(s3_store(&server, "new-bucket", "").list("some/").await.unwrap()[0].key, "some/prefix/a");
}

#[test]
fn urls() {
    for good in ["s3://bucket", "s3://bucket/some/prefix", "file:///a/b"] {
        assert_eq!(good.parse::<RepositoryUrl>().unwrap().to_string(), good);
    }
    for bad in ["", "bucket", "s3://", "s3://Bucket", "s3://b/../c", "file://relative", "http://x/y"] {
        assert!(bad.parse::<RepositoryUrl>().is_err(), "{bad}");
    }
}
