//! Restores of chunks that are larger than a request, and of many at a time in little memory.

use crate::util::{Repository, noise};
use bytes::Bytes as Body;
use futures::future::BoxFuture;
use rstest::rstest;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use strata::backup::format::Compression;
use strata::backup::store::{Store, StoreError};
use strata::backup::{
    BackupError, Cancel, CreateOptions, Damaged, Engine, ErrorKind, Limits, Progress, RestoreOptions,
    VerifyOptions, Which,
};
use uuid::Uuid;

const MIB: usize = 1 << 20;

/// 40 MiB and a bit: noise, text, zeros, in stretches that follow no grain.
fn mixture() -> Vec<u8> {
    let mut data = noise(31, 40 * MIB + 1234);
    for at in (0..data.len()).step_by(3 * MIB + 777) {
        let length = data.len();
        data[at..length.min(at + MIB + 5)].fill(0);
        let text = at + MIB + 5..length.min(at + 2 * MIB);
        data[text.start.min(length)..text.end.max(text.start.min(length))]
            .iter_mut()
            .enumerate()
            .for_each(|(n, byte)| *byte = b"words and more words "[n % 21]);
    }
    data
}

/// All bytes are right, whatever they are packed with, however many chunks are on their way, in however little memory.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn many_at_a_time(
    #[values(Compression::None, Compression::Zlib, Compression::Zstd)] compression: Compression,
) {
    let repository = Repository::new();
    let data = mixture();
    let chunk_size = (5 * MIB + (32 << 10)) as u64;
    let options = CreateOptions { compression, chunk_size, ..CreateOptions::new(Uuid::new_v4()) };
    let made = repository.create(&data, &options).await.unwrap();
    let (to, progress, never) = (repository.path("to"), Progress::default(), Cancel::never());
    std::fs::write(&to, vec![0xee; data.len()]).unwrap();
    for (memory, concurrency) in [(256 << 20, 8), (76 << 20, 5), (1, 16), (256 << 20, 1)] {
        let limits = Limits { memory, concurrency };
        let new = repository.path(&format!("new-{memory}-{concurrency}"));
        let options = RestoreOptions { limits, ..RestoreOptions::new(made.backup_id, &new) };
        for options in [options.clone(), RestoreOptions { to: to.clone(), in_place: true, ..options }] {
            let report = repository.engine.restore(&options, &progress, &never).await.unwrap();
            assert!(std::fs::read(&options.to).unwrap() == data);
            // A chunk, a part on its way and the one that is unpacked, and the decoder.
            let alone = chunk_size + (256 << 10) + (4 << 20) + (3 << 20);
            let room = memory.saturating_sub(64 << 20).max(alone);
            assert!(report.memory_peak <= room, "{memory}: {report:?}");
        }
    }
}

/// To look at the bytes takes no memory for them: a step of each chunk that is on its way.
#[tokio::test(flavor = "multi_thread")]
async fn verifying_keeps_nothing() {
    let repository = Repository::new();
    let data = mixture();
    let chunk_size = (20 * MIB) as u64;
    let compression = Compression::None;
    let options = CreateOptions { compression, chunk_size, split: 1, ..CreateOptions::new(Uuid::new_v4()) };
    repository.create(&data, &options).await.unwrap();
    let limits = Limits::default();
    let options = VerifyOptions { which: Which::All, data: 1.0, seed: 0, limits };
    let report = repository.engine.verify(&options, &Progress::default(), &Cancel::never()).await.unwrap();
    assert!(report.good && report.bytes_checked == data.len() as u64, "{report:?}");
    // Three chunks, two parts of each.
    assert!(report.memory_peak <= 3 * ((4 << 20) + (256 << 10)), "{report:?}");
}

/// What a request for a part of a chunk is answered with, if not with that part: told how often that was asked for.
type Bend = dyn Fn(&Range<u64>, usize, Body) -> Result<Body, StoreError> + Send + Sync;

/// A store that answers requests for parts of chunks as it likes.
struct Bent {
    store: Arc<dyn Store>,
    asked: Mutex<Vec<Range<u64>>>,
    whole: AtomicUsize,
    bend: Box<Bend>,
}

