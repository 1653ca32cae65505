//! Incremental backups of a source that knows what changed: only that is read.

use crate::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
use crate::util::{Bytes, Repository, noise, restored, small};
use rstest::rstest;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use strata::backup::format::VolumeMeta;
use strata::backup::store::{ObjectBacked, S3Options};
use strata::backup::{
    BackupError, Cancel, Changed, CreateOptions, CreateReport, DataPoint, Engine, ErrorKind, ParentChoice,
    Progress, SnapshotSource,
};
use strata::image::ReadError;
use uuid::Uuid;

/// A volume with a recorded delta.
pub struct Recorded {
    volume: Bytes,
    point: DataPoint,
    changed: Changed,
    /// Of which point it was asked.
    asked: Mutex<Vec<DataPoint>>,
    reads: Mutex<Vec<Range<u64>>>,
}

impl Recorded {
    pub fn new(data: &[u8], changed: Changed) -> Arc<Self> {
        let point = DataPoint { incarnation: Uuid::new_v4(), snapshot: Uuid::new_v4() };
        let (asked, reads) = (Mutex::default(), Mutex::default());
        Arc::new(Recorded { volume: Bytes(data.to_vec()), point, changed, asked, reads })
    }

    /// The blocks of 1 KiB that were read, each once.
    fn blocks(&self) -> Vec<u64> {
        let reads = self.reads.lock().unwrap();
        let mut blocks: Vec<u64> = reads.iter().flat_map(|r| r.start / 1024..r.end.div_ceil(1024)).collect();
        blocks.sort_unstable();
        blocks.dedup();
        blocks
    }
}

impl SnapshotSource for Recorded {
    fn size(&self) -> u64 {
        self.volume.size()
    }
    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        self.volume.data_ranges(range)
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), ReadError> {
        self.reads.lock().unwrap().push(offset..offset + buffer.len() as u64);
        self.volume.read_at(buffer, offset)
    }
    fn point(&self) -> Option<DataPoint> {
        Some(self.point)
    }
    fn changed_since(&self, earlier: &DataPoint) -> Result<Changed, ReadError> {
        self.asked.lock().unwrap().push(*earlier);
        Ok(self.changed.clone())
    }
}

fn options(volume: Uuid) -> CreateOptions {
    let meta = VolumeMeta::new(BTreeMap::new(), BTreeMap::new()).encode();
    CreateOptions { volume_meta: Some(meta), ..small(volume, ParentChoice::Latest) }
}

async fn make(
    engine: &Engine,
    source: &Arc<Recorded>,
    options: &CreateOptions,
) -> Result<CreateReport, BackupError> {
    let source = Arc::clone(source);
    engine.create(source, options, &Progress::default(), &Cancel::never()).await
}

/// A store on that server.
fn s3_store(server: &S3Server) -> ObjectBacked {
    let options = S3Options {
        endpoint: Some(server.endpoint.clone()),
        region: Some("us-east-1".to_owned()),
        credentials: Some((ACCESS_KEY.to_owned(), SECRET_KEY.to_owned())),
        ..S3Options::default()
    };
    ObjectBacked::s3("deltas", "some/where", &options).unwrap()
}

fn unknown() -> Changed {
    Changed::Unknown("nobody knows".to_owned())
}

