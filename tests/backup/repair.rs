//! Repairs: from other backups, from an image, from what is left; and what cannot be repaired.

use crate::restore::{Harm, harm};
use crate::util::{Bytes, Repository, noise, small};
use bytes::Bytes as Body;
use futures::future::BoxFuture;
use rstest::rstest;
use std::sync::Arc;
use std::time::Duration;
use strata::backup::format::Compression;
use strata::backup::store::{Store, StoreError};
use strata::backup::{
    BackupError, Cancel, Canceller, CreateOptions, Engine, ErrorKind, Limits, ParentChoice, Progress,
    RepairOptions, RepairReport, SnapshotSource,
};
use uuid::Uuid;

async fn repair(repository: &Repository, backup: Uuid, image: Option<&[u8]>) -> RepairReport {
    let source = image.map(|data| Arc::new(Bytes(data.to_vec())) as Arc<dyn SnapshotSource>);
    with_block(repository, backup, source, None).await.unwrap()
}

async fn with_block(
    repository: &Repository,
    backup: Uuid,
    source: Option<Arc<dyn SnapshotSource>>,
    hash_block: Option<u64>,
) -> Result<RepairReport, BackupError> {
    let options = RepairOptions { backup, source, hash_block, limits: Limits::default() };
    repository.engine.repair(&options, &Progress::default(), &Cancel::never()).await
}

/// From an image of a later day that still has these blocks; from a second full backup; by each word of compression.
#[rstest]
#[tokio::test]
async fn chunks_are_made_anew(
    #[values(Harm::BitFlip, Harm::Truncated, Harm::Missing, Harm::Swapped, Harm::Bomb)] kind: Harm,
    #[values(Compression::Zstd, Compression::Zlib, Compression::None)] compression: Compression,
    #[values(true, false)] from_image: bool,
) {
    let repository = Repository::new();
    let (volume, mut data) = (Uuid::new_v4(), noise(1, 100_003));
    let options = CreateOptions { compression, ..small(volume, ParentChoice::None) };
    let full = repository.create(&data, &options).await.unwrap();
    let before = data.clone();
    data[70_000] ^= 1;
    if !from_image {
        repository.create(&data, &options).await.unwrap();
    }
    let key = harm(&repository, &full.prefix, 2, kind);
    let report = repair(&repository, full.backup_id, from_image.then_some(&data[..])).await;
    assert!(report.good && report.left.is_empty(), "{report:?}");
    assert_eq!(report.repaired.len(), 1);
    assert_eq!(report.repaired[0].object, key);
    assert!(repository.restored(full.backup_id).await == before);
    assert!(repair(&repository, full.backup_id, None).await.repaired.is_empty());
}

/// What is nowhere else is named, nothing is stored for it, and what is left of the object stays.
#[tokio::test]
async fn what_is_lost_is_named() {
    let repository = Repository::new();
    let (volume, mut data) = (Uuid::new_v4(), noise(2, 100_003));
    let options = CreateOptions { compression: Compression::None, ..small(volume, ParentChoice::None) };
    let full = repository.create(&data, &options).await.unwrap();
    let key = harm(&repository, &full.prefix, 2, Harm::BitFlip);
    let damaged = std::fs::read(repository.file(&key)).unwrap();
    // The image differs in the very block that is damaged.
    data[16_384 + 8192] ^= 1;
    let report = repair(&repository, full.backup_id, Some(&data)).await;
    assert!(!report.good && report.repaired.is_empty());
    assert_eq!(report.left.len(), 1);
    assert!(report.left[0].reason.contains("the bytes 24576-25600 are found nowhere else"), "{report:?}");
    assert_eq!(std::fs::read(repository.file(&key)).unwrap(), damaged);
}

/// A hash file that is lost or wrong is made from the chunks, byte for byte; with a chunk lost too it cannot.
#[rstest]
#[case::missing(None)]
#[case::garbage(Some(&b"{"[..]))]
#[tokio::test]
async fn a_hash_file_is_made_anew(#[case] content: Option<&[u8]>) {
    let repository = Repository::new();
    let (volume, mut data) = (Uuid::new_v4(), noise(3, 100_003));
    repository.create(&data, &small(volume, ParentChoice::None)).await.unwrap();
    data[40_000..60_000].fill(0);
    let made = repository.create(&data, &small(volume, ParentChoice::Latest)).await.unwrap();
    let key = format!("{}_sha256file", made.prefix);
    let before = std::fs::read(repository.file(&key)).unwrap();
    let spoil = || match content {
        Some(bytes) => std::fs::write(repository.file(&key), bytes).unwrap(),
        None => std::fs::remove_file(repository.file(&key)).unwrap(),
    };
    spoil();
    let report = repair(&repository, made.backup_id, None).await;
    assert!(report.good, "{report:?}");
    assert!(std::fs::read(repository.file(&key)).unwrap() == before);
    assert!(repository.restored(made.backup_id).await == data);
    spoil();
    let chunk = harm(&repository, &made.prefix, 1, Harm::Missing);
    let report = repair(&repository, made.backup_id, None).await;
    let left: Vec<&str> = report.left.iter().map(|damage| damage.object.as_str()).collect();
    assert!(!report.good && left.contains(&key.as_str()) && left.contains(&chunk.as_str()), "{report:?}");
}

