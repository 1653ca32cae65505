//! Random histories, each held against a model: whatever differs between two points is in the answer, and the answer has
//! nothing that was not written in between.

use crate::random::Random;
use crate::support::domain::Domain;
use crate::world::*;
use rstest::rstest;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use strata::image::ChainReader;
use strata::volume::*;

const PAGE: u64 = 4096;

/// Values of pages of 4 KiB; what is not here is zeros.
pub type Content = BTreeMap<u64, u8>;

/// A frozen state, in the tree of all of them.
pub struct Point {
    pub state: StateId,
    /// The point before, and the clusters that were written since.
    before: Option<usize>,
    written: BTreeSet<u64>,
    pub content: Content,
    pub size: u64,
    /// None once it is deleted, or if it never had a name.
    pub snapshot: Option<SnapshotHandle>,
}

pub struct Volume {
    pub id: VolumeId,
    /// The last point of it.
    last: Option<usize>,
    written: BTreeSet<u64>,
    pub content: Content,
    pub size: u64,
    device: Option<PathBuf>,
}

pub struct History {
    pub domain: Domain,
    pub random: Random,
    pub volumes: Vec<Volume>,
    pub points: Vec<Point>,
    names: usize,
    /// Answers that were held against the model.
    asked: usize,
}

impl History {
    pub fn new(seed: u64) -> History {
        let domain = Domain::with(Policy { soft_depth: 6, ..Policy::default() });
        let kind = if seed.is_multiple_of(2) { VolumeKind::Qcow2 } else { VolumeKind::RawSparse };
        let id = domain.create("pvc-0", kind);
        let mut history = History {
            domain,
            random: Random::new(seed),
            volumes: Vec::new(),
            points: Vec::new(),
            names: 0,
            asked: 0,
        };
        let (written, content) = Default::default();
        history.volumes.push(Volume { id, last: None, written, content, size: GIB, device: None });
        history
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("name-{}", self.names)
    }

    /// Somewhere that is worth it: the start, the border between two tables of the image, the end.
    fn place(&mut self, size: u64) -> Range<u64> {
        let pages = 1 + self.random.below(40) as u64;
        let around = [0, 512 << 20, size - (4 << 20)];
        let zone = around[self.random.below(around.len())];
        let start = zone + self.random.below(900) as u64 * PAGE;
        start..(start + pages * PAGE).min(size)
    }

    fn write(&mut self, which: usize) {
        let mut commands = Vec::new();
        for _ in 0..1 + self.random.below(4) {
            let size = self.volumes[which].size;
            let mut range = self.place(size);
            let value = match self.random.below(3) {
                0 => 0,
                _ => 1 + self.random.below(250) as u8,
            };
            let discard = value == 0 && self.random.one_in(2);
            if discard {
                // Only whole clusters are discarded.
                range = range.start / CLUSTER * CLUSTER..range.end.next_multiple_of(CLUSTER);
            }
            let length = range.end - range.start;
            if let Some(device) = self.volumes[which].device.clone() {
                if discard {
                    crate::support::run(
                        "blkdiscard",
                        &[
                            "-z",
                            "-o",
                            &range.start.to_string(),
                            "-l",
                            &length.to_string(),
                            device.to_str().unwrap(),
                        ],
                    );
                } else {
                    write_through(&device, range.start, length, value);
                }
            } else {
                let verb = match (discard, value) {
                    (true, _) => "discard".to_owned(),
                    (false, 0) => ["write -z", "write -z -u"][self.random.below(2)].to_owned(),
                    (false, value) => format!("write -P {value}"),
                };
                commands.push(format!("{verb} {} {length}", range.start));
            }
            let volume = &mut self.volumes[which];
            for page in range.start / PAGE..range.end / PAGE {
                match value {
                    0 => volume.content.remove(&page),
                    value => volume.content.insert(page, value),
                };
            }
            volume.written.extend(range.start / CLUSTER..range.end.div_ceil(CLUSTER));
        }
        if !commands.is_empty() {
            io(&self.domain, self.volumes[which].id, &commands);
        }
    }

