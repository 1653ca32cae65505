use super::*;
use crate::rpc::csi::volume_content_source::{self, SnapshotSource};
use rstest::rstest;
use tonic::Code;

fn range(required: i64, limit: i64) -> CapacityRange {
    CapacityRange { required_bytes: required, limit_bytes: limit }
}

/// The gRPC edge rounds capacities up to whole GiB.
#[rstest]
#[case(0, 0, None)]
#[case(1, 0, Some(1 << 30))]
#[case(1 << 30, 1 << 30, Some(1 << 30))]
#[case((1 << 30) + 1, 3 << 30, Some(2 << 30))]
fn capacities_are_whole_gibibytes(#[case] required: i64, #[case] limit: i64, #[case] expected: Option<u64>) {
    assert_eq!(capacity(Some(&range(required, limit))).unwrap().0, expected);
}

#[rstest]
#[case(1, 1000, Code::OutOfRange)]
#[case((1 << 30) + 1, (2 << 30) - 1, Code::OutOfRange)]
#[case(0, 1000, Code::OutOfRange)]
#[case(i64::MAX, 0, Code::OutOfRange)]
#[case(2 << 30, 1 << 30, Code::InvalidArgument)]
#[case(-1, 0, Code::InvalidArgument)]
#[case(0, -1, Code::InvalidArgument)]
fn a_capacity_that_cannot_be_had_is_refused(#[case] required: i64, #[case] limit: i64, #[case] code: Code) {
    assert_eq!(capacity(Some(&range(required, limit))).unwrap_err().code(), code);
}

#[test]
fn names_are_bounded() {
    assert_eq!(name("").unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(name(&"x".repeat(129)).unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(name("a\0b").unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(name("../../etc").unwrap(), "../../etc");
}

/// Invariant 6: a handle that tries to leave its folder is a volume that does not exist.
#[test]
fn a_malformed_handle_is_not_found() {
    assert_eq!(volume_handle("").unwrap_err().code(), Code::InvalidArgument);
    for text in ["x", "../../etc/passwd", "share/..", "share/00000000-0000-0000-0000-000000000000/.."] {
        assert_eq!(volume_handle(text).unwrap_err().code(), Code::NotFound);
    }
}

#[test]
fn a_source_is_a_snapshot_or_a_volume() {
    let of = |kind| content_source(Some(&VolumeContentSource { r#type: kind }));
    assert_eq!(of(None).unwrap_err().code(), Code::InvalidArgument);
    let volume = volume_content_source::VolumeSource { volume_id: "v".to_owned() };
    assert_eq!(of(Some(SourceType::Volume(volume))).unwrap_err().code(), Code::NotFound);
    let snapshot = SnapshotSource { snapshot_id: "../x".to_owned() };
    assert_eq!(of(Some(SourceType::Snapshot(snapshot))).unwrap_err().code(), Code::NotFound);
    assert_eq!(content_source(None).unwrap(), None);
}

/// Invariant 6: a path that climbs is refused before it reaches anything.
#[test]
fn only_plain_absolute_paths_are_taken() {
    assert_eq!(path("/var/lib/kubelet/x", "p").unwrap(), PathBuf::from("/var/lib/kubelet/x"));
    let long = format!("/{}", "x".repeat(MAX_PATH));
    for text in ["", "relative", "/a/../b", "/a/\0b", &long] {
        assert_eq!(path(text, "p").unwrap_err().code(), tonic::Code::InvalidArgument);
    }
}
