//! A snapshot on a share as the source of a backup, and what is told of it in the backup.

use super::format::{VolumeMeta, ZoneName};
use super::{Changed, DataPoint, Origin, SnapshotSource};
use crate::image::{ChainReader, ReadError};
use crate::volume::{Ancestor, BackupHandle, Pinned, Since, StateId};
use serde_json::json;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use uuid::Uuid;

/// A pinned state of a volume that is read. Fields are dropped in this order: nothing is unpinned while it can still be
/// read.
pub struct PinnedReader {
    reader: ChainReader,
    pinned: Arc<Pinned>,
}

impl PinnedReader {
    /// Opens the layers. Blocks.
    pub fn open(pinned: Arc<Pinned>) -> Result<Self, ReadError> {
        Ok(PinnedReader { reader: ChainReader::open(&pinned.chain)?, pinned })
    }

    /// What is held.
    pub fn pinned(&self) -> &Pinned {
        &self.pinned
    }
}

impl SnapshotSource for PinnedReader {
    fn size(&self) -> u64 {
        self.reader.size()
    }
    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        self.reader.data_ranges(range)
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), ReadError> {
        SnapshotSource::read_at(&self.reader, buffer, offset)
    }
    fn is_lost(&self) -> bool {
        self.pinned.is_lost()
    }
    fn point(&self) -> Option<DataPoint> {
        Some(point_of(self.pinned.state()))
    }
    fn origins(&self) -> Vec<Origin> {
        let origin = |ancestor| match ancestor {
            Ancestor::Volume { volume, states } => {
                Origin::Volume { volume: volume.uuid(), states: states.into_iter().map(point_of).collect() }
            }
            Ancestor::Backup { backup, state } => {
                let BackupHandle { volume, backup, .. } = backup;
                Origin::Backup { volume, backup, state: state.map(point_of) }
            }
        };
        self.pinned.ancestors().into_iter().map(origin).collect()
    }
    fn changed_since(&self, earlier: &DataPoint) -> Result<Changed, ReadError> {
        let earlier = StateId { incarnation: earlier.incarnation, layer: earlier.snapshot };
        Ok(match self.pinned.changed_since(earlier, self.reader.size()) {
            Since::Unknown(reason) => Changed::Unknown(reason),
            Since::Only(ranges) => Changed::Only(ranges),
        })
    }
}

fn point_of(state: StateId) -> DataPoint {
    let StateId { incarnation, layer } = state;
    DataPoint { incarnation, snapshot: layer }
}

/// What is told of a snapshot's volume: where it came from, and its StorageClass's parameters.
pub fn snapshot_meta(pinned: &Pinned) -> BTreeMap<String, String> {
    let mut extra = BTreeMap::new();
    if let Some(snapshot) = &pinned.snapshot {
        extra.insert("strata.snapshot".to_owned(), snapshot.handle.to_string());
        extra.insert("strata.snapshot-name".to_owned(), snapshot.name.clone());
        extra.insert("strata.created-at".to_owned(), snapshot.created_at.to_string());
    }
    for (key, value) in &pinned.volume.parameters {
        extra.insert(format!("strata.parameter.{key}"), value.clone());
    }
    extra
}

/// The metadata that goes along (B10), under the keys that Cinder reads.
pub fn volume_meta(
    volume: Uuid,
    name: &str,
    size: u64,
    zone: &ZoneName,
    extra: BTreeMap<String, String>,
) -> VolumeMeta {
    let base = BTreeMap::from([
        ("availability_zone".to_owned(), json!(zone.to_string())),
        ("display_description".to_owned(), json!("")),
        ("display_name".to_owned(), json!(name)),
        ("id".to_owned(), json!(volume.to_string())),
        ("size".to_owned(), json!(size.div_ceil(1 << 30))),
    ]);
    VolumeMeta::new(base, extra)
}
