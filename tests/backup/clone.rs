//! The first backup of a volume that was made from another one, or from a backup: the store copies what it has, and only
//! what differs is read and uploaded.

use crate::util::{Bytes, Repository, noise, small};
use bytes::Bytes as Body;
use futures::future::{BoxFuture, join};
use rstest::rstest;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use strata::backup::format::VolumeMeta;
use strata::backup::store::{Store, StoreError};
use strata::backup::{
    BackupError, Cancel, Changed, CreateOptions, CreateReport, DataPoint, Engine, Limits, Origin,
    ParentChoice, Progress, Resume, SnapshotSource, VerifyOptions, Which,
};
use strata::image::ReadError;
use uuid::Uuid;

const KIB: u64 = 1024;
const CHUNK: u64 = 16 * KIB;

/// A volume that knows what it was made from, and perhaps what changed since.
struct Made {
    volume: Bytes,
    point: DataPoint,
    origins: Vec<Origin>,
    changed: HashMap<DataPoint, Vec<Range<u64>>>,
}

impl SnapshotSource for Made {
    fn size(&self) -> u64 {
        self.volume.size()
    }
    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        self.volume.data_ranges(range)
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), ReadError> {
        self.volume.read_at(buffer, offset)
    }
    fn point(&self) -> Option<DataPoint> {
        Some(self.point)
    }
    fn origins(&self) -> Vec<Origin> {
        self.origins.clone()
    }
    fn changed_since(&self, earlier: &DataPoint) -> Result<Changed, ReadError> {
        let unknown = || Changed::Unknown("nobody knows".to_owned());
        Ok(self.changed.get(earlier).map_or_else(unknown, |ranges| Changed::Only(ranges.clone())))
    }
}

fn point() -> DataPoint {
    DataPoint { incarnation: Uuid::new_v4(), snapshot: Uuid::new_v4() }
}

fn options(volume: Uuid) -> CreateOptions {
    let meta = VolumeMeta::new(BTreeMap::new(), BTreeMap::new()).encode();
    CreateOptions { volume_meta: Some(meta), ..small(volume, ParentChoice::Latest) }
}

async fn create(
    engine: &Engine,
    source: &Arc<Made>,
    options: &CreateOptions,
) -> Result<CreateReport, BackupError> {
    engine.create(Arc::clone(source) as _, options, &Progress::default(), &Cancel::never()).await
}

/// How a clone is known to come from its origin.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// By the deltas from the state that was backed up.
    Deltas,
    /// By the deltas from its own first state, which is what the backup holds.
    Restored,
    /// It is known from which volume, no more.
    Vaguely,
}

/// A volume of thirteen chunks, two of them zeros, with a full backup and one on it: of the second chunk a block is
/// another one there.
struct World {
    repository: Repository,
    volume: Uuid,
    point: DataPoint,
    full: CreateReport,
    second: CreateReport,
    data: Vec<u8>,
}

impl World {
    async fn new() -> World {
        let (repository, volume, mut data) = (Repository::new(), Uuid::new_v4(), noise(1, 200_000));
        data[4 * CHUNK as usize..6 * CHUNK as usize].fill(0);
        let made = |data: &[u8]| {
            let volume = Bytes(data.to_vec());
            Arc::new(Made { volume, point: point(), origins: Vec::new(), changed: HashMap::new() })
        };
        let full = create(&repository.engine, &made(&data), &options(volume)).await.unwrap();
        assert_eq!((full.objects, full.copied_from), (13, None));
        data[20_000] ^= 1;
        let source = made(&data);
        let second = create(&repository.engine, &source, &options(volume)).await.unwrap();
        assert_eq!((second.parent_id, second.objects), (Some(full.backup_id), 1));
        World { repository, volume, point: source.point, full, second, data }
    }

    /// A volume made from the second backup's state.
    fn clone(&self, data: &[u8], changed: &[Range<u64>], way: Way) -> Arc<Made> {
        let first = if way == Way::Restored { point() } else { self.point };
        let (volume, backup) = (self.volume, self.second.backup_id);
        let origin = match way {
            Way::Deltas => Origin::Volume { volume, states: vec![point(), first] },
            Way::Restored => Origin::Backup { volume, backup, state: Some(first) },
            Way::Vaguely => Origin::Volume { volume, states: Vec::new() },
        };
        let known = (way != Way::Vaguely).then(|| (first, changed.to_vec()));
        let (volume, changed) = (Bytes(data.to_vec()), known.into_iter().collect());
        Arc::new(Made { volume, point: point(), origins: vec![origin], changed })
    }

