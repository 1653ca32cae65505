//! The contract over each kind of store that a test can have by itself.

use crate::contract::{contract, contract_without_races, job};
use crate::requests::options;
use crate::s3_server::S3Server;
use bytes::Bytes;
use rstest::rstest;
use std::sync::Arc;
use strata::backup::store::{LocalStore, ObjectBacked, RepositoryUrl, S3Options, Store, StoreError};

#[tokio::test]
async fn memory_keeps_the_contract() {
    contract(&ObjectBacked::memory()).await;
    job(Arc::new(ObjectBacked::memory())).await;
}

#[tokio::test(flavor = "multi_thread")]
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

#[rstest]
#[case::with_links(true)]
#[case::with_renames_only(false)]
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_a_lesser_filesystem_keeps_the_contract(#[case] links: bool) {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path()).without_nameless_files(links);
    contract(&store).await;
    job(Arc::new(store)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_memory_keeps_the_contract() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    contract(&LocalStore::new(folder.path().join("repository"))).await;
}

fn s3_store(server: &S3Server, bucket: &str, prefix: &str) -> ObjectBacked {
    // A busy machine is no stalled store.
    let options = S3Options { timeouts: Default::default(), ..options(&server.endpoint) };
    ObjectBacked::s3(bucket, prefix, &options).unwrap()
}

/// B4: the bucket is made when it is missing. This server looks and then writes. B15: path style, unsigned payloads.
#[tokio::test(flavor = "multi_thread")]
async fn s3_keeps_the_contract_and_makes_its_bucket() {
    let server = S3Server::start();
    let store = s3_store(&server, "new-bucket", "");
    let missing = store.list("").await.unwrap_err();
    assert!(matches!(missing, StoreError::NoRepository { .. }), "{missing:?}");
    contract_without_races(&store).await;
    job(Arc::new(store)).await;
    let prefixed = s3_store(&server, "new-bucket", "some/prefix");
    contract_without_races(&prefixed).await;
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