/// X2: an incremental reads the blocks that its delta touches and no other, full ones only what is allocated;
/// each point restores. On either kind of store.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn only_what_changed_is_read(#[values(false, true)] on_s3: bool) {
    let (repository, server) = (Repository::new(), S3Server::start());
    let engine = match on_s3 {
        true => Engine::new(Arc::new(s3_store(&server))),
        false => repository.engine.clone(),
    };
    let options = options(Uuid::new_v4());
    let mut data = noise(5, 200_000);
    data[40 * 1024..60 * 1024].fill(0);
    let first = Recorded::new(&data, unknown());
    let full = make(&engine, &first, &options).await.unwrap();
    assert_eq!((full.read_all_because, full.bytes_read), (None, 200_000 - 20 * 1024));
    assert!(first.asked.lock().unwrap().is_empty());
    let mut points = vec![(full.backup_id, data.clone())];
    // Two blocks, in two windows; the second one is told as changed but is not.
    data[5000] ^= 1;
    data[199_999] ^= 1;
    let changed = vec![4990..5001, 20_000..20_001, 199_999..200_000];
    let second = Recorded::new(&data, Changed::Only(changed));
    let made = make(&engine, &second, &options).await.unwrap();
    assert_eq!(*second.asked.lock().unwrap(), [first.point]);
    assert_eq!(second.blocks(), [4, 19, 195]);
    assert_eq!((made.parent_id, made.read_all_because), (Some(full.backup_id), None));
    assert_eq!((made.objects, made.bytes_read), (2, 1024 + 1024 + 320));
    points.push((made.backup_id, data.clone()));
    // Nothing: not a byte is read or stored.
    let third = Recorded::new(&data, Changed::Only(vec![]));
    let made = make(&engine, &third, &options).await.unwrap();
    assert_eq!((made.objects, made.bytes_read, third.blocks()), (0, 0, vec![]));
    points.push((made.backup_id, data.clone()));
    // Grown: the old end and all behind it are read, whatever the delta says of them.
    data.resize(300_000, 7);
    let fourth = Recorded::new(&data, Changed::Only(vec![250_000..300_000]));
    let made = make(&engine, &fourth, &options).await.unwrap();
    assert_eq!((fourth.blocks()[0], made.bytes_read), (195, 300_000 - 195 * 1024));
    assert_eq!(*fourth.asked.lock().unwrap(), [third.point]);
    points.push((made.backup_id, data.clone()));
    for (backup, expected) in points {
        assert!(restored(&engine, backup).await == expected);
    }
}

/// A delta that cannot be used: everything is read, the result is right and says why.
#[rstest]
#[case::unknown(unknown(), "nobody knows")]
#[case::beyond(Changed::Only(vec![0..50_001]), "told wrongly")]
#[case::backwards(Changed::Only(vec![2000..3000, 1000..1500]), "told wrongly")]
#[tokio::test]
async fn everything_is_read(#[case] changed: Changed, #[case] says: &str) {
    let (repository, options, mut data) = (Repository::new(), options(Uuid::new_v4()), noise(5, 50_000));
    make(&repository.engine, &Recorded::new(&data, unknown()), &options).await.unwrap();
    data[10_000] ^= 1;
    let source = Recorded::new(&data, changed);
    let made = make(&repository.engine, &source, &options).await.unwrap();
    assert!(made.parent_id.is_some() && made.bytes_read == 50_000 && made.objects == 1);
    let why = made.read_all_because.unwrap();
    assert!(why.contains(says), "{why}");
    assert!(repository.restored(made.backup_id).await == data);
}

/// A parent that does not remember its point, for it was made without metadata.
#[tokio::test]
async fn a_parent_without_a_point() {
    let (repository, data) = (Repository::new(), noise(5, 50_000));
    let with_meta = options(Uuid::new_v4());
    let without = CreateOptions { volume_meta: None, ..with_meta.clone() };
    make(&repository.engine, &Recorded::new(&data, unknown()), &without).await.unwrap();
    let source = Recorded::new(&data, Changed::Only(vec![]));
    let made = make(&repository.engine, &source, &with_meta).await.unwrap();
    assert!(made.read_all_because.unwrap().contains("does not say of which snapshot"));
    assert!(source.asked.lock().unwrap().is_empty());
}

/// A delta that leaves something out is seen by a block that is looked at all the same; then everything is read.
#[tokio::test]
async fn a_delta_that_lies() {
    let repository = Repository::new();
    let (options, mut data) =
        (CreateOptions { spot_checks: 64, ..options(Uuid::new_v4()) }, noise(5, 50_000));
    make(&repository.engine, &Recorded::new(&data, unknown()), &options).await.unwrap();
    // Honest, first.
    data[10_000] ^= 1;
    let honest = Recorded::new(&data, Changed::Only(vec![10_000..10_001]));
    let made = make(&repository.engine, &honest, &options).await.unwrap();
    assert_eq!((made.read_all_because, made.objects), (None, 1));
    data.reverse();
    let lying = Recorded::new(&data, Changed::Only(vec![0..1]));
    let made = make(&repository.engine, &lying, &options).await.unwrap();
    let why = made.read_all_because.unwrap();
    assert!(why.contains("not recorded as changed"), "{why}");
    assert!(made.parent_id.is_some());
    assert!(repository.restored(made.backup_id).await == data);
    assert_eq!(
        repository.engine.catalog().sets(None).await.unwrap().len(),
        3,
        "the first try left something"
    );
}