    /// One changed byte in the seventh chunk, and 3000 bytes more.
    fn changed(&self) -> (Vec<u8>, Vec<Range<u64>>) {
        let mut data = self.data.clone();
        data[100_000] ^= 1;
        data.extend(noise(2, 3000));
        (data, vec![99_999..100_001])
    }

    async fn verify(&self) {
        let options = VerifyOptions { which: Which::All, data: 1.0, seed: 1, limits: Limits::default() };
        let report = self.repository.engine.verify(&options, &Progress::default(), &Cancel::never()).await;
        assert!(report.as_ref().unwrap().good, "{report:?}");
    }

    async fn json(&self, made: &CreateReport, end: &str) -> Value {
        let bytes = self.repository.store.get(&format!("{}{end}", made.prefix), 1 << 20).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    async fn sets_of(&self, volume: Uuid) -> usize {
        self.repository.engine.catalog().sets(Some(volume)).await.unwrap().len()
    }
}

/// What is read and put is the objects that are not whole any more; all else is copied. The backup is a full one for
/// every reader, and the clone's own.
#[rstest]
#[tokio::test]
async fn what_the_origin_has_stored_is_copied(#[values(Way::Deltas, Way::Restored, Way::Vaguely)] way: Way) {
    let world = World::new().await;
    let (mut data, changed) = world.changed();
    let (engine, volume) = (&world.repository.engine, Uuid::new_v4());
    let made = create(engine, &world.clone(&data, &changed, way), &options(volume)).await.unwrap();
    assert_eq!((made.parent_id, made.copied_from), (None, Some(world.second.backup_id)));
    assert_eq!(made.full_because.as_deref(), Some("the volume has no earlier backup"));
    assert_eq!(made.read_all_because.is_some(), way == Way::Vaguely, "{made:?}");
    // Of the 13 chunks one was overwritten in part, one is changed, one has become longer; and the second's block.
    assert_eq!((made.objects_copied, made.objects), (11, 15));
    let stored = CHUNK - KIB + CHUNK + (203_000 - 12 * CHUNK);
    let allocated = 203_000 - 2 * CHUNK;
    let read = if way == Way::Vaguely { allocated + stored } else { stored };
    assert_eq!((made.bytes_changed, made.bytes_read), (stored, read));
    assert!(made.bytes_copied > 0 && made.bytes_uploaded < world.full.bytes_uploaded, "{made:?}");
    // As Cinder reads it: one after the other, without a gap.
    let manifest = world.json(&made, "_metadata").await;
    assert_eq!(manifest["parent_id"], Value::Null);
    let mut at = 0;
    for object in manifest["objects"].as_array().unwrap() {
        let extent = object.as_object().unwrap().values().next().unwrap();
        assert_eq!(extent["offset"], at);
        at += extent["length"].as_u64().unwrap();
    }
    assert_eq!(at, 203_000);
    let meta: Value = serde_json::from_str(manifest["volume_meta"].as_str().unwrap()).unwrap();
    let told = &meta["volume-metadata"];
    assert_eq!(told["strata.copied-from-backup"], world.second.backup_id.to_string());
    assert_eq!(told["strata.copied-from-volume"], world.volume.to_string());
    // The hashes are those of a backup that has read everything.
    let alone = Repository::new();
    let whole = alone.create(&data, &small(volume, ParentChoice::None)).await.unwrap();
    let expected = alone.store.get(&format!("{}_sha256file", whole.prefix), 1 << 20).await.unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    assert_eq!(world.json(&made, "_sha256file").await["sha256s"], expected["sha256s"]);
    for backup in [world.second.backup_id, world.full.backup_id] {
        engine.delete(backup).await.unwrap();
    }
    world.verify().await;
    assert!(world.repository.restored(made.backup_id).await == data);
    data[5] ^= 1;
    let next = create(engine, &world.clone(&data, &[], Way::Vaguely), &options(volume)).await.unwrap();
    assert_eq!((next.parent_id, next.copied_from), (Some(made.backup_id), None));
    assert!(world.repository.restored(next.backup_id).await == data);
}

/// A chain that Cinder wrote is as good: nothing is known but its hashes.
#[tokio::test]
async fn an_origin_that_cinder_wrote() {
    let repository = Repository::new();
    let bucket = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cinder/zstd/bucket");
    assert!(
        Command::new("cp").arg("-r").arg(bucket).arg(repository.path("repo")).status().unwrap().success()
    );
    let listed = repository.engine.list(None).await.unwrap();
    let (volume, backup) = (listed[2].volume_id, listed[2].backup_id);
    assert_eq!((listed.len(), listed[2].depth), (3, 3));
    let mut data = repository.restored(backup).await;
    data[10 << 20] ^= 1;
    let origins = vec![Origin::Backup { volume, backup, state: None }];
    let source = Made { volume: Bytes(data.clone()), point: point(), origins, changed: HashMap::new() };
    let parent = ParentChoice::Origin;
    let options = CreateOptions { parent, chunk_size: 4 << 20, ..CreateOptions::new(Uuid::new_v4()) };
    let made = create(&repository.engine, &Arc::new(source), &options).await.unwrap();
    assert_eq!(made.copied_from, Some(backup), "{made:?}");
    assert!(made.objects_copied > 8 && made.bytes_changed < 48 << 20, "{made:?}");
    assert!(made.read_all_because.is_some());
    for info in listed.iter().rev() {
        repository.engine.delete(info.backup_id).await.unwrap();
    }
    assert!(repository.restored(made.backup_id).await == data);
}

/// A store that does with copies what it is told.
#[derive(Debug)]
struct Copying {
    store: Arc<dyn Store>,
    does: Does,
    left: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    /// It has no such operation.
    Nothing,
    /// Somebody deletes the origin's backup.
    Lose,
    /// It says that it is done, and has not all bytes.
    Shorten,
    /// It goes away after so many.
    Fail(u64),
}

impl Copying {
    fn over(world: &World, does: Does) -> Engine {
        let left = AtomicU64::new(if let Does::Fail(left) = does { left } else { 3 });
        Engine::new(Arc::new(Copying { store: Arc::clone(&world.repository.store), does, left }))
    }
}

impl Store for Copying {
    forward!(store: ensure put get get_range begin delete list);

