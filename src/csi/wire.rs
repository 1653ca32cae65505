//! What the domain tells, as CSI has it.

use crate::backup::BackupPoint;
use crate::rpc::csi::volume_content_source::{SnapshotSource, Type as SourceType, VolumeSource};
use crate::rpc::csi::volume_usage::Unit;
use crate::rpc::csi::{Snapshot, Volume, VolumeCondition, VolumeContentSource, VolumeUsage};
use crate::volume::{BackupHandle, Health, SnapshotView, Stats, Usage, VolumeSource as Source, VolumeView};
use std::collections::HashMap;

/// A volume; its topology is wherever the shares are.
pub(super) fn volume(view: &VolumeView) -> Volume {
    let source = view.source.as_ref().map(|source| VolumeContentSource {
        r#type: Some(match source {
            Source::Snapshot(snapshot) => {
                SourceType::Snapshot(SnapshotSource { snapshot_id: snapshot.to_string() })
            }
            Source::Volume(volume) => SourceType::Volume(VolumeSource { volume_id: volume.to_string() }),
            Source::Backup(backup) => {
                SourceType::Snapshot(SnapshotSource { snapshot_id: backup.to_string() })
            }
        }),
    });
    Volume {
        capacity_bytes: i64::try_from(view.capacity).unwrap_or(i64::MAX),
        volume_id: view.handle.to_string(),
        volume_context: HashMap::new(),
        content_source: source,
        accessible_topology: Vec::new(),
    }
}

/// A snapshot as CSI has it. It is ready as soon as it exists.
pub(super) fn snapshot(view: &SnapshotView) -> Snapshot {
    let created = view.created_at;
    Snapshot {
        size_bytes: i64::try_from(view.size).unwrap_or(i64::MAX),
        snapshot_id: view.handle.to_string(),
        source_volume_id: view.handle.volume_handle().to_string(),
        creation_time: Some(prost_types::Timestamp {
            seconds: created.as_second(),
            nanos: created.subsec_nanosecond(),
        }),
        ready_to_use: true,
        group_snapshot_id: String::new(),
    }
}

/// A backup in the place of a snapshot.
pub(super) fn backup(handle: &BackupHandle, point: &BackupPoint) -> Snapshot {
    let created = point.created_at;
    let created =
        created.map(|at| prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() });
    Snapshot {
        size_bytes: i64::try_from(point.bytes).unwrap_or(i64::MAX),
        creation_time: created,
        ready_to_use: true,
        ..incomplete_backup(handle)
    }
}

/// A backup that has no manifest: it is being made, or was broken off.
pub(super) fn incomplete_backup(handle: &BackupHandle) -> Snapshot {
    Snapshot {
        snapshot_id: handle.to_string(),
        source_volume_id: handle.volume.to_string(),
        ready_to_use: false,
        ..Snapshot::default()
    }
}

/// Where a volume is published.
pub(super) fn nodes(view: &VolumeView) -> Vec<String> {
    view.nodes.iter().map(ToString::to_string).collect()
}

/// How a volume is, the reason's name first.
pub(super) fn condition(health: &Health) -> VolumeCondition {
    VolumeCondition { abnormal: *health != Health::Sound, message: health.to_string() }
}

/// How full a volume is.
pub(super) fn usage(stats: &Stats) -> Vec<VolumeUsage> {
    let figure = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let of = |usage: Option<Usage>, unit: Unit| {
        usage.map(|usage| VolumeUsage {
            available: figure(usage.available),
            total: figure(usage.total),
            used: figure(usage.used),
            unit: unit.into(),
        })
    };
    [of(stats.bytes, Unit::Bytes), of(stats.inodes, Unit::Inodes)].into_iter().flatten().collect()
}
