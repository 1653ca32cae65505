//! Volumes that are only read, over CSI.

use crate::calls::{NODE, create_request, mount};
use crate::driver::Driver;
use crate::support;
use strata::rpc::csi::volume_capability::AccessMode;
use strata::rpc::csi::volume_capability::access_mode::Mode;
use strata::rpc::csi::*;
use tonic::{Code, Status};

const OTHER: &str = "other-node";

fn reader(mode: Mode) -> VolumeCapability {
    VolumeCapability { access_mode: Some(AccessMode { mode: mode.into() }), ..mount("ext4") }
}

async fn publish(
    driver: &Driver,
    volume_id: &str,
    node_id: &str,
    capability: VolumeCapability,
    readonly: bool,
) -> Result<(), Status> {
    let request = ControllerPublishVolumeRequest {
        volume_id: volume_id.to_owned(),
        node_id: node_id.to_owned(),
        volume_capability: Some(capability),
        readonly,
        ..Default::default()
    };
    driver.controller().controller_publish_volume(request).await.map(drop)
}

/// K2: a volume from a snapshot that was taken under a writer, read by many nodes, while its source goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_snapshot_is_read_by_many_nodes() {
    support::need_root();
    let driver = Driver::start();
    driver.add_node(OTHER);
    let many = reader(Mode::MultiNodeReaderOnly);
    let source = driver.create(create_request("pvc-source")).await.unwrap().volume_id;
    let (source_staging, source_target) = driver.bring_up(&source, "s", mount("ext4")).await;
    std::fs::write(source_target.join("file"), "then").unwrap();
    let snapshot = driver.snapshot(&source, "snap-1").await.unwrap().snapshot_id;
    std::fs::write(source_target.join("file"), "now").unwrap();

    let from = volume_content_source::SnapshotSource { snapshot_id: snapshot.clone() };
    let from = VolumeContentSource { r#type: Some(volume_content_source::Type::Snapshot(from)) };
    let only_readers = vec![many.clone(), reader(Mode::SingleNodeReaderOnly)];
    let request = CreateVolumeRequest { volume_capabilities: only_readers, ..create_request("pvc-read") };
    let empty = driver.create(request.clone()).await.unwrap_err();
    assert_eq!(empty.code(), Code::InvalidArgument, "{}", empty.message());
    let request = CreateVolumeRequest { volume_content_source: Some(from), ..request };
    let id = driver.create(request).await.unwrap().volume_id;
    let validation = ValidateVolumeCapabilitiesRequest {
        volume_id: id.clone(),
        volume_capabilities: vec![many.clone(), mount("ext4")],
        ..Default::default()
    };
    let validation = driver.controller().validate_volume_capabilities(validation).await.unwrap().into_inner();
    assert!(validation.confirmed.is_some(), "{}", validation.message);

    publish(&driver, &id, NODE, many.clone(), true).await.unwrap();
    publish(&driver, &id, NODE, many.clone(), false).await.unwrap();
    publish(&driver, &id, OTHER, many.clone(), true).await.unwrap();
    let (staging, target) = (driver.path("r-staging"), driver.path("r-target"));
    driver.stage(&id, &staging, many.clone()).await.unwrap();
    driver.stage(&id, &staging, many.clone()).await.unwrap();
    driver.publish(&id, &staging, &target, many.clone()).await.unwrap();
    driver.publish(&id, &staging, &target, many.clone()).await.unwrap();
    assert_eq!(std::fs::read_to_string(target.join("file")).unwrap(), "then");
    let refused = std::fs::write(target.join("file"), "x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));

    for (node, capability, readonly, code) in [
        (NODE, mount("ext4"), false, Code::FailedPrecondition),
        ("third-node", many.clone(), true, Code::NotFound),
        (OTHER, reader(Mode::SingleNodeReaderOnly), true, Code::FailedPrecondition),
    ] {
        let refused = publish(&driver, &id, node, capability, readonly).await.unwrap_err();
        assert_eq!(refused.code(), code, "{node}: {}", refused.message());
    }
    assert_eq!(driver.delete(&id).await.unwrap_err().code(), Code::FailedPrecondition);
    driver.unpublish_from(&id, OTHER).await.unwrap();
    let other_mode = publish(&driver, &id, NODE, mount("ext4"), false).await.unwrap_err();
    assert_eq!(other_mode.code(), Code::AlreadyExists, "{}", other_mode.message());
    driver.bring_down(&id, &staging, &target).await;

    // The mode of one writer, attached for reading: others may read beside it, if they are asked to.
    publish(&driver, &id, NODE, mount("ext4"), true).await.unwrap();
    publish(&driver, &id, OTHER, many.clone(), true).await.unwrap();
    driver.unpublish_from(&id, "").await.unwrap();
    driver.bring_down(&source, &source_staging, &source_target).await;
    driver.delete_snapshot(&snapshot).await.unwrap();
    driver.delete(&source).await.unwrap();
    driver.delete(&id).await.unwrap();
}