    fn freeze(&mut self, which: usize, state: StateId, snapshot: Option<SnapshotHandle>) -> usize {
        let volume = &mut self.volumes[which];
        self.points.push(Point {
            state,
            before: volume.last,
            written: std::mem::take(&mut volume.written),
            content: volume.content.clone(),
            size: volume.size,
            snapshot,
        });
        volume.last = Some(self.points.len() - 1);
        self.points.len() - 1
    }

    fn snapshot(&mut self, which: usize) {
        let name = self.name();
        let (handle, state) = snapshot(&self.domain, self.volumes[which].id, &name);
        self.freeze(which, state, Some(handle));
    }

    pub fn living(&self) -> Vec<usize> {
        (0..self.points.len()).filter(|point| self.points[*point].snapshot.is_some()).collect()
    }

    fn delete(&mut self) {
        let living = self.living();
        let Some(point) = self.random.pick(&living) else { return };
        let handle = self.points[point].snapshot.take().unwrap();
        self.domain.volumes.delete_snapshot(handle.volume, handle.snapshot).unwrap();
    }

    fn tidy(&mut self, which: usize) {
        match self.domain.volumes.tidy(self.volumes[which].id) {
            // A clone in use has the layers open: they wait.
            Err(Error::Pending { .. } | Error::NodeUnreachable { .. }) => {}
            done => done.unwrap(),
        }
    }

    fn grow(&mut self, which: usize) {
        let volume = &mut self.volumes[which];
        volume.size += GIB;
        self.domain.volumes.expand(volume.id, Some(volume.size), None).unwrap();
    }

    /// Of a snapshot, or of the volume as it is: then a cut that no snapshot names is a point, too.
    fn clone(&mut self) {
        let living = self.living();
        let from_snapshot = self.random.pick(&living).filter(|_| self.random.one_in(2));
        let which = self.random.below(self.volumes.len());
        let source = match from_snapshot {
            Some(point) => VolumeSource::Snapshot(self.points[point].snapshot.clone().unwrap()),
            None => VolumeSource::Volume(self.domain.volumes.handle(self.volumes[which].id)),
        };
        let name = self.name();
        let id = self.domain.create_from(&name, VolumeKind::Qcow2, Some(source));
        let point = from_snapshot.unwrap_or_else(|| self.boundary(which, id));
        let Point { content, size, .. } = &self.points[point];
        let (content, size) = (content.clone(), *size);
        let written = BTreeSet::new();
        self.volumes.push(Volume { id, last: Some(point), written, content, size, device: None });
    }

    /// The point that a clone of a live volume stands on: a new one, unless nothing was written since the last.
    fn boundary(&mut self, which: usize, clone: VolumeId) -> usize {
        let parent = record(&self.domain, clone).layers[0].parent.unwrap();
        let holder = record(&self.domain, parent.volume);
        let layer = holder.layer(parent.layer).unwrap();
        let state = StateId { incarnation: layer.incarnation, layer: layer.id.uuid() };
        match self.points.iter().position(|point| point.state == state) {
            Some(known) => known,
            None => self.freeze(which, state, None),
        }
    }

    pub fn attach_or_detach(&mut self, which: usize) {
        let volume = &mut self.volumes[which];
        match volume.device.take() {
            Some(_) => self.domain.detach(volume.id),
            None => volume.device = Some(self.domain.attach(volume.id, Access::Block)),
        }
    }

    pub fn detach_all(&mut self) {
        for which in 0..self.volumes.len() {
            if self.volumes[which].device.is_some() {
                self.attach_or_detach(which);
            }
        }
    }

    /// The way from a point back, itself first.
    pub fn way(&self, point: usize) -> Vec<usize> {
        std::iter::successors(Some(point), |point| self.points[*point].before).collect()
    }

