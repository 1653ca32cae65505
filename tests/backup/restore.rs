//! Restores: what is fetched and written, parts, damage, targets of each kind.

use crate::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
use crate::support::qemu_img;
use crate::util::{Repository, create, noise, small};
use bytes::Bytes as Body;
use futures::future::BoxFuture;
use rstest::rstest;
use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::{Arc, Mutex};
use strata::backup::format::Compression;
use strata::backup::store::{ObjectBacked, S3Options, Store, StoreError};
use strata::backup::{
    BackupError, Cancel, Canceller, CreateOptions, Damaged, Engine, ErrorKind, Limits, ParentChoice,
    Progress, RestoreOptions, RestoreReport,
};
use strata::image::Format;
use uuid::Uuid;

/// Told how many chunks were asked for, and the object that is fetched now.
type AtFetch = dyn Fn(usize, &str) + Send + Sync;

/// A store that counts what is fetched, and lets something happen at a fetch.
pub struct Counting {
    store: Arc<dyn Store>,
    fetched: Mutex<HashMap<String, u32>>,
    at: Box<AtFetch>,
}

impl std::fmt::Debug for Counting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counting")
    }
}

impl Counting {
    pub fn new(store: &Arc<dyn Store>, at: impl Fn(usize, &str) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Counting { store: Arc::clone(store), fetched: Mutex::default(), at: Box::new(at) })
    }

    /// How often each chunk was fetched.
    fn chunks(&self) -> HashMap<String, u32> {
        let mut fetched = self.fetched.lock().unwrap().clone();
        fetched.retain(|key, _| !key.ends_with("_metadata") && !key.ends_with("_sha256file"));
        fetched
    }
}

impl Store for Counting {
    forward!(store: ensure put get_range begin delete list);

    fn get<'a>(&'a self, key: &'a str, limit: u64) -> BoxFuture<'a, Result<Body, StoreError>> {
        *self.fetched.lock().unwrap().entry(key.to_owned()).or_default() += 1;
        (self.at)(self.chunks().len(), key);
        self.store.get(key, limit)
    }
}

async fn restore(engine: &Engine, options: &RestoreOptions) -> Result<RestoreReport, BackupError> {
    engine.restore(options, &Progress::default(), &Cancel::never()).await
}

/// Each needed object is fetched once, none that is wholly overwritten, none that is zeros; zeros are holes in a new
/// file and holes again in an old one.
#[tokio::test(flavor = "multi_thread")]
async fn each_needed_object_once() {
    let repository = Repository::new();
    let volume = Uuid::new_v4();
    let options = |parent| CreateOptions { parent, chunk_size: 1 << 20, ..CreateOptions::new(volume) };
    // 8 MiB: data, zeros, data, data; the third MiB is overwritten in two steps, part of the first becomes zeros.
    let mut data = vec![0; 8 << 20];
    data[..1 << 20].copy_from_slice(&noise(1, 1 << 20));
    data[2 << 20..4 << 20].copy_from_slice(&noise(2, 2 << 20));
    let full = repository.create(&data, &options(ParentChoice::None)).await.unwrap();
    data[2 << 20..3 << 20].copy_from_slice(&noise(3, 1 << 20));
    data[100 << 10..700 << 10].fill(0);
    let second = repository.create(&data, &options(ParentChoice::Latest)).await.unwrap();
    data[3 << 20..(3 << 20) + 5].fill(9);
    let third = repository.create(&data, &options(ParentChoice::Latest)).await.unwrap();
    assert_eq!((full.objects, second.objects, third.objects), (8, 2, 1));

    let counting = Counting::new(&repository.store, |_, _| {});
    let engine = Engine::new(Arc::clone(&counting) as _);
    let to = repository.path("new");
    let report = restore(&engine, &RestoreOptions::new(third.backup_id, &to)).await.unwrap();
    assert!(std::fs::read(&to).unwrap() == data);
    let fetched = counting.chunks();
    assert!(fetched.values().all(|count| *count == 1), "{fetched:?}");
    // Of the full one: the first MiB and the fourth; not the overwritten third, not the five of zeros.
    let of = |prefix: &str| fetched.keys().filter(|key| key.starts_with(prefix)).count();
    assert_eq!((of(&full.prefix), of(&second.prefix), of(&third.prefix)), (2, 2, 1));
    assert_eq!((report.objects, report.objects_of_zeros), (5, 5));
    // No more space than the data has: 3 MiB less 600 KiB, give or take a step.
    let used = std::fs::metadata(&to).unwrap().blocks() * 512;
    assert!(used <= (3 << 20) - (560 << 10), "{used}");

    // A dirty target: all of it is right afterwards, and its zeros take no space.
    let old = repository.path("old");
    std::fs::write(&old, vec![0xee; (8 << 20) + 100]).unwrap();
    let options = RestoreOptions { in_place: true, ..RestoreOptions::new(third.backup_id, &old) };
    let report = restore(&repository.engine, &options).await.unwrap();
    let found = std::fs::read(&old).unwrap();
    assert!(found[..8 << 20] == data[..] && found[8 << 20..] == [0xee; 100]);
    assert!(report.bytes_zeroed >= 5 << 20, "{report:?}");
    let used = std::fs::metadata(&old).unwrap().blocks() * 512;
    assert!(used <= 4 << 20, "{used}");
}