    fn copy<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        Box::pin(async move {
            let key = from.to_owned();
            match self.does {
                _ if left.is_ok() => self.store.copy(from, to).await,
                Does::Nothing => Err(StoreError::CannotCopy { key, source: "unheard of".into() }),
                Does::Lose => Err(StoreError::Missing { key }),
                Does::Shorten => self.store.put(to, Body::from_static(b"x")).await,
                Does::Fail(_) => {
                    Err(StoreError::Backend { operation: "copying", key, source: "it is away".into() })
                }
            }
        })
    }
}

/// Whatever is wrong with the origin's backup, with the settings or with the store's copies: a full backup, and why.
#[rstest]
#[case::another_block(|o: &mut CreateOptions| o.hash_block = 2048, None, "has hash blocks of 1024 bytes")]
#[case::a_chunk_that_does_not_fit(|o: &mut CreateOptions| { o.chunk_size = 1536; o.hash_block = 0 }, None, "no multiple of 1024")]
#[case::no_copies(|_: &mut CreateOptions| (), Some(Does::Nothing), "unheard of")]
#[case::deleted_meanwhile(|_: &mut CreateOptions| (), Some(Does::Lose), "is not in the repository")]
#[case::short_copies(|_: &mut CreateOptions| (), Some(Does::Shorten), "with 1 bytes of")]
#[tokio::test]
async fn what_cannot_be_copied_is_backed_up_in_full(
    #[case] set: fn(&mut CreateOptions),
    #[case] does: Option<Does>,
    #[case] says: &str,
    #[values(Resume::No, Resume::Auto)] resume: Resume,
) {
    let world = World::new().await;
    let (data, changed) = world.changed();
    let mut options = CreateOptions { resume, ..options(Uuid::new_v4()) };
    set(&mut options);
    let engine = does.map_or_else(|| world.repository.engine.clone(), |does| Copying::over(&world, does));
    let made = create(&engine, &world.clone(&data, &changed, Way::Deltas), &options).await.unwrap();
    assert_eq!((made.copied_from, made.objects_copied, made.bytes_copied), (None, 0, 0));
    let why = made.full_because.unwrap();
    assert!(why.contains("no earlier backup") && why.contains(says), "{why}");
    assert_eq!(made.bytes_changed, 203_000);
    assert_eq!(world.sets_of(options.volume).await, 1);
    assert!(world.repository.restored(made.backup_id).await == data);
    world.verify().await;
}