    /// Asks one living point about one of all.
    fn ask(&mut self) {
        let living = self.living();
        let Some(now) = self.random.pick(&living) else { return };
        let way = self.way(now);
        let then = match self.random.one_in(8) {
            true => self.random.below(self.points.len()),
            false => way[self.random.below(way.len())],
        };
        let pinned = pin(&self.domain, self.points[now].snapshot.as_ref().unwrap());
        let reader = ChainReader::open(&pinned.chain).unwrap();
        assert_eq!(reader.size(), self.points[now].size);
        let answer = pinned.changed_since(self.points[then].state, reader.size());
        let Some(steps) = way.iter().position(|point| *point == then) else {
            unknown(answer);
            return;
        };
        let ranges = match answer {
            Since::Only(ranges) => ranges,
            Since::Unknown(reason) => panic!("{now} since {then}, {steps} steps: {reason}"),
        };
        self.hold(now, then, &way[..steps], &ranges);
        self.reads_as(&reader, now, then);
        self.asked += 1;
    }

    fn hold(&self, now: usize, then: usize, between: &[usize], ranges: &[Range<u64>]) {
        let (later, earlier) = (&self.points[now], &self.points[then]);
        assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start), "{ranges:?}");
        let told = |offset: u64| ranges.iter().any(|range| range.contains(&offset));
        let pages: BTreeSet<u64> = later.content.keys().chain(earlier.content.keys()).copied().collect();
        for page in pages {
            // Bytes of the earlier point where nothing is told, of the later one where it is: they make the later one.
            let same = later.content.get(&page) == earlier.content.get(&page);
            assert!(same || told(page * PAGE), "{now} since {then}: page {page} changed, and is not told");
        }
        if later.size > earlier.size {
            let last = ranges.last().unwrap();
            assert!(last.start <= earlier.size && last.end == later.size, "growth is not told: {last:?}");
        }
        let written: BTreeSet<u64> =
            between.iter().flat_map(|point| &self.points[*point].written).copied().collect();
        for range in ranges {
            for cluster in range.start / CLUSTER..range.end.min(earlier.size).div_ceil(CLUSTER) {
                assert!(written.contains(&cluster), "{now} since {then}: {cluster} was not written");
            }
        }
    }

    /// The model is right: the image has these bytes.
    fn reads_as(&self, reader: &ChainReader, now: usize, then: usize) {
        let content = &self.points[now].content;
        let mut page_bytes = vec![0; PAGE as usize];
        for page in content.keys().chain(self.points[then].content.keys()) {
            reader.read_at(&mut page_bytes, page * PAGE).unwrap();
            let value = content.get(page).copied().unwrap_or(0);
            assert!(page_bytes.iter().all(|byte| *byte == value), "point {now}, page {page}: not {value}");
        }
    }

    /// As a controller that starts anew: nothing is remembered but what is on the share.
    fn restart(&mut self) {
        let (share, tools) = (self.domain.volumes.share().clone(), self.domain.volumes.tools().clone());
        self.domain.volumes = Volumes::new(share, tools);
    }

    pub fn step(&mut self) {
        let which = self.random.below(self.volumes.len());
        match self.random.below(20) {
            0..=5 => self.write(which),
            6..=10 => {
                self.write(which);
                self.snapshot(which);
            }
            11..=13 => {
                self.delete();
                self.tidy(which);
            }
            14 if self.volumes[which].size < 4 * GIB => self.grow(which),
            15 if self.volumes.len() < 4 => self.clone(),
            16..=17 => self.attach_or_detach(which),
            18 => self.restart(),
            _ => self.tidy(which),
        }
        for _ in 0..2 {
            self.ask();
        }
    }
}

#[rstest]
fn whatever_changed_is_told_and_nothing_else(#[values(1, 2, 3)] seed: u64) {
    let mut history = History::new(seed);
    for _ in 0..45 {
        history.step();
    }
    history.detach_all();
    for which in 0..history.volumes.len() {
        tidy(&history.domain, history.volumes[which].id);
        let report = history.domain.volumes.inspect(history.volumes[which].id).unwrap();
        assert_eq!(report.problems, Vec::<String>::new());
    }
    for _ in 0..20 {
        history.ask();
    }
    assert!(history.asked > 50, "only {} answers were held against the model", history.asked);
}
