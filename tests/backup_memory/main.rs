//! Memory does not grow with the volume, and what each object takes is counted. Each test is alone in a process, so that
//! the process' peak is its own.

#[macro_use]
#[path = "../backup/forward.rs"]
mod forward;
mod many;

use bytes::Bytes;
use futures::future::BoxFuture;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use strata::backup::format::VolumeMeta;
use strata::backup::store::{LocalStore, ObjectBacked, ObjectInfo, Store, StoreError};
use strata::backup::{
    Cancel, Changed, CreateOptions, DataPoint, Engine, Limits, ParentChoice, Progress, RestoreOptions,
    SnapshotSource,
};
use strata::image::ReadError;
use uuid::Uuid;

const TIB: u64 = 1 << 40;
const MIB: u64 = 1 << 20;

/// A huge volume of holes, noise at some places.
struct Sparse {
    size: u64,
    data: Vec<Range<u64>>,
    changed: Option<Vec<Range<u64>>>,
    read: AtomicU64,
    point: DataPoint,
}

impl Sparse {
    fn new(size: u64, data: Vec<Range<u64>>, changed: Option<Vec<Range<u64>>>) -> Arc<Self> {
        let point = DataPoint { incarnation: Uuid::new_v4(), snapshot: Uuid::new_v4() };
        Arc::new(Sparse { size, data, changed, read: AtomicU64::new(0), point })
    }
}

impl SnapshotSource for Sparse {
    fn size(&self) -> u64 {
        self.size
    }
    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        let cut = |data: &Range<u64>| data.start.max(range.start)..data.end.min(range.end);
        Ok(self.data.iter().map(cut).filter(|part| part.start < part.end).collect())
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), ReadError> {
        self.read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        // By the place alone, however it is read; of each two words about one shrinks.
        for (word, place) in buffer.chunks_mut(8).zip((offset / 8)..) {
            let state = (place + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let state = (state ^ (state >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let state = if state >> 63 == 0 { state ^ (state >> 32) } else { state >> 56 };
            word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
        }
        Ok(())
    }
    fn point(&self) -> Option<DataPoint> {
        Some(self.point)
    }
    fn changed_since(&self, _: &DataPoint) -> Result<Changed, ReadError> {
        Ok(match &self.changed {
            Some(changed) => Changed::Only(changed.clone()),
            None => Changed::Unknown("nothing is recorded".to_owned()),
        })
    }
}

/// A store that keeps the two files in memory, chunks of data on disk, and of those of zeros only their number of bytes.
#[derive(Debug)]
struct Counting {
    files: ObjectBacked,
    chunks: Mutex<Vec<ObjectInfo>>,
    data: LocalStore,
}

impl Counting {
    fn of(&self, key: &str) -> &dyn Store {
        if is_file(key) { &self.files } else { &self.data }
    }
}

fn is_file(key: &str) -> bool {
    key.ends_with("_metadata") || key.ends_with("_sha256file")
}

impl Store for Counting {
    forward!(files: ensure begin delete);

    fn put<'a>(&'a self, key: &'a str, body: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        if key.ends_with("_metadata") {
            return self.files.put(key, body);
        }
        let info = ObjectInfo { key: key.to_owned(), size: body.len() as u64, modified: Default::default() };
        self.chunks.lock().unwrap().push(info);
        Box::pin(async move {
            match body.len() > 16 << 10 {
                true => self.data.put(key, body).await,
                false => Ok(()),
            }
        })
    }
    fn get<'a>(&'a self, key: &'a str, limit: u64) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        self.of(key).get(key, limit)
    }
    fn get_range<'a>(&'a self, key: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        self.of(key).get_range(key, range)
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<ObjectInfo>, StoreError>> {
        Box::pin(async move {
            let mut found = self.files.list(prefix).await?;
            let chunks = self.chunks.lock().unwrap();
            found.extend(chunks.iter().filter(|chunk| chunk.key.starts_with(prefix)).cloned());
            found.sort();
            Ok(found)
        })
    }
}