/// A block size that is told is used when nothing else tells; one that no reader understands, or that does not fit the
/// chunks, makes no file.
#[tokio::test]
async fn a_block_size_that_is_told() {
    let repository = Repository::new();
    let data = noise(5, 10_000);
    let full = repository.create(&data, &small(Uuid::new_v4(), ParentChoice::None)).await.unwrap();
    let key = format!("{}_sha256file", full.prefix);
    let path = repository.file(&key);
    let before = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    for block in [0, 1, 256, 511, (1 << 30) + 1, u64::MAX] {
        let error = with_block(&repository, full.backup_id, None, Some(block)).await.unwrap_err();
        assert!(
            error.kind() == ErrorKind::Usage && error.to_string().contains("a hash block has"),
            "{error}"
        );
        assert!(!path.exists());
    }
    let report = with_block(&repository, full.backup_id, None, Some(1024)).await.unwrap();
    assert!(report.good && std::fs::read(&path).unwrap() == before, "{report:?}");
    // What is left of the file tells: its header is whole.
    let garbled = String::from_utf8(before.clone()).unwrap().replacen("\n    \"", "\n    \"x", 1);
    std::fs::write(&path, garbled).unwrap();
    let report = with_block(&repository, full.backup_id, None, Some(2048)).await.unwrap();
    assert!(report.good && std::fs::read(&path).unwrap() == before, "{report:?}");
    assert!(repository.restored(full.backup_id).await == data);
    // Several chunks, and a block that is as large as two of them.
    let data = noise(6, 50_000);
    let full = repository.create(&data, &small(Uuid::new_v4(), ParentChoice::None)).await.unwrap();
    let path = repository.file(&format!("{}_sha256file", full.prefix));
    std::fs::write(&path, "{").unwrap();
    let report = with_block(&repository, full.backup_id, None, Some(32_768)).await.unwrap();
    assert!(!report.good && report.left[0].reason.contains("do not fit"), "{report:?}");
    assert_eq!(std::fs::read(&path).unwrap(), b"{");
}

/// Behind a bad byte in the middle of a hash file the chunks are looked at, too: first they are mended, then it.
#[tokio::test]
async fn a_chunk_behind_a_damaged_hash() {
    let repository = Repository::new();
    let data = noise(7, 100_003);
    let full = repository.create(&data, &small(Uuid::new_v4(), ParentChoice::None)).await.unwrap();
    let hashes = format!("{}_sha256file", full.prefix);
    let before = std::fs::read(repository.file(&hashes)).unwrap();
    let mut garbled = before.clone();
    // The third chunk's; the first two have their hashes.
    let at = 40 * 72 + before.iter().position(|b| *b == b'[').unwrap();
    garbled[at + 20] = b'~';
    std::fs::write(repository.file(&hashes), &garbled).unwrap();
    let chunk = harm(&repository, &full.prefix, 5, Harm::BitFlip);
    let report = repair(&repository, full.backup_id, None).await;
    let left: Vec<&str> = report.left.iter().map(|damage| damage.object.as_str()).collect();
    assert_eq!(left, [chunk.as_str(), hashes.as_str()], "{report:?}");
    let report = repair(&repository, full.backup_id, Some(&data)).await;
    assert!(report.good, "{report:?}");
    let repaired: Vec<&str> = report.repaired.iter().map(|done| done.object.as_str()).collect();
    assert_eq!(repaired, [chunk.as_str(), hashes.as_str()]);
    assert!(std::fs::read(repository.file(&hashes)).unwrap() == before);
    assert!(repository.restored(full.backup_id).await == data);
}

/// A lost manifest cannot be made anew, and is told of.
#[tokio::test]
async fn a_manifest_stays_lost() {
    let repository = Repository::new();
    let data = noise(4, 50_000);
    let full = repository.create(&data, &small(Uuid::new_v4(), ParentChoice::None)).await.unwrap();
    let key = format!("{}_metadata", full.prefix);
    std::fs::write(repository.file(&key), b"{").unwrap();
    let report = repair(&repository, full.backup_id, Some(&data)).await;
    assert!(
        !report.good && report.left[0].object == key && report.left[0].reason.contains("a manifest cannot")
    );
    assert_eq!(std::fs::read(repository.file(&key)).unwrap(), b"{");
}

/// Another backup's objects never come.
#[derive(Debug)]
struct Stalling {
    store: Arc<dyn Store>,
    other: String,
    canceller: Canceller,
}

impl Store for Stalling {
    forward!(store: ensure put get_range begin delete list);

    fn get<'a>(&'a self, key: &'a str, limit: u64) -> BoxFuture<'a, Result<Body, StoreError>> {
        if !key.starts_with(&self.other) || key.ends_with("_metadata") {
            return self.store.get(key, limit);
        }
        self.canceller.cancel();
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn a_repair_is_stopped_while_it_waits_for_bytes() {
    let repository = Repository::new();
    let (volume, data) = (Uuid::new_v4(), noise(8, 50_000));
    let full = repository.create(&data, &small(volume, ParentChoice::None)).await.unwrap();
    let other = repository.create(&data, &small(volume, ParentChoice::None)).await.unwrap();
    harm(&repository, &full.prefix, 2, Harm::Missing);
    let (canceller, cancel) = Canceller::new();
    let store = Stalling { store: Arc::clone(&repository.store), other: other.prefix, canceller };
    let options =
        RepairOptions { backup: full.backup_id, source: None, hash_block: None, limits: Limits::default() };
    let (engine, progress) = (Engine::new(Arc::new(store)), Progress::default());
    let stopped = tokio::time::timeout(Duration::from_secs(60), engine.repair(&options, &progress, &cancel));
    let stopped = stopped.await.expect("it waits");
    assert!(matches!(stopped, Err(BackupError::Cancelled)), "{stopped:?}");
    assert!(repair(&repository, full.backup_id, None).await.good);
}
