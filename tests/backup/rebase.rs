//! Making successors whole: in every order, onto anything, and broken off at every step.

use crate::util::{Repository, noise, small};
use bytes::Bytes as Body;
use futures::future::BoxFuture;
use proptest::prelude::*;
use std::fmt::{Debug, Formatter};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use strata::backup::format::Compression;
use strata::backup::store::{ObjectInfo, ObjectWriter, Store, StoreError};
use strata::backup::{
    BackupError, Cancel, Canceller, CreateOptions, Engine, ErrorKind, ParentChoice, Progress,
};
use uuid::Uuid;

const LENGTH: usize = 100_003;

/// A full backup and three on it, each with its bytes.
async fn chain(repository: &Repository) -> Vec<(Uuid, Vec<u8>)> {
    let volume = Uuid::new_v4();
    let mut data = noise(9, LENGTH);
    let mut points = Vec::new();
    let edits: [fn(&mut Vec<u8>); 4] = [
        |_| {},
        // Across a window; data to zeros; a whole window.
        |d| d[16 * 1024 - 1..16 * 1024 + 1].fill(3),
        |d| {
            d[40_000..60_000].fill(0);
            d.resize(150_000, 9);
        },
        |d| d[64 * 1024..80 * 1024].iter_mut().for_each(|b| *b ^= 1),
    ];
    for edit in edits {
        edit(&mut data);
        let made = repository.create(&data, &small(volume, ParentChoice::Latest)).await.unwrap();
        points.push((made.backup_id, data.clone()));
    }
    points
}

async fn delete(engine: &Engine, backup: Uuid) -> Result<u64, BackupError> {
    let done = engine.delete_rebasing(backup, &Progress::default(), &Cancel::never()).await?;
    Ok(done.rebased.len() as u64)
}

/// B12: whichever goes, the others restore to their bytes, and the next backup is made on the newest.
#[tokio::test]
async fn any_backup_of_a_chain_can_go() {
    for gone in 0..4 {
        let repository = Repository::new();
        let mut points = chain(&repository).await;
        let (backup, _) = points.remove(gone);
        let refused = repository.engine.delete(backup).await;
        assert_eq!(refused.is_err(), gone < 3);
        let rebased = delete(&repository.engine, backup).await.unwrap_or(0);
        assert_eq!(rebased, u64::from(gone < 3));
        let listed = repository.engine.list(None).await.unwrap();
        assert_eq!(
            listed.iter().map(|info| info.backup_id).collect::<Vec<_>>(),
            points.iter().map(|p| p.0).collect::<Vec<_>>()
        );
        assert_eq!(
            listed.iter().map(|info| (info.depth, info.damage.clone())).collect::<Vec<_>>(),
            [(1, None), (2, None), (3, None)]
        );
        for (backup, data) in &points {
            assert!(repository.restored(*backup).await == *data, "{gone}");
        }
        let objects = repository.store.list("").await.unwrap();
        assert!(objects.iter().all(|object| !object.key.contains(&backup.to_string())));
        let (newest, data) = points.last().unwrap();
        let options = small(listed[0].volume_id, ParentChoice::Latest);
        let next = repository.create(data, &options).await.unwrap();
        assert_eq!((next.parent_id, next.objects), (Some(*newest), 0));
    }
}

/// What is whole is read and checked, and then copied by the store itself; what it does not copy, or not wholly, is seen.
#[tokio::test]
async fn what_is_whole_is_copied_by_the_store() {
    let repository = Repository::new();
    let volume = Uuid::new_v4();
    let mut data = noise(1, LENGTH);
    let full = repository.create(&data, &small(volume, ParentChoice::None)).await.unwrap();
    data[50_000] ^= 1;
    let second = repository.create(&data, &small(volume, ParentChoice::Latest)).await.unwrap();
    let to = repository.engine.clone();
    let (progress, cancel) = (Progress::default(), Cancel::never());
    let exported =
        repository.engine.export_full(second.backup_id, &to, None, &progress, &cancel).await.unwrap();
    let stored = repository.store.list(&format!("{}-", full.prefix)).await.unwrap();
    // All but the one that was overwritten in part.
    let whole = stored.iter().filter(|object| !object.key.ends_with("-00004")).map(|object| object.size);
    assert_eq!((stored.len(), exported.bytes_copied), (7, whole.sum()), "{exported:?}");
    assert!(repository.restored(exported.backup_id).await == data);
    let rebased = repository.engine.rebase(second.backup_id, None, &progress, &cancel).await.unwrap();
    assert_eq!(rebased.bytes_copied, exported.bytes_copied);
    repository.engine.delete(full.backup_id).await.unwrap();
    assert!(repository.restored(second.backup_id).await == data);
}

