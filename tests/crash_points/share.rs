//! What lies on the share, read without the driver: records, chains and folders, compared with what they should be.

use crate::support;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use strata::image::{Format, ImageRef, QemuImg};
use strata::volume::record::{Record, decode};
use strata::volume::{LayerId, Layout, SnapshotId, VolumeId};
use support::disk::LIMIT;

/// A share in a folder.
pub struct Share {
    root: PathBuf,
    pub layout: Layout,
    img: QemuImg,
}

/// The volume of a handle.
pub fn volume_of(handle: &str) -> VolumeId {
    handle.split('/').nth(1).unwrap().parse().unwrap()
}

/// The snapshot of a handle.
pub fn snapshot_of(handle: &str) -> SnapshotId {
    handle.split('/').nth(2).unwrap().parse().unwrap()
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

impl Share {
    pub fn new(root: &Path) -> Share {
        Share { root: root.to_owned(), layout: Layout::new(root), img: QemuImg::new(support::qemu_img()) }
    }

    pub fn image(&self, volume: VolumeId, file: &str) -> PathBuf {
        self.layout.image(volume, file)
    }

    pub fn record(&self, volume: VolumeId) -> Record {
        let bytes = std::fs::read(self.layout.record(volume)).unwrap();
        decode(&bytes).unwrap_or_else(|reason| panic!("the record of {volume}: {reason}"))
    }

    /// Nothing that was begun is left in the record, and nothing that could be merged or freed.
    pub fn is_tidy(&self, volume: VolumeId) -> bool {
        let record = self.record(volume);
        let clones = self.stands_on(volume);
        let needed = |layer: &LayerId| {
            record.active == Some(*layer)
                || clones.contains(layer)
                || record.snapshots.iter().any(|snapshot| snapshot.layer == *layer)
        };
        // The boundary under the active image stays until the next cut.
        let boundary = record.active_layer().and_then(|layer| layer.parent).map(|parent| parent.layer);
        let only_needed = record.layers.iter().all(|layer| needed(&layer.id) || boundary == Some(layer.id));
        let told = self.layout.background(volume).exists();
        record.intent.is_none() && record.merge.is_none() && record.trash.is_empty() && only_needed && !told
    }

    /// The layers of a volume that other volumes stand on.
    fn stands_on(&self, volume: VolumeId) -> BTreeSet<LayerId> {
        let others = names(&self.layout.volumes()).into_iter().map(|name| name.parse().unwrap());
        let others = others.filter(|other| *other != volume && self.layout.record(*other).exists());
        let layers = others.flat_map(|other| self.record(other).layers);
        let parents = layers.filter_map(|layer| layer.parent).filter(|parent| parent.volume == volume);
        parents.map(|parent| parent.layer).collect()
    }

    /// The images under a layer and its own, top first, as the records name them.
    pub fn chain(&self, volume: VolumeId, layer: LayerId) -> Vec<ImageRef> {
        let mut chain = Vec::new();
        let mut next = Some((volume, layer));
        while let Some((volume, id)) = next {
            let record = self.record(volume);
            let layer = record.layer(id).unwrap_or_else(|| panic!("{volume} has no layer {id}"));
            chain.push(ImageRef { path: self.layout.image(volume, &layer.file), format: layer.format });
            next = layer.parent.map(|parent| (parent.volume, parent.layer));
        }
        chain
    }

    pub fn snapshot_chain(&self, handle: &str) -> Vec<ImageRef> {
        let (volume, id) = (volume_of(handle), snapshot_of(handle));
        let record = self.record(volume);
        let snapshot = record.snapshot(id).unwrap_or_else(|| panic!("{handle} is not in the record"));
        self.chain(volume, snapshot.layer)
    }

    pub fn active_chain(&self, volume: VolumeId) -> Vec<ImageRef> {
        let active = self.record(volume).active.expect("a live volume");
        self.chain(volume, active)
    }

    /// A copy of what a chain reads back now. While a merge copies into a layer, no other program reads that; after it,
    /// the record names other files: the chain is asked for again.
    pub fn keep(&self, chain: impl Fn() -> Vec<ImageRef>, to: PathBuf) -> ImageRef {
        let deadline = Instant::now() + LIMIT;
        loop {
            let read = chain();
            let Err(error) = self.img.convert(&read, &to, Format::Raw, LIMIT) else { break };
            let merged = error.to_string().contains("\" lock") || chain() != read;
            assert!(merged && Instant::now() < deadline, "{error}");
            std::thread::sleep(Duration::from_millis(50));
        }
        ImageRef { path: to, format: Format::Raw }
    }

    pub fn same(&self, chain: &[ImageRef], kept: &ImageRef) -> bool {
        self.img.compare(chain, std::slice::from_ref(kept), LIMIT).unwrap()
    }

    /// The table agrees with the record, and there is no file that the record does not name, nor one missing.
    pub fn folder_agrees(&self, volume: VolumeId) {
        let record = self.record(volume);
        let table = std::fs::read(self.layout.info(volume)).unwrap();
        let table: std::collections::BTreeMap<String, String> = serde_json::from_slice(&table).unwrap();
        assert_eq!(table, record.info_table(), "volume.info disagrees with the record of {volume}");
        let mut found = names(&self.layout.volume(volume));
        for known in ["volume.json", "volume.info", "children", "deltas"] {
            found.remove(known);
        }
        let wanted: BTreeSet<String> = record.layers.iter().map(|layer| layer.file.clone()).collect();
        assert_eq!(found, wanted, "the files of {volume} are not those of its record");
    }

    /// `qemu-img check` of every image of a volume that is not attached.
    pub fn check(&self, volume: VolumeId) {
        for layer in self.record(volume).layers {
            let path = self.layout.image(volume, &layer.file);
            let report = self.img.check(&path, layer.format, LIMIT).unwrap();
            assert!(report.corruptions == 0 && report.leaks == 0, "{}: {report:?}", layer.file);
        }
    }

    /// The volumes and the snapshots' names on the share are these and no others.
    pub fn holds_only(&self, volumes: &[VolumeId], snapshots: &[SnapshotId]) {
        let volumes: BTreeSet<String> = volumes.iter().map(ToString::to_string).collect();
        assert_eq!(names(&self.layout.volumes()), volumes, "folders of volumes");
        let wanted: BTreeSet<String> = snapshots.iter().map(ToString::to_string).collect();
        let folder = self.root.join("snapshots");
        assert_eq!(names(&folder), wanted, "names of snapshots");
    }
}