/// Runs that are a few unchanged blocks apart become one object when that is asked for.
#[rstest]
#[case::apart(0, 3, 0)]
#[case::joined(2048, 2, 2048)]
#[case::far(8192, 1, 2048 + 5 * 1024)]
#[tokio::test]
async fn neighbouring_runs(#[case] join: u64, #[case] objects: u64, #[case] joined: u64) {
    for with_delta in [true, false] {
        let (repository, mut data) = (Repository::new(), noise(5, 50_000));
        let options = CreateOptions { join, ..options(Uuid::new_v4()) };
        make(&repository.engine, &Recorded::new(&data, unknown()), &options).await.unwrap();
        let blocks = [1, 4, 10];
        blocks.iter().for_each(|block| data[block * 1024] ^= 1);
        let only = blocks.map(|block| block as u64 * 1024..block as u64 * 1024 + 1).to_vec();
        let changed = if with_delta { Changed::Only(only) } else { unknown() };
        let made = make(&repository.engine, &Recorded::new(&data, changed), &options).await.unwrap();
        assert_eq!((made.objects, made.bytes_joined), (objects, joined));
        assert_eq!(made.bytes_changed, 3 * 1024 + joined);
        assert!(repository.restored(made.backup_id).await == data);
    }
}

/// Format v1 has no chain from one volume to another: of what is known to come from there a full backup is made, out of the
/// other's objects, and says so; what is not is refused.
#[tokio::test]
async fn a_parent_of_another_volume() {
    let (repository, data) = (Repository::new(), noise(5, 50_000));
    let full =
        make(&repository.engine, &Recorded::new(&data, unknown()), &options(Uuid::new_v4())).await.unwrap();
    let foreign = CreateOptions { parent: ParentChoice::Backup(full.backup_id), ..options(Uuid::new_v4()) };
    let clone = Recorded::new(&data, Changed::Only(vec![]));
    let made = make(&repository.engine, &clone, &foreign).await.unwrap();
    assert_eq!((made.parent_id, made.copied_from, made.bytes_read), (None, Some(full.backup_id), 0));
    assert!(made.full_because.unwrap().contains("one volume only"));
    assert!(repository.restored(made.backup_id).await == data);
    let stranger = Recorded::new(&data, unknown());
    let refused = make(&repository.engine, &stranger, &foreign).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Usage);
}

/// A parent whose hash file turns out to be broken half-way: a full backup that says why, and nothing else is left.
#[rstest]
#[case::short(|text: String| text.replacen(&text[text.find("    \"").unwrap()..][..72], "", 1), "fewer hashes")]
#[case::garbage(|text: String| text.replacen("\"\n  ]", "\", 7\n  ]", 1), "no SHA-256")]
#[tokio::test]
async fn a_parent_with_broken_hashes(#[case] spoil: fn(String) -> String, #[case] says: &str) {
    let (repository, options, data) = (Repository::new(), options(Uuid::new_v4()), noise(5, 50_000));
    let full = make(&repository.engine, &Recorded::new(&data, unknown()), &options).await.unwrap();
    let path = repository.file(&format!("{}_sha256file", full.prefix));
    std::fs::write(&path, spoil(std::fs::read_to_string(&path).unwrap())).unwrap();
    let source = Recorded::new(&data, Changed::Only(vec![]));
    let made = make(&repository.engine, &source, &options).await.unwrap();
    let why = made.full_because.unwrap();
    assert!(why.contains(says), "{why}");
    assert!(repository.restored(made.backup_id).await == data);
    assert_eq!(repository.engine.catalog().sets(None).await.unwrap().len(), 2);
}
