//! What requests carry, parsed into its type or refused.

use crate::rpc::csi::volume_content_source::Type as SourceType;
use crate::rpc::csi::{CapacityRange, VolumeContentSource};
use crate::trace;
use crate::volume::{BackupHandle, VolumeHandle, VolumeSource};
use std::path::PathBuf;
use tonic::Status;

pub(super) const GIB: u64 = 1 << 30;
/// CSI bounds names to 128 bytes.
const MAX_NAME: usize = 128;
/// CSI bounds paths to 4 KiB, as the kernel does.
const MAX_PATH: usize = 4096;

pub(super) fn required<'a>(value: &'a str, what: &str) -> Result<&'a str, Status> {
    if value.is_empty() {
        return Err(Status::invalid_argument(format!("{what} is missing")));
    }
    Ok(value)
}

/// A name becomes part of an id, never of a path; still its length and letters are CSI's.
pub(super) fn name(value: &str) -> Result<&str, Status> {
    let value = required(value, "name")?;
    if value.len() > MAX_NAME || value.chars().any(char::is_control) {
        return Err(Status::invalid_argument("name has more than 128 bytes, or control characters"));
    }
    Ok(value)
}

/// A handle that is none names a volume that does not exist.
pub(super) fn volume_handle(value: &str) -> Result<VolumeHandle, Status> {
    let handle: VolumeHandle =
        required(value, "volume_id")?.parse().map_err(|error| Status::not_found(format!("{error}")))?;
    trace::about_volume(handle.volume);
    Ok(handle)
}

/// A text that is meant as a backup's handle and is none is somebody's slip, of which he should hear. None: it is meant as
/// something else.
pub(super) fn backup_handle(value: &str) -> Result<Option<BackupHandle>, Status> {
    if !BackupHandle::is_meant(value) {
        return Ok(None);
    }
    value.parse().map(Some).map_err(|error| Status::invalid_argument(format!("{error}")))
}

/// Whole GiB at least as large as asked for, within the limit. None: nothing was asked for.
pub(super) fn capacity(range: Option<&CapacityRange>) -> Result<(Option<u64>, Option<u64>), Status> {
    let Some(range) = range else { return Ok((None, None)) };
    let bound = |value: i64| match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(Status::invalid_argument("a negative capacity")),
    };
    let (asked, limit) = (bound(range.required_bytes)?, bound(range.limit_bytes)?);
    let required = asked
        .map(|bytes| {
            bytes
                .checked_next_multiple_of(GIB)
                .filter(|bytes| i64::try_from(*bytes).is_ok())
                .ok_or_else(|| Status::out_of_range("the capacity is beyond what CSI can say"))
        })
        .transpose()?;
    if let Some(limit) = limit {
        if asked.is_some_and(|asked| asked > limit) {
            return Err(Status::invalid_argument("required_bytes is above limit_bytes"));
        }
        let smallest = required.unwrap_or(GIB);
        if smallest > limit {
            return Err(Status::out_of_range(format!(
                "capacities are whole GiB: {smallest} bytes is the least, and the limit is {limit}"
            )));
        }
    }
    Ok((required, limit))
}

pub(super) fn content_source(source: Option<&VolumeContentSource>) -> Result<Option<VolumeSource>, Status> {
    match source.and_then(|source| source.r#type.as_ref()) {
        None if source.is_some() => Err(Status::invalid_argument("a volume_content_source without a source")),
        None => Ok(None),
        Some(SourceType::Snapshot(snapshot)) => {
            let handle = required(&snapshot.snapshot_id, "snapshot_id")?;
            if let Some(backup) = backup_handle(handle)? {
                return Ok(Some(VolumeSource::Backup(backup)));
            }
            let handle = handle.parse().map_err(|error| Status::not_found(format!("{error}")))?;
            Ok(Some(VolumeSource::Snapshot(handle)))
        }
        Some(SourceType::Volume(volume)) => {
            volume_handle(&volume.volume_id).map(VolumeSource::Volume).map(Some)
        }
    }
}

/// A path that is only held against those where a volume is known to be.
pub(super) fn known_path(text: &str, what: &str) -> Result<PathBuf, Status> {
    required(text, what).map(PathBuf::from)
}

/// A path that the kubelet names: nothing in it climbs.
pub(super) fn path(text: &str, what: &str) -> Result<PathBuf, Status> {
    let plain = text.starts_with('/')
        && text.len() <= MAX_PATH
        && !text.contains('\0')
        && !text.split('/').any(|part| part == "..");
    if !plain {
        return Err(Status::invalid_argument(format!("{what} {text:?} is no plain absolute path")));
    }
    Ok(PathBuf::from(text))
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