/// A budget of memory is kept to, however many objects are on their way; one chunk that needs more goes alone.
#[tokio::test(flavor = "multi_thread")]
async fn the_budget_of_memory() {
    let repository = Repository::new();
    let data = noise(4, 24 << 20);
    let options = CreateOptions { chunk_size: 1 << 20, ..CreateOptions::new(Uuid::new_v4()) };
    let made = repository.create(&data, &options).await.unwrap();
    // Beside the chunks 64 MiB are set aside. A chunk takes a MiB, its decoder at most another, and what is stored.
    for (memory, at_most) in [(256 << 20, 40 << 20), ((64 + 5) << 20, 5 << 20), (1 << 10, 3 << 20)] {
        let limits = Limits { memory, concurrency: 16 };
        let to = repository.path(&format!("with-{memory}"));
        let options = RestoreOptions { limits, ..RestoreOptions::new(made.backup_id, &to) };
        let report = restore(&repository.engine, &options).await.unwrap();
        assert!(report.memory_peak > 1 << 20 && report.memory_peak <= at_most, "{report:?}");
        assert!(std::fs::read(&to).unwrap() == data);
    }
}

/// A part: into an old target at its place, into a new one with holes elsewhere; what it does not need is not fetched.
#[rstest]
#[case(0..1, 1)]
#[case(16_000..17_000, 2)]
#[case(16_384..32_768, 2)]
#[case(99_000..100_003, 1)]
#[case(0..100_003, 9)]
#[tokio::test]
async fn a_range(#[case] range: Range<u64>, #[case] objects: usize) {
    let repository = Repository::new();
    let (volume, mut data) = (Uuid::new_v4(), noise(5, 100_003));
    repository.create(&data, &small(volume, ParentChoice::None)).await.unwrap();
    data[16_400] ^= 1;
    data[50_000..70_000].fill(0);
    let made = repository.create(&data, &small(volume, ParentChoice::Latest)).await.unwrap();
    let within = range.start as usize..range.end as usize;
    let mut expected = vec![0; data.len()];
    expected[within.clone()].copy_from_slice(&data[within.clone()]);
    let new = repository.path("new");
    let part = RestoreOptions { range: Some(range.clone()), ..RestoreOptions::new(made.backup_id, &new) };
    let counting = Counting::new(&repository.store, |_, _| {});
    let report = restore(&Engine::new(Arc::clone(&counting) as _), &part).await.unwrap();
    assert!(std::fs::read(&new).unwrap() == expected);
    assert_eq!(report.range, Some((range.start, range.end)));
    assert_eq!(counting.chunks().len(), objects);
    // An old one need only reach as far as the range.
    let old = repository.path("old");
    std::fs::write(&old, vec![0xee; within.end]).unwrap();
    let part = RestoreOptions { to: old.clone(), in_place: true, ..part };
    restore(&repository.engine, &part).await.unwrap();
    let found = std::fs::read(&old).unwrap();
    assert!(
        found[within.clone()] == data[within.clone()] && found[..within.start].iter().all(|b| *b == 0xee)
    );
    let beyond = RestoreOptions { range: Some(5..100_004), ..part };
    assert_eq!(restore(&repository.engine, &beyond).await.unwrap_err().kind(), ErrorKind::Usage);
}

/// What happens to a chunk.
#[derive(Clone, Copy, Debug)]
pub enum Harm {
    BitFlip,
    Truncated,
    Missing,
    /// Another chunk of the same length lies in its place.
    Swapped,
    /// It unpacks to far more than is declared.
    Bomb,
}