/// Memory of this process, in bytes: `VmHWM` is the most that it had, `VmRSS` what it has.
fn memory(which: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

fn peak() -> u64 {
    memory("VmHWM")
}

/// Every byte of a restored volume is as it was read from the source, and holes are holes.
fn compare(path: &Path, source: &Sparse) {
    let file = File::open(path).unwrap();
    let (mut expected, mut found) = (vec![0; MIB as usize], vec![0; MIB as usize]);
    for data in &source.data {
        for at in (data.start..data.end).step_by(MIB as usize) {
            let length = MIB.min(data.end - at) as usize;
            source.read_at(&mut expected[..length], at).unwrap();
            file.read_exact_at(&mut found[..length], at).unwrap();
            assert!(expected[..length] == found[..length], "at {at}");
        }
    }
    let bytes: u64 = source.data.iter().map(|data| data.end - data.start).sum();
    let meta = file.metadata().unwrap();
    assert_eq!(meta.len(), source.size);
    assert!(meta.blocks() * 512 <= bytes + 4 * MIB, "{} bytes", meta.blocks() * 512);
}

/// A tebibyte: 512 MiB of noise, the rest holes; then one cluster more; then nothing is known of the changes. Within
/// the budget each time, and in seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_tebibyte_in_bounded_memory() {
    let folder = tempfile::tempdir().unwrap();
    let data = LocalStore::new(folder.path().join("chunks"));
    data.ensure().await.unwrap();
    let store = Arc::new(Counting { files: ObjectBacked::memory(), chunks: Mutex::default(), data });
    let engine = Engine::new(store.clone());
    let meta = VolumeMeta::new(Default::default(), Default::default()).encode();
    let options = CreateOptions {
        parent: ParentChoice::Latest,
        hash_block: 2 * MIB,
        memory: 176 * MIB,
        volume_meta: Some(meta),
        ..CreateOptions::new(Uuid::new_v4())
    };
    let make = |source: Arc<Sparse>| {
        let (engine, options) = (engine.clone(), options.clone());
        async move { engine.create(source, &options, &Progress::default(), &Cancel::never()).await.unwrap() }
    };
    let before = peak();
    let noise: Vec<Range<u64>> = vec![3 * MIB..MIB * 259, TIB / 2..TIB / 2 + MIB * 256];
    let full = make(Sparse::new(TIB, noise.clone(), None)).await;
    // One for each chunk of zeros, and at most eight for each of the twelve with data.
    let chunks = TIB.div_ceil(options.chunk_size);
    assert!(full.objects > chunks + 50 && full.objects <= chunks + 12 * 7, "{full:?}");
    assert_eq!(full.bytes_read, 512 * MIB);
    assert!(full.bytes_buffered > 50 * MIB && full.bytes_buffered <= 112 * MIB, "{full:?}");
    let grown = peak() - before;
    // The budget, and what is stored here: the hash file (38 MB), the names of 21,000 objects (the manifest, 9 MB).
    assert!(grown < (176 + 100) * MIB, "{} MiB more", grown / MIB);
    let began = Instant::now();
    let cluster = TIB - 128 * 1024..TIB - 64 * 1024;
    let more = noise.iter().cloned().chain([cluster.clone()]).collect::<Vec<_>>();
    let source = Sparse::new(TIB, more.clone(), Some(vec![cluster]));
    let one = make(source.clone()).await;
    assert_eq!((one.objects, one.bytes_read, one.read_all_because), (1, 64 * 1024, None));
    assert_eq!(source.read.load(Ordering::Relaxed), 64 * 1024);
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
    let last = Sparse::new(TIB, more, None);
    let all = make(Arc::clone(&last)).await;
    assert_eq!((all.objects, all.read_all_because.as_deref()), (0, Some("nothing is recorded")));
    assert!(all.bytes_buffered <= 112 * MIB, "{all:?}");

    // And back: within what is said to be all of it, the manifests, hashes and parts on their way included.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS");
    let to = folder.path().join("volume");
    let limits = Limits { memory: 200 * MIB, ..Limits::default() };
    let options = RestoreOptions { limits, ..RestoreOptions::new(all.backup_id, &to) };
    let report = engine.restore(&options, &Progress::default(), &Cancel::never()).await.unwrap();
    let grown = peak() - before;
    assert!(grown < 200 * MIB, "{} MiB more: {report:?}", grown / MIB);
    // Several chunks of 50 MiB at a time, nevertheless.
    assert!(report.memory_peak > 100 * MIB, "{report:?}");
    compare(&to, &last);
}
