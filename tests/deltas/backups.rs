//! Backups over random histories, each made twice on the same parents: reading what the deltas tell, and reading
//! everything. They are the same to the byte.

use crate::history::{Content, History};
use crate::world::pin;
use rstest::rstest;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use strata::backup::format::VolumeMeta;
use strata::backup::store::{ObjectBacked, Store};
use strata::backup::{
    Cancel, Changed, CreateOptions, CreateReport, DataPoint, Engine, ParentChoice, PinnedReader, Progress,
    RestoreOptions, SnapshotSource,
};
use strata::image::ReadError;
use strata::volume::{Pinned, VolumeId};
use tokio::runtime::Runtime;
use uuid::Uuid;

const STEPS: usize = 35;

/// A snapshot of the history; of what changed it tells what is known, or nothing.
struct Source {
    reader: PinnedReader,
    tells: bool,
}

impl SnapshotSource for Source {
    fn size(&self) -> u64 {
        self.reader.size()
    }
    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        self.reader.data_ranges(range)
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), ReadError> {
        self.reader.read_at(buffer, offset)
    }
    fn point(&self) -> Option<DataPoint> {
        self.reader.point()
    }
    fn changed_since(&self, earlier: &DataPoint) -> Result<Changed, ReadError> {
        match self.tells {
            true => self.reader.changed_since(earlier),
            false => Ok(Changed::Unknown("it is not asked for".to_owned())),
        }
    }
}

/// A repository in memory.
struct Side {
    store: Arc<dyn Store>,
    engine: Engine,
    tells: bool,
}

impl Side {
    fn new(tells: bool) -> Side {
        let store: Arc<dyn Store> = Arc::new(ObjectBacked::memory());
        Side { engine: Engine::new(Arc::clone(&store)), store, tells }
    }

    async fn create(&self, pinned: Pinned, options: &CreateOptions) -> CreateReport {
        let source =
            Arc::new(Source { reader: PinnedReader::open(Arc::new(pinned)).unwrap(), tells: self.tells });
        self.engine.create(source, options, &Progress::default(), &Cancel::never()).await.unwrap()
    }

    /// All objects of a backup by the ends of their names; without what differs between any two backups.
    async fn objects(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        let mut objects = Vec::new();
        for found in self.store.list(prefix).await.unwrap() {
            let end = found.key[prefix.len()..].to_owned();
            let bytes = self.store.get(&found.key, found.size).await.unwrap().to_vec();
            let bytes = match end.as_str() {
                "_metadata" | "_sha256file" => without_names(&bytes, prefix),
                _ => bytes,
            };
            objects.push((end, bytes));
        }
        objects
    }
}

fn without_names(json: &[u8], prefix: &str) -> Vec<u8> {
    let text = str::from_utf8(json).unwrap().replace(prefix, "PREFIX");
    let mut value: Value = serde_json::from_str(&text).unwrap();
    for name in ["backup_id", "parent_id", "created_at"] {
        assert!(value.as_object_mut().unwrap().remove(name).is_some() || name == "parent_id");
    }
    serde_json::to_vec(&value).unwrap()
}

/// One state of a volume in both repositories.
struct Pair {
    point: usize,
    by_deltas: Uuid,
    by_reading: Uuid,
}

struct Backups {
    runtime: Runtime,
    by_deltas: Side,
    by_reading: Side,
    pairs: HashMap<VolumeId, Vec<Pair>>,
    hash_block: u64,
    /// Backups that read no more than what the deltas told, and what they read; against all that was allocated.
    incremental: usize,
    read: (u64, u64),
}

impl Backups {
    fn new(seed: u64) -> Backups {
        Backups {
            runtime: Runtime::new().unwrap(),
            by_deltas: Side::new(true),
            by_reading: Side::new(false),
            pairs: HashMap::new(),
            // Smaller than what a delta tells apart, the same, and larger.
            hash_block: [16 << 10, 64 << 10, 256 << 10][seed as usize % 3],
            incremental: 0,
            read: (0, 0),
        }
    }