#[tokio::test]
async fn an_origin_without_a_backup_that_is_of_use() {
    let world = World::new().await;
    let engine = &world.repository.engine;
    let plain = "the volume has no earlier backup";
    let (data, changed) = world.changed();
    let elsewhere = World::new().await;
    let made = create(engine, &elsewhere.clone(&data, &changed, Way::Deltas), &options(Uuid::new_v4())).await;
    assert_eq!(made.unwrap().full_because.as_deref(), Some(plain));
    let alike = noise(9, 203_000);
    let made =
        create(engine, &world.clone(&alike, &[], Way::Vaguely), &options(Uuid::new_v4())).await.unwrap();
    let why = made.full_because.unwrap();
    assert!(why.contains(plain) && why.contains("no object of backup"), "{why}");
    world.repository.store.delete(&format!("{}-00003", world.full.prefix)).await.unwrap();
    for way in [Way::Deltas, Way::Restored] {
        let made =
            create(engine, &world.clone(&data, &changed, way), &options(Uuid::new_v4())).await.unwrap();
        let why = made.full_because.unwrap();
        assert!(why.contains(plain) && why.contains("-00003") && why.contains("is missing"), "{why}");
        assert!(world.repository.restored(made.backup_id).await == data);
    }
}

/// A store that goes away: nothing stays, whether or not it is to be gone on with, for the next attempt copies anew.
#[rstest]
#[tokio::test]
async fn copies_that_are_broken_off(
    #[values(0, 7)] after: u64,
    #[values(Resume::No, Resume::Auto)] resume: Resume,
) {
    let world = World::new().await;
    let (data, changed) = world.changed();
    let options = CreateOptions { resume, ..options(Uuid::new_v4()) };
    let source = world.clone(&data, &changed, Way::Deltas);
    let failed = create(&Copying::over(&world, Does::Fail(after)), &source, &options).await.unwrap_err();
    assert!(failed.to_string().contains("it is away"), "{failed}");
    assert_eq!(world.sets_of(options.volume).await, 0);
    let made = create(&world.repository.engine, &source, &options).await.unwrap();
    assert_eq!((made.copied_from, made.objects_copied), (Some(world.second.backup_id), 11));
    assert!(world.repository.restored(made.backup_id).await == data);
}

/// A process that was killed leaves a set without a manifest. Who goes on with it has names of its own, and removes that in
/// the end.
#[tokio::test]
async fn a_process_that_was_killed_is_followed() {
    let world = World::new().await;
    let (data, changed) = world.changed();
    let as_id = Resume::As(Uuid::new_v4());
    let options = CreateOptions { resume: as_id, ..options(Uuid::new_v4()) };
    let source = world.clone(&data, &changed, Way::Deltas);
    let (engine, store) = (&world.repository.engine, &world.repository.store);
    let killed = create(engine, &source, &options).await.unwrap();
    store.delete(&format!("{}_metadata", killed.prefix)).await.unwrap();
    store.delete(&format!("{}-00003", killed.prefix)).await.unwrap();
    let made = create(engine, &source, &options).await.unwrap();
    assert_eq!((made.backup_id, made.copied_from), (killed.backup_id, Some(world.second.backup_id)));
    assert!(made.prefix > killed.prefix, "{} {}", made.prefix, killed.prefix);
    assert_eq!(world.sets_of(options.volume).await, 1);
    world.verify().await;
    assert!(world.repository.restored(made.backup_id).await == data);
    let again = create(engine, &source, &CreateOptions { parent: ParentChoice::Origin, ..options }).await;
    assert!(matches!(again.unwrap_err(), BackupError::AlreadyComplete { .. }));
}

/// Two who make the same backup at the same time, of which one knows more of what changed and so copies other objects: they
/// do not mix, and what there is in the end is one backup.
#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_do_not_mix() {
    let world = World::new().await;
    let (data, mut changed) = world.changed();
    let options = CreateOptions { resume: Resume::As(Uuid::new_v4()), ..options(Uuid::new_v4()) };
    let engine = &world.repository.engine;
    let exact = world.clone(&data, &changed, Way::Deltas);
    changed.push(130_000..150_000);
    let coarse = world.clone(&data, &changed, Way::Deltas);
    let (one, other) = join(create(engine, &exact, &options), create(engine, &coarse, &options)).await;
    // Whoever is first is not hindered; the other may find that it is too late.
    let ids: Vec<Uuid> = [&one, &other].into_iter().flatten().map(|made| made.backup_id).collect();
    assert!(!ids.is_empty(), "{one:?} {other:?}");
    for failed in [one.err(), other.err()].into_iter().flatten() {
        let says = failed.to_string();
        assert!(says.contains("by another process") || says.contains("is complete"), "{says}");
    }
    assert!(ids.iter().all(|id| Resume::As(*id) == options.resume));
    assert!(world.repository.restored(ids[0]).await == data);
    world.verify().await;
}
