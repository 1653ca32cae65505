//! The first backup of what was made from another volume, or from a backup: read is what was written since, and no more.

use crate::support::domain::Domain;
use crate::world::*;
use rustix::fs::{SeekFrom, seek};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use strata::backup::format::VolumeMeta;
use strata::backup::store::ObjectBacked;
use strata::backup::{
    Cancel, CreateOptions, CreateReport, Engine, ParentChoice, PinnedReader, Progress, RestoreOptions,
    SnapshotSource,
};
use strata::volume::*;
use tokio::runtime::Runtime;
use uuid::Uuid;

const MIB: u64 = 1 << 20;
const SIZE: u64 = GIB;
/// Of an object: 32 clusters.
const CHUNK: u64 = 2 * MIB;

struct World {
    domain: Domain,
    runtime: Runtime,
    engine: Engine,
}

impl World {
    fn new() -> World {
        let engine = Engine::new(Arc::new(ObjectBacked::memory()));
        World { domain: Domain::new(), runtime: Runtime::new().unwrap(), engine }
    }

    fn request(&self, name: &str, source: Option<VolumeSource>) -> CreateVolume {
        CreateVolume {
            name: self.domain.name(name),
            required: Some(SIZE),
            limit: None,
            kind: VolumeKind::Qcow2,
            source,
            parameters: Default::default(),
        }
    }

    fn volume(&self, name: &str, source: Option<VolumeSource>) -> VolumeId {
        self.domain.volumes.create(&self.request(name, source)).unwrap().handle.volume
    }

    /// A volume whose data a backup brings back.
    fn restored(&self, name: &str, volume: VolumeId, backup: Uuid) -> VolumeId {
        let handle = BackupHandle {
            writer: Writer::Strata,
            repository: "main".parse().unwrap(),
            volume: volume.uuid(),
            backup,
        };
        let request = self.request(name, Some(VolumeSource::Backup(handle)));
        let Restored::Underway(id) = self.domain.volumes.begin_restore(&request, SIZE).unwrap() else {
            panic!("nothing was restored yet")
        };
        let turn = self.domain.volumes.restore_turn(id).unwrap().expect("the turn");
        let options = RestoreOptions {
            format: turn.format(),
            volume: Some(volume.uuid()),
            to_share: true,
            ..RestoreOptions::new(backup, turn.target())
        };
        let (progress, cancel) = (Progress::default(), Cancel::never());
        self.runtime.block_on(self.engine.restore(&options, &progress, &cancel)).unwrap();
        turn.finish().unwrap();
        id
    }

    fn write(&self, volume: VolumeId, cluster: u64, value: u8) {
        write(&self.domain, volume, cluster * CLUSTER, CLUSTER, value);
    }

    /// A backup of the volume as it is, restored and compared with what was backed up.
    fn back_up(&self, volume: VolumeId, name: &str) -> (SnapshotHandle, CreateReport) {
        let (snapshot, _) = snapshot(&self.domain, volume, &self.domain.name(name));
        let options = CreateOptions {
            parent: ParentChoice::Latest,
            hash_block: CLUSTER,
            chunk_size: CHUNK,
            volume_meta: Some(VolumeMeta::new(Default::default(), Default::default()).encode()),
            ..CreateOptions::new(volume.uuid())
        };
        let source = Arc::new(PinnedReader::open(Arc::new(pin(&self.domain, &snapshot))).unwrap());
        let (progress, cancel) = (Progress::default(), Cancel::never());
        let made = self.engine.create(Arc::clone(&source) as _, &options, &progress, &cancel);
        let made = self.runtime.block_on(made).unwrap();
        let to = self.domain.dir.path().join(made.backup_id.to_string());
        let restore = RestoreOptions::new(made.backup_id, &to);
        self.runtime.block_on(self.engine.restore(&restore, &progress, &cancel)).unwrap();
        let file = File::open(&to).unwrap();
        assert_eq!(file.metadata().unwrap().len(), SIZE);
        // All else is zeros on both sides.
        let mut parts = source.data_ranges(0..SIZE).unwrap();
        let mut at = 0;
        while let Ok(start) = seek(&file, SeekFrom::Data(at)) {
            at = seek(&file, SeekFrom::Hole(start)).unwrap();
            parts.push(start..at);
        }
        for part in parts {
            let length = (part.end - part.start) as usize;
            let (mut expected, mut found) = (vec![0; length], vec![0; length]);
            source.read_at(&mut expected, part.start).unwrap();
            file.read_exact_at(&mut found, part.start).unwrap();
            assert!(expected == found, "{name} differs within {part:?}");
        }
        std::fs::remove_file(to).unwrap();
        (snapshot, made)
    }
}

/// What was taken over from where, and how much was read.
fn taken(made: &CreateReport) -> (Option<Uuid>, Option<Uuid>, u64, Option<&str>) {
    (made.parent_id, made.copied_from, made.bytes_read, made.read_all_because.as_deref())
}