impl std::fmt::Debug for Bent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bent")
    }
}

fn is_chunk(key: &str) -> bool {
    !key.ends_with("_metadata") && !key.ends_with("_sha256file")
}

impl Store for Bent {
    forward!(store: ensure put begin delete list);

    fn get<'a>(&'a self, key: &'a str, limit: u64) -> BoxFuture<'a, Result<Body, StoreError>> {
        self.whole.fetch_add(usize::from(is_chunk(key)), Ordering::Relaxed);
        self.store.get(key, limit)
    }
    fn get_range<'a>(&'a self, key: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Body, StoreError>> {
        Box::pin(async move {
            let got = self.store.get_range(key, range.clone()).await?;
            if !is_chunk(key) {
                return Ok(got);
            }
            let mut asked = self.asked.lock().unwrap();
            let before = asked.iter().filter(|earlier| **earlier == range).count();
            asked.push(range.clone());
            (self.bend)(&range, before, got)
        })
    }
}

/// A large object comes in parts, each byte asked for once; a part that comes short is asked for again; one that stays
/// short is a damaged object, and a store that fails is no damage.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_in_parts() {
    let repository = Repository::new();
    let data = noise(32, 9 * MIB + 99);
    let chunk_size = (9 * MIB + (32 << 10)) as u64;
    let compression = Compression::None;
    let options = CreateOptions { compression, chunk_size, split: 1, ..CreateOptions::new(Uuid::new_v4()) };
    let made = repository.create(&data, &options).await.unwrap();
    let key = format!("{}-00001", made.prefix);
    let engine = |bend: Box<Bend>| {
        let (asked, whole) = (Mutex::default(), AtomicUsize::new(0));
        let bent = Arc::new(Bent { store: Arc::clone(&repository.store), asked, whole, bend });
        (Engine::new(Arc::clone(&bent) as _), bent)
    };
    let to = repository.path("to");
    let options = RestoreOptions { damaged: Damaged::Fail, ..RestoreOptions::new(made.backup_id, &to) };
    let (progress, never) = (Progress::default(), Cancel::never());

    let (plain, bent) = engine(Box::new(|_, _, got| Ok(got)));
    let report = plain.restore(&options, &progress, &never).await.unwrap();
    assert!(std::fs::read(&to).unwrap() == data);
    assert_eq!((report.bytes_fetched, progress.state().transferred), (data.len() as u64, data.len() as u64));
    let asked = bent.asked.lock().unwrap().clone();
    assert!(asked.len() > 3 && bent.whole.load(Ordering::Relaxed) == 0, "{asked:?}");
    assert!(asked.windows(2).all(|pair| pair[0].end == pair[1].start), "{asked:?}");
    assert_eq!((asked[0].start, asked[asked.len() - 1].end), (0, data.len() as u64));
    std::fs::remove_file(&to).unwrap();

    let (short, bent) =
        engine(Box::new(|_, before, got| Ok(if before == 0 { got.slice(..1000) } else { got })));
    short.restore(&options, &progress, &never).await.unwrap();
    assert!(std::fs::read(&to).unwrap() == data);
    assert_eq!(bent.asked.lock().unwrap().len(), 2 * asked.len());
    std::fs::remove_file(&to).unwrap();

    let (truncated, _) =
        engine(Box::new(|range, _, got| Ok(if range.start > 0 { got.slice(..7) } else { got })));
    let error = truncated.restore(&options, &progress, &never).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Damaged && error.to_string().contains(&key), "{error}");

    let (failing, _) = engine(Box::new(|range, _, got| match range.start {
        0 => Ok(got),
        _ => {
            let (operation, source) = ("reading", "the wire was cut".into());
            Err(StoreError::Backend { operation, key: "a part".to_owned(), source })
        }
    }));
    let options = RestoreOptions { damaged: Damaged::Zero, ..options };
    let error = failing.restore(&options, &progress, &never).await.unwrap_err();
    assert!(matches!(error, BackupError::Store { .. }), "{error}");
    assert!(error.to_string().contains("the wire was cut"), "{error}");
    assert_eq!(repository.leftovers(), Vec::<String>::new());
}