/// Damages chunk `number`.
pub fn harm(repository: &Repository, prefix: &str, number: u32, harm: Harm) -> String {
    let key = format!("{prefix}-{number:05}");
    let path = repository.file(&key);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    match harm {
        Harm::BitFlip => bytes[middle] ^= 4,
        Harm::Truncated => bytes.truncate(middle),
        Harm::Missing => return std::fs::remove_file(&path).map(|()| key).unwrap(),
        Harm::Swapped => {
            bytes = std::fs::read(repository.file(&format!("{prefix}-{:05}", number + 1))).unwrap();
        }
        Harm::Bomb => bytes = Compression::Zstd.compress(&vec![0; 64 << 20]).unwrap().unwrap(),
    }
    std::fs::write(&path, bytes).unwrap();
    key
}

/// A damaged object is named with what is lost by it, and nothing is left of a new target; or its ranges are zeros,
/// and the rest is there.
#[rstest]
#[tokio::test]
async fn damage(
    #[values(Harm::BitFlip, Harm::Truncated, Harm::Missing, Harm::Swapped, Harm::Bomb)] kind: Harm,
    #[values(Compression::Zstd, Compression::None)] compression: Compression,
) {
    let repository = Repository::new();
    let (volume, mut data) = (Uuid::new_v4(), noise(6, 100_003));
    let options = |parent| CreateOptions { compression, ..small(volume, parent) };
    let full = repository.create(&data, &options(ParentChoice::None)).await.unwrap();
    data[20_000] ^= 1;
    let made = repository.create(&data, &options(ParentChoice::Latest)).await.unwrap();
    let key = harm(&repository, &full.prefix, 2, kind);
    let to = repository.path("to");
    let mut options = RestoreOptions::new(made.backup_id, &to);
    let error = restore(&repository.engine, &options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    // All of the chunk but the block that the newer backup has.
    let text = error.to_string();
    assert!(text.contains(&key) && text.contains("16384-19456, 20480-32768"), "{text}");
    assert_eq!(repository.leftovers(), Vec::<String>::new());

    options.damaged = Damaged::Zero;
    data[16_384..19_456].fill(0);
    data[20_480..32_768].fill(0);
    let old = repository.path("old");
    std::fs::write(&old, vec![0xee; 100_003]).unwrap();
    for options in [options.clone(), RestoreOptions { to: old, in_place: true, ..options }] {
        let report = restore(&repository.engine, &options).await.unwrap();
        assert!(std::fs::read(&options.to).unwrap() == data);
        assert_eq!(report.losses.len(), 1);
        assert_eq!(report.losses[0].object, key);
        assert_eq!(report.losses[0].ranges, [(16_384, 19_456), (20_480, 32_768)]);
    }
}

/// A backup that is rebased or deleted while it is restored is neither damaged nor zeros: it is to be started again.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn changed_meanwhile(
    #[values(Damaged::Fail, Damaged::Zero)] damaged: Damaged,
    #[values(true, false)] rebased: bool,
) {
    let repository = Repository::new();
    let (volume, mut data) = (Uuid::new_v4(), noise(10, 100_003));
    repository.create(&data, &small(volume, ParentChoice::None)).await.unwrap();
    data[90_000] ^= 1;
    let made = repository.create(&data, &small(volume, ParentChoice::Latest)).await.unwrap();
    let (id, engine) = (made.backup_id, repository.engine.clone());
    let counting = Counting::new(&repository.store, move |chunks, _| {
        if chunks == 3 {
            std::thread::scope(|scope| {
                let change = async {
                    match rebased {
                        true => {
                            engine.rebase(id, None, &Progress::default(), &Cancel::never()).await.map(drop)
                        }
                        false => engine.delete(id).await.map(drop),
                    }
                };
                scope.spawn(|| tokio::runtime::Runtime::new().unwrap().block_on(change).unwrap());
            });
        }
    });
    let limits = Limits { concurrency: 1, ..Limits::default() };
    let to = repository.path("to");
    let options = RestoreOptions { damaged, limits, ..RestoreOptions::new(id, &to) };
    let error = restore(&Engine::new(counting as _), &options).await.unwrap_err();
    assert!(matches!(error, BackupError::Changed { backup } if backup == id), "{error}");
    assert!(error.to_string().contains("start again"), "{error}");
    assert_eq!(repository.leftovers(), Vec::<String>::new());
    if rebased {
        assert!(repository.restored(id).await == data);
    }
}