    /// One of the living snapshots, on one of its volume's backups: mostly the last one.
    fn make(&mut self, history: &mut History) {
        let living = history.living();
        let Some(point) = history.random.pick(&living) else { return };
        let handle = history.points[point].snapshot.clone().unwrap();
        let pairs = self.pairs.entry(handle.volume).or_default();
        let last = pairs.len().checked_sub(1);
        let parent = last.map(|last| match history.random.one_in(4) {
            true => history.random.below(last + 1),
            false => last,
        });
        let parent = parent.map(|at| &pairs[at]);
        let choice =
            |id: fn(&Pair) -> Uuid| parent.map_or(ParentChoice::None, |p| ParentChoice::Backup(id(p)));
        let join = [0, 0, 128 << 10, 1 << 20][history.random.below(4)];
        let options = |parent| CreateOptions {
            parent,
            chunk_size: 1 << 20,
            hash_block: self.hash_block,
            join,
            // Where it is remembered which state this is of.
            volume_meta: Some(VolumeMeta::new(BTreeMap::new(), BTreeMap::new()).encode()),
            ..CreateOptions::new(handle.volume.uuid())
        };
        let domain = &history.domain;
        let (quick, slow) = self.runtime.block_on(async {
            let quick = self.by_deltas.create(pin(domain, &handle), &options(choice(|p| p.by_deltas))).await;
            let slow = self.by_reading.create(pin(domain, &handle), &options(choice(|p| p.by_reading))).await;
            let objects = self.by_deltas.objects(&quick.prefix).await;
            let expected = self.by_reading.objects(&slow.prefix).await;
            let names = |of: &[(String, Vec<u8>)]| of.iter().map(|(end, _)| end.clone()).collect::<Vec<_>>();
            assert_eq!(names(&objects), names(&expected), "of point {point}");
            for ((end, made), (_, expected)) in objects.iter().zip(&expected) {
                assert!(made == expected, "{end} of point {point} differs: {quick:?} {slow:?}");
            }
            (quick, slow)
        });
        assert_eq!(quick.parent_id.is_some(), parent.is_some(), "{quick:?}");
        // The parent's state lies on the way: then it is known, whatever has become of its snapshot.
        if parent.is_some_and(|parent| history.way(point).contains(&parent.point)) {
            assert_eq!(quick.read_all_because, None);
            self.incremental += 1;
            self.read = (self.read.0 + quick.bytes_read, self.read.1 + slow.bytes_read);
        }
        pairs.push(Pair { point, by_deltas: quick.backup_id, by_reading: slow.backup_id });
    }

    /// The newest of each volume, restored: the history's own bytes.
    fn restore_all(&self, history: &History) {
        let folder = tempfile::tempdir().unwrap();
        for pair in self.pairs.values().filter_map(|pairs| pairs.last()) {
            let to = folder.path().join(pair.by_deltas.to_string());
            let options = RestoreOptions::new(pair.by_deltas, &to);
            let (progress, cancel) = (Progress::default(), Cancel::never());
            let restore = self.by_deltas.engine.restore(&options, &progress, &cancel);
            self.runtime.block_on(restore).unwrap();
            let point = &history.points[pair.point];
            let file = File::open(&to).unwrap();
            assert_eq!(file.metadata().unwrap().len(), point.size);
            assert_eq!(content(&file, point.size), point.content, "of point {}", pair.point);
            std::fs::remove_file(to).unwrap();
        }
    }
}

/// What is not zeros, by pages of one value each.
fn content(file: &File, size: u64) -> Content {
    let (mut content, mut page) = (Content::new(), [0; 4096]);
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
        let end = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(start)).unwrap().min(size);
        for number in start / 4096..end.div_ceil(4096) {
            file.read_exact_at(&mut page, number * 4096).unwrap();
            assert!(page.iter().all(|byte| *byte == page[0]), "page {number} is torn");
            if page[0] != 0 {
                content.insert(number, page[0]);
            }
        }
        at = end;
    }
    content
}

/// X2, by seeds that repeat their history.
#[rstest]
fn by_deltas_is_by_reading_everything(#[values(1, 2, 3)] seed: u64) {
    let (mut history, mut backups) = (History::new(1000 + seed), Backups::new(seed));
    for _ in 0..STEPS {
        history.step();
        if history.random.one_in(2) {
            backups.make(&mut history);
        }
    }
    history.detach_all();
    for _ in 0..3 {
        backups.make(&mut history);
    }
    backups.restore_all(&history);
    let (quick, slow) = backups.read;
    assert!(backups.incremental >= 5, "only {} backups were made by deltas", backups.incremental);
    assert!(quick < slow, "{quick} bytes were read by deltas, {slow} without");
}