/// Two successors of one backup; the merged one keeps objects that are whole as they were stored.
#[tokio::test]
async fn each_successor_becomes_whole() {
    let repository = Repository::new();
    let volume = Uuid::new_v4();
    let first = noise(1, LENGTH);
    let full = repository.create(&first, &small(volume, ParentChoice::None)).await.unwrap();
    let mut points = Vec::new();
    for at in [0, 50_000] {
        let mut data = first.clone();
        data[at] ^= 1;
        let options = CreateOptions {
            compression: Compression::Zlib,
            name: Some("kept".to_owned()),
            ..small(volume, ParentChoice::Backup(full.backup_id))
        };
        points.push((repository.create(&data, &options).await.unwrap().backup_id, data));
    }
    assert_eq!(delete(&repository.engine, full.backup_id).await.unwrap(), 2);
    for (backup, data) in points {
        assert!(repository.restored(backup).await == data);
        let shown = repository.engine.show(backup).await.unwrap();
        assert_eq!((shown.chain.len(), shown.backup.objects, shown.bytes_total), (1, 7, LENGTH as u64));
        // One window was cut and packed as the incremental was; the others are as they were.
        assert!(
            shown.compression.contains(&"zlib".to_owned()) && shown.compression.contains(&"zstd".to_owned())
        );
        assert_eq!(shown.backup.name.as_deref(), Some("kept"));
    }
}

/// Damage in what has to be copied ends it: nothing is replaced, nothing stays behind, nothing is deleted.
#[tokio::test]
async fn damage_is_not_copied() {
    let repository = Repository::new();
    let points = chain(&repository).await;
    let before = repository.store.list("").await.unwrap();
    let chunk = before
        .iter()
        .find(|object| object.key.contains(&points[0].0.to_string()) && object.key.ends_with("-00005"));
    std::fs::write(repository.file(&chunk.unwrap().key), b"damaged").unwrap();
    let error = delete(&repository.engine, points[0].0).await.unwrap_err();
    assert!(error.to_string().contains("-00005"), "{error}");
    let keys = |objects: Vec<ObjectInfo>| objects.into_iter().map(|object| object.key).collect::<Vec<_>>();
    assert_eq!(keys(repository.store.list("").await.unwrap()), keys(before));
    // Cancelled, too.
    let (canceller, cancel) = Canceller::new();
    canceller.cancel();
    let error =
        repository.engine.delete_rebasing(points[2].0, &Progress::default(), &cancel).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

/// A store whose machine dies: after so many changes nothing succeeds any more, not even cleaning up.
struct Dying {
    store: Arc<dyn Store>,
    left: Arc<AtomicI64>,
}

impl Dying {
    fn step(&self) -> Result<(), StoreError> {
        die(&self.left)
    }
}

fn die(left: &AtomicI64) -> Result<(), StoreError> {
    match left.fetch_sub(1, Ordering::SeqCst) > 0 {
        true => Ok(()),
        false => {
            Err(StoreError::Backend { operation: "reaching", key: String::new(), source: "dead".into() })
        }
    }
}

impl Debug for Dying {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dying")
    }
}

#[derive(Debug)]
struct DyingWriter(Box<dyn ObjectWriter>, Arc<AtomicI64>);