/// Whoever asks to stop is heard before the next chunk is written, and a new target is gone.
#[tokio::test(flavor = "multi_thread")]
async fn cancelled() {
    let repository = Repository::new();
    let data = noise(7, 200 * 16 * 1024);
    let made = repository.create(&data, &small(Uuid::new_v4(), ParentChoice::None)).await.unwrap();
    for in_place in [false, true] {
        let (canceller, cancel) = Canceller::new();
        let counting = Counting::new(&repository.store, move |chunks, _| {
            if chunks == 50 {
                canceller.cancel();
            }
        });
        let to = repository.path("to");
        if in_place {
            std::fs::write(&to, vec![0xee; data.len()]).unwrap();
        }
        let options = RestoreOptions { in_place, ..RestoreOptions::new(made.backup_id, &to) };
        let engine = Engine::new(Arc::clone(&counting) as _);
        let error = engine.restore(&options, &Progress::default(), &cancel).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(counting.chunks().len() < 100, "{}", counting.chunks().len());
        if in_place {
            let found = std::fs::read(&to).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(std::fs::read(&to).unwrap() == found, "it is written to after it was given up");
            assert!(found.ends_with(&[0xee; 16 * 1024]));
        } else {
            assert_eq!(repository.leftovers(), Vec::<String>::new());
        }
    }
}

/// From S3 into a qcow2 file, as QEMU sees it: the same disk, and no clusters for its zeros.
#[tokio::test(flavor = "multi_thread")]
async fn qcow2_from_s3() {
    let server = S3Server::start();
    let s3 = S3Options {
        endpoint: Some(server.endpoint.clone()),
        region: Some("us-east-1".to_owned()),
        credentials: Some((ACCESS_KEY.to_owned(), SECRET_KEY.to_owned())),
        ..S3Options::default()
    };
    let engine = Engine::new(Arc::new(ObjectBacked::s3("restore", "a", &s3).unwrap()));
    let mut data = vec![0; 8 << 20];
    data[1 << 20..2 << 20].copy_from_slice(&noise(8, 1 << 20));
    data[(5 << 20) + 4096..(5 << 20) + 9000].fill(7);
    let made = create(&engine, &data, &CreateOptions::new(Uuid::new_v4())).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (raw, qcow2) = (folder.path().join("raw"), folder.path().join("qcow2"));
    std::fs::write(&raw, &data).unwrap();
    let options = RestoreOptions { format: Format::Qcow2, ..RestoreOptions::new(made.backup_id, &qcow2) };
    restore(&engine, &options).await.unwrap();
    let compared = Command::new(qemu_img())
        .args(["compare", "-f", "raw", "-F", "qcow2"])
        .args([&raw, &qcow2])
        .output()
        .unwrap();
    assert!(compared.status.success(), "{compared:?}");
    let used = std::fs::metadata(&qcow2).unwrap().blocks() * 512;
    assert!(used < 2 << 20, "{used}");
    let again = RestoreOptions { in_place: true, range: Some(0..4096), ..options };
    assert_eq!(restore(&engine, &again).await.unwrap_err().kind(), ErrorKind::Unsafe);
}

/// A block device that holds something else: the volume afterwards, zeros too, and no more than the volume.
#[tokio::test(flavor = "multi_thread")]
async fn a_dirty_block_device() {
    assert!(rustix::process::geteuid().is_root(), "this test makes a loop device: run it as root");
    let repository = Repository::new();
    let mut data = vec![0; 4 << 20];
    data[1 << 20..(1 << 20) + 70_000].copy_from_slice(&noise(9, 70_000));
    let options = CreateOptions { chunk_size: 1 << 20, ..CreateOptions::new(Uuid::new_v4()) };
    let made = repository.create(&data, &options).await.unwrap();
    let disk = repository.path("disk");
    std::fs::write(&disk, vec![0xee; 5 << 20]).unwrap();
    let attached = Command::new("losetup").args(["--find", "--show"]).arg(&disk).output().unwrap();
    assert!(attached.status.success(), "{attached:?}");
    let device = String::from_utf8(attached.stdout).unwrap().trim().to_owned();
    let options = RestoreOptions { in_place: true, ..RestoreOptions::new(made.backup_id, &device) };
    let restored = restore(&repository.engine, &options).await;
    let detached = Command::new("losetup").args(["-d", &device]).status().unwrap();
    assert!(detached.success());
    let report = restored.unwrap();
    assert_eq!(report.objects, 1);
    let found = std::fs::read(&disk).unwrap();
    assert!(found[..4 << 20] == data[..] && found[4 << 20..].iter().all(|b| *b == 0xee));
}
