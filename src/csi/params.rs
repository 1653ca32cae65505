//! Parameters of a StorageClass and of a VolumeSnapshotClass.

use crate::volume::VolumeKind;
use serde::Deserialize;
use serde::de::value::{Error as ParseError, MapDeserializer};
use std::collections::HashMap;
use tonic::Status;

/// The sidecars add claim and class names under this prefix.
const SIDECARS: &str = "csi.storage.k8s.io/";
/// Which repository a snapshot is backed up to: read by the backup role, known here.
const REPOSITORY: &str = "strata.dev/repository";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ImageFormat {
    #[default]
    Qcow2,
    Raw,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Preallocation {
    #[default]
    Off,
    Full,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Class {
    #[serde(default)]
    format: ImageFormat,
    #[serde(default)]
    preallocation: Preallocation,
    /// No Option: these values come as plain strings, which serde does not take for one.
    #[serde(default)]
    share: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SnapshotClass {}

/// What a StorageClass asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VolumeParameters {
    /// The base image's layout.
    pub(super) kind: VolumeKind,
    /// A share's source or key; else the roomiest is taken.
    pub(super) share: Option<String>,
}

fn parse<'de, T: Deserialize<'de>>(parameters: &HashMap<String, String>, what: &str) -> Result<T, Status> {
    let ours = parameters
        .iter()
        .filter(|(key, _)| !key.starts_with(SIDECARS) && key.as_str() != REPOSITORY)
        .map(|(key, value)| (key.clone(), value.clone()));
    T::deserialize(MapDeserializer::<_, ParseError>::new(ours))
        .map_err(|error| Status::invalid_argument(format!("parameters of the {what}: {error}")))
}

/// Reads a StorageClass's parameters; an unknown key is refused, for it would be a wish that is not heard.
pub(super) fn volume(parameters: &HashMap<String, String>) -> Result<VolumeParameters, Status> {
    let class: Class = parse(parameters, "StorageClass")?;
    let kind = match (class.format, class.preallocation) {
        (ImageFormat::Qcow2, Preallocation::Off) => VolumeKind::Qcow2,
        (ImageFormat::Raw, Preallocation::Off) => VolumeKind::RawSparse,
        (ImageFormat::Raw, Preallocation::Full) => VolumeKind::RawFull,
        (ImageFormat::Qcow2, Preallocation::Full) => {
            return Err(Status::invalid_argument(
                "parameters of the StorageClass: preallocation=full needs format=raw",
            ));
        }
    };
    Ok(VolumeParameters { kind, share: Some(class.share).filter(|share| !share.is_empty()) })
}

/// Reads a VolumeSnapshotClass's parameters: none but those of the sidecars and the backup role.
pub(super) fn snapshot(parameters: &HashMap<String, String>) -> Result<(), Status> {
    parse::<SnapshotClass>(parameters, "VolumeSnapshotClass").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use tonic::Code;

    fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// G5: qcow2 by default, sparse raw, fully allocated raw.
    #[rstest]
    #[case(&[], VolumeKind::Qcow2)]
    #[case(&[("format", "qcow2"), ("preallocation", "off")], VolumeKind::Qcow2)]
    #[case(&[("format", "raw")], VolumeKind::RawSparse)]
    #[case(&[("format", "raw"), ("preallocation", "full")], VolumeKind::RawFull)]
    #[case(&[("csi.storage.k8s.io/pvc/name", "x"), ("strata.dev/repository", "r")], VolumeKind::Qcow2)]
    fn the_layout_follows_the_class(#[case] pairs: &[(&str, &str)], #[case] kind: VolumeKind) {
        assert_eq!(volume(&map(pairs)).unwrap().kind, kind);
    }

    #[test]
    fn a_class_may_name_its_share() {
        let share = |pairs| volume(&map(pairs)).unwrap().share;
        assert_eq!(share(&[("share", "a:/v")]).as_deref(), Some("a:/v"));
        assert_eq!(share(&[]), None);
    }

    #[rstest]
    #[case(&[("formt", "raw")], "formt")]
    #[case(&[("format", "vmdk")], "vmdk")]
    #[case(&[("format", "RAW")], "RAW")]
    #[case(&[("preallocation", "full")], "needs format=raw")]
    #[case(&[("strata.dev/other", "x")], "strata.dev/other")]
    fn what_is_not_understood_is_refused(#[case] pairs: &[(&str, &str)], #[case] named: &str) {
        let status = volume(&map(pairs)).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(named), "{}", status.message());
    }

    #[test]
    fn a_snapshot_class_knows_only_the_repository() {
        snapshot(&map(&[("strata.dev/repository", "r"), ("csi.storage.k8s.io/volumesnapshot/name", "s")]))
            .unwrap();
        assert_eq!(snapshot(&map(&[("format", "raw")])).unwrap_err().code(), Code::InvalidArgument);
    }
}