impl ObjectWriter for DyingWriter {
    fn write(&mut self, bytes: Body) -> BoxFuture<'_, Result<(), StoreError>> {
        self.0.write(bytes)
    }
    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(async move {
            die(&self.1)?;
            self.0.finish().await
        })
    }
    fn replace(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        self.0.replace()
    }
    fn abort(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        self.0.abort()
    }
}

impl Store for Dying {
    forward!(store: ensure get get_range list);

    fn put<'a>(&'a self, key: &'a str, body: Body) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.step()?;
            self.store.put(key, body).await
        })
    }
    fn begin<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Box<dyn ObjectWriter>, StoreError>> {
        Box::pin(async move {
            let writer = DyingWriter(self.store.begin(key).await?, Arc::clone(&self.left));
            Ok(Box::new(writer) as Box<dyn ObjectWriter>)
        })
    }
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.step()?;
            self.store.delete(key).await
        })
    }
}

/// Wherever it dies, each other backup restores, is listed once, and doing it again comes to the same end.
#[tokio::test]
async fn broken_off_at_every_step() {
    let mut died = 0;
    for steps in 0.. {
        let repository = Repository::new();
        let points = chain(&repository).await;
        let left = Arc::new(AtomicI64::new(steps));
        let dying = Engine::new(Arc::new(Dying { store: Arc::clone(&repository.store), left }));
        let done = delete(&dying, points[1].0).await;
        let others = [&points[0], &points[2], &points[3]];
        let listed = repository.engine.list(None).await.unwrap();
        for (backup, data) in others {
            assert!(repository.restored(*backup).await == *data, "after {steps} steps");
            let infos: Vec<_> = listed.iter().filter(|info| info.backup_id == *backup).collect();
            assert!(infos.len() == 1 && infos[0].damage.is_none(), "after {steps} steps: {infos:?}");
        }
        let over = done.is_ok();
        if !over {
            died += 1;
            // Gone already, when only its last objects were left or it was never found again.
            if let Err(error) = delete(&repository.engine, points[1].0).await {
                assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            }
        }
        let options = strata::backup::GcOptions { before: jiff::Timestamp::MAX, dry_run: false };
        repository.engine.gc(options, &Cancel::never()).await.unwrap();
        let again = repository.engine.gc(options, &Cancel::never()).await.unwrap();
        assert!(again.removed.is_empty() && again.foreign.is_empty(), "{again:?}");
        let listed = repository.engine.list(None).await.unwrap();
        assert_eq!(listed.iter().map(|info| info.depth).collect::<Vec<_>>(), [1, 2, 3]);
        for (backup, data) in others {
            assert!(repository.restored(*backup).await == *data);
        }
        let objects = repository.store.list("").await.unwrap();
        let named: u64 = listed.iter().map(|info| info.objects + 2).sum();
        assert_eq!(objects.len() as u64, named, "after {steps} steps something is left over");
        if over {
            break;
        }
    }
    assert!(died > 8, "it died {died} times only");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Any history, deleted in any order: those that are left restore to their bytes.
    #[test]
    fn deleted_in_any_order(
        edits in prop::collection::vec(prop::collection::vec((0usize..40_000, 1usize..9000, any::<Option<u8>>()), 0..4), 2..5),
        order in prop::collection::vec(any::<prop::sample::Index>(), 4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let repository = Repository::new();
            let volume = Uuid::new_v4();
            let mut data = noise(4, 35_000);
            let mut points = Vec::new();
            for edit in edits {
                for (start, length, byte) in edit {
                    let range = start.min(35_000)..(start + length).min(35_000);
                    data[range].fill(byte.unwrap_or(0));
                }
                let options = small(volume, points.last().map_or(ParentChoice::None, |(id, _): &(Uuid, _)| ParentChoice::Backup(*id)));
                points.push((repository.create(&data, &options).await.unwrap().backup_id, data.clone()));
            }
            for index in order {
                if points.len() == 1 {
                    break;
                }
                let (gone, _) = points.remove(index.index(points.len()));
                delete(&repository.engine, gone).await.unwrap();
                for (backup, data) in &points {
                    assert!(repository.restored(*backup).await == *data);
                }
            }
        });
    }
}
