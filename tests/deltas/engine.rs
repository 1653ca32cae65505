//! What a backup reads by what the deltas tell.

use crate::support::domain::Domain;
use crate::world::*;
use sha2::{Digest, Sha256};
use std::fs;
use std::sync::Arc;
use strata::backup::format::VolumeMeta;
use strata::backup::store::ObjectBacked;
use strata::backup::{Cancel, CreateOptions, CreateReport, Engine, ParentChoice, PinnedReader, Progress};
use strata::volume::*;
use tokio::runtime::Runtime;

const BLOCK: u64 = 2 << 20;

/// Backups of one volume, each on the one before.
struct Backups {
    runtime: Runtime,
    engine: Engine,
    options: CreateOptions,
}

impl Backups {
    fn of(volume: VolumeId) -> Backups {
        let meta = VolumeMeta::new(Default::default(), Default::default()).encode();
        let options = CreateOptions {
            parent: ParentChoice::Latest,
            hash_block: BLOCK,
            volume_meta: Some(meta),
            ..CreateOptions::new(volume.uuid())
        };
        let engine = Engine::new(Arc::new(ObjectBacked::memory()));
        Backups { runtime: Runtime::new().unwrap(), engine, options }
    }

    fn create(&self, domain: &Domain, snapshot: &SnapshotHandle) -> CreateReport {
        let source = PinnedReader::open(Arc::new(pin(domain, snapshot))).unwrap();
        let (progress, cancel) = (Progress::default(), Cancel::never());
        let made = self.engine.create(Arc::new(source), &self.options, &progress, &cancel);
        self.runtime.block_on(made).unwrap()
    }
}

/// X2: what is read follows what changed, not the size of the volume.
#[test]
fn one_changed_cluster_costs_the_same_on_a_small_volume_and_on_a_large_one() {
    let domain = Domain::new();
    let cost = |name: &str, size: u64| {
        let request = CreateVolume {
            name: name.into(),
            required: Some(size),
            limit: None,
            kind: VolumeKind::Qcow2,
            source: None,
            parameters: Default::default(),
        };
        let volume = domain.volumes.create(&request).unwrap().handle.volume;
        let backups = Backups::of(volume);
        write(&domain, volume, 0, 64 * CLUSTER, 1);
        write(&domain, volume, size - 64 * CLUSTER, 64 * CLUSTER, 1);
        let (first, _) = snapshot(&domain, volume, &format!("{name}-1"));
        let full = backups.create(&domain, &first);
        assert_eq!((full.parent_id, full.bytes_read), (None, 128 * CLUSTER));
        write(&domain, volume, size - 3 * CLUSTER, CLUSTER, 2);
        let (second, _) = snapshot(&domain, volume, &format!("{name}-2"));
        delete(&domain, &first);
        let made = backups.create(&domain, &second);
        assert_eq!((made.parent_id, made.read_all_because), (Some(full.backup_id), None));
        assert_eq!((made.objects, made.bytes_changed), (1, BLOCK));
        made.bytes_read
    };
    assert_eq!((cost("pvc-small", 4 * GIB), cost("pvc-large", 400 * GIB)), (BLOCK, BLOCK));
}

/// A delta of other blocks, whole by its checksum, whose layer is gone: everything is read, and the result says why.
#[test]
fn a_delta_of_another_geometry_is_not_used() {
    let domain = Domain::new();
    let volume = domain.create("pvc", VolumeKind::Qcow2);
    let backups = Backups::of(volume);
    write(&domain, volume, 0, CLUSTER, 1);
    let (first, _) = snapshot(&domain, volume, "s1");
    let full = backups.create(&domain, &first);
    write(&domain, volume, 3 * BLOCK, CLUSTER, 1);
    let (second, state) = snapshot(&domain, volume, "s2");
    write(&domain, volume, 5 * BLOCK, CLUSTER, 1);
    let (third, _) = snapshot(&domain, volume, "s3");
    delete(&domain, &second);
    let path = domain.volumes.layout().deltas(volume).join(state.layer.to_string());
    let mut bytes = fs::read(&path).unwrap();
    // Behind magic and version, and before the checksum of all.
    assert_eq!(bytes[12..16], 65536u32.to_le_bytes());
    bytes[12..16].copy_from_slice(&32768u32.to_le_bytes());
    let content = bytes.len() - 32;
    let sum = Sha256::digest(&bytes[..content]);
    bytes[content..].copy_from_slice(&sum);
    fs::write(&path, bytes).unwrap();
    let made = backups.create(&domain, &third);
    let why = made.read_all_because.expect("its delta is of no use");
    assert!(why.contains("blocks of 32768 bytes"), "{why}");
    assert_eq!((made.parent_id, made.objects, made.bytes_read), (Some(full.backup_id), 2, 3 * CLUSTER));
}
