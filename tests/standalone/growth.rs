//! Growth over CSI, as the resizer sidecar and the kubelet ask for it.

use crate::calls::{GIB, block, create_request, mount};
use crate::driver::Driver;
use crate::support;
use std::path::Path;
use strata::rpc::csi::*;
use tonic::{Code, Status};

fn range(required_bytes: i64, limit_bytes: i64) -> Option<CapacityRange> {
    Some(CapacityRange { required_bytes, limit_bytes })
}

async fn expand(
    driver: &Driver,
    volume_id: &str,
    capacity_range: Option<CapacityRange>,
    capability: Option<VolumeCapability>,
) -> Result<ControllerExpandVolumeResponse, Status> {
    let request = ControllerExpandVolumeRequest {
        volume_id: volume_id.to_owned(),
        capacity_range,
        volume_capability: capability,
        ..Default::default()
    };
    Ok(driver.controller().controller_expand_volume(request).await?.into_inner())
}

async fn node_expand(driver: &Driver, volume_id: &str, path: &Path, bytes: i64) -> Result<i64, Status> {
    let request = NodeExpandVolumeRequest {
        volume_id: volume_id.to_owned(),
        volume_path: path.to_str().unwrap().to_owned(),
        capacity_range: range(bytes, 0),
        ..Default::default()
    };
    Ok(driver.node().node_expand_volume(request).await?.into_inner().capacity_bytes)
}

fn filesystem_size(mounted: &Path) -> i64 {
    let stat = rustix::fs::statvfs(mounted).unwrap();
    (stat.f_blocks * stat.f_frsize) as i64
}

/// G11: a mounted XFS follows its volume, and a call that is repeated, or asks for less, gets the same answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_volume_grows() {
    support::need_root();
    let driver = Driver::start();
    let request = CreateVolumeRequest { volume_capabilities: vec![mount("xfs")], ..create_request("pvc-1") };
    let id = driver.create(request).await.unwrap().volume_id;
    let (staging, target) = driver.bring_up(&id, "v", mount("xfs")).await;
    std::fs::write(target.join("kept"), "before").unwrap();
    let before = filesystem_size(&target);
    for wish in [range(2 * GIB + 1, 0), range(3 * GIB, 3 * GIB), range(GIB, 0)] {
        let answer = expand(&driver, &id, wish, Some(mount("xfs"))).await.unwrap();
        assert_eq!((answer.capacity_bytes, answer.node_expansion_required), (3 * GIB, true));
    }
    for path in [&target, &staging, &target] {
        assert_eq!(node_expand(&driver, &id, path, 3 * GIB).await.unwrap(), 3 * GIB);
    }
    let grown = filesystem_size(&target);
    assert!(grown > before + 2 * GIB - GIB / 8, "{before} to {grown}");
    assert_eq!(std::fs::read_to_string(target.join("kept")).unwrap(), "before");
    driver.bring_down(&id, &staging, &target).await;
    driver.delete(&id).await.unwrap();
}

/// Invariant 6, and G11: smaller is OUT_OF_RANGE.
#[tokio::test(flavor = "multi_thread")]
async fn a_growth_that_cannot_be_gets_its_code() {
    support::need_root();
    let driver = Driver::start();
    let id = driver.create(create_request("pvc-1")).await.unwrap().volume_id;
    let detached = expand(&driver, &id, range(2 * GIB, 0), Some(block())).await.unwrap();
    assert!(!detached.node_expansion_required, "a raw device is opened with its new size");
    let absent = format!("{}/00000000-0000-4000-8000-000000000000", id.split('/').next().unwrap());
    let cases = [
        (id.as_str(), range(GIB, GIB), Code::OutOfRange),
        (id.as_str(), range(3 * GIB, 3 * GIB - 1), Code::InvalidArgument),
        (id.as_str(), range(2 * GIB + 1, 3 * GIB - 1), Code::OutOfRange),
        (id.as_str(), range(i64::MAX, 0), Code::OutOfRange),
        (id.as_str(), range(-1, 0), Code::InvalidArgument),
        (id.as_str(), None, Code::InvalidArgument),
        ("", range(GIB, 0), Code::InvalidArgument),
        (absent.as_str(), range(GIB, 0), Code::NotFound),
        ("../../etc", range(GIB, 0), Code::NotFound),
    ];
    for (volume, wish, code) in cases {
        let refused = expand(&driver, volume, wish, None).await.unwrap_err();
        assert_eq!(refused.code(), code, "{volume:?} {wish:?}: {}", refused.message());
    }
    let staging = driver.path("s");
    for (volume, path, code) in [
        ("", staging.as_path(), Code::InvalidArgument),
        (id.as_str(), Path::new(""), Code::InvalidArgument),
        (id.as_str(), staging.as_path(), Code::NotFound),
        (absent.as_str(), staging.as_path(), Code::NotFound),
    ] {
        let refused = node_expand(&driver, volume, path, GIB).await.unwrap_err();
        assert_eq!(refused.code(), code, "{volume:?} {path:?}: {}", refused.message());
    }
    driver.delete(&id).await.unwrap();
}