/// Of a snapshot, of a live volume, of a clone that has a backup itself, and of one that has none, whose source's it takes;
/// also when all that it was made from is deleted, and merged away.
#[test]
fn clones_take_over_what_their_sources_have_stored() {
    let world = World::new();
    let source = world.volume("source", None);
    for cluster in [0, 1, 40, 100, 200, 4000] {
        world.write(source, cluster, 1);
    }
    let (first, full) = world.back_up(source, "s1");
    assert_eq!(taken(&full), (None, None, 6 * CLUSTER, None));
    world.write(source, 40, 2);
    let (second, next) = world.back_up(source, "s2");
    assert_eq!(taken(&next), (Some(full.backup_id), None, CLUSTER, None));

    let clone = world.volume("clone", Some(VolumeSource::Snapshot(second.clone())));
    world.write(clone, 101, 3);
    let (of_clone, made) = world.back_up(clone, "c1");
    // Beside the cluster that was written: the one in the same object, and of an object that was partly overwritten the
    // rest, which is zeros.
    assert_eq!(taken(&made), (None, Some(next.backup_id), 2 * CLUSTER, None));
    assert_eq!(made.objects_copied, SIZE / CHUNK - 2 + 1);

    let older = world.volume("older", Some(VolumeSource::Snapshot(first.clone())));
    world.write(older, 0, 4);
    let (_, made_older) = world.back_up(older, "o1");
    assert_eq!(taken(&made_older), (None, Some(full.backup_id), 2 * CLUSTER, None));

    world.write(source, 4001, 5);
    let live = world.volume("live", Some(VolumeSource::Volume(world.domain.volumes.handle(source))));
    world.write(live, 300, 5);
    let (_, made_live) = world.back_up(live, "l1");
    assert_eq!(taken(&made_live), (None, Some(next.backup_id), 3 * CLUSTER, None));

    let grandchild = world.volume("grandchild", Some(VolumeSource::Snapshot(of_clone.clone())));
    let child = world.volume("child", Some(VolumeSource::Volume(world.domain.volumes.handle(grandchild))));
    for snapshot in [&second, &first, &of_clone] {
        delete(&world.domain, snapshot);
    }
    world.domain.volumes.delete(source).unwrap();
    world.write(child, 200, 6);
    let (_, made_child) = world.back_up(child, "g1");
    assert_eq!(taken(&made_child), (None, Some(made.backup_id), CLUSTER, None));
    for gone in [made.backup_id, next.backup_id, full.backup_id] {
        let deleted = world.engine.delete(gone);
        world.runtime.block_on(deleted).unwrap();
    }
    // Its own parent from now on.
    world.write(child, 201, 6);
    let (_, again) = world.back_up(child, "g2");
    assert_eq!(taken(&again), (Some(made_child.backup_id), None, CLUSTER, None));
    // Nothing is left of what it was made from.
    let (_, alone) = world.back_up(grandchild, "gc1");
    assert_eq!((alone.copied_from, alone.parent_id), (None, None));
}

/// A volume that a backup became, and a clone of that: the same, from the backup.
#[test]
fn restored_volumes_take_over_what_they_were_restored_from() {
    let world = World::new();
    let source = world.volume("source", None);
    for cluster in [0, 40, 100] {
        world.write(source, cluster, 1);
    }
    let (_, full) = world.back_up(source, "s1");
    world.write(source, 41, 2);
    let (_, next) = world.back_up(source, "s2");
    world.domain.volumes.delete(source).unwrap();

    let restored = world.restored("restored", source, next.backup_id);
    world.write(restored, 101, 3);
    let (early, _) = snapshot(&world.domain, restored, &world.domain.name("early"));
    let clone = world.volume("clone", Some(VolumeSource::Snapshot(early.clone())));
    world.write(restored, 102, 3);
    delete(&world.domain, &early);
    let (_, made) = world.back_up(restored, "r1");
    // Its own two clusters and the one in their object; and the object that was overwritten in part, one of whose
    // clusters has data.
    assert_eq!(taken(&made), (None, Some(next.backup_id), 4 * CLUSTER, None));
    assert_eq!(made.full_because.as_deref(), Some("the volume has no earlier backup"));

    // That of the volume that it is a clone of is of a later state: the way leads on to the backup.
    world.write(clone, 0, 4);
    let (_, made_clone) = world.back_up(clone, "c1");
    assert_eq!(taken(&made_clone), (None, Some(next.backup_id), 4 * CLUSTER, None));

    let other = world.restored("other", source, full.backup_id);
    let (_, made_other) = world.back_up(other, "o1");
    assert_eq!(taken(&made_other), (None, Some(full.backup_id), 0, None));
    assert_eq!(made_other.objects, made_other.objects_copied);
}
