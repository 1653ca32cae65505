//! NodePublishVolume: how many places of a node a volume has.

use crate::driver::Driver;
use crate::requests::{mode, publish_request, refused};
use crate::support;
use strata::rpc::csi::volume_capability::access_mode::Mode;
use tonic::Code;

/// K2: one pod alone with SINGLE_NODE_SINGLE_WRITER; any number of a node's pods with the other two modes.
#[tokio::test(flavor = "multi_thread")]
async fn the_access_mode_decides_how_many_pods_of_a_node_have_a_volume() {
    support::need_root();
    let driver = Driver::start();
    let (single, many) = (mode(Mode::SingleNodeSingleWriter), mode(Mode::SingleNodeMultiWriter));
    let (id, staging) = driver.staged("shared", many.clone()).await;
    let (first, second) = (driver.path("first"), driver.path("second"));
    let publish = |target: &std::path::Path, capability| {
        let (request, mut node) = (publish_request(&id, &staging, target, capability), driver.node());
        async move { node.node_publish_volume(request).await }
    };

    publish(&first, many.clone()).await.unwrap();
    publish(&second, mode(Mode::SingleNodeWriter)).await.unwrap();
    std::fs::write(first.join("file"), "seen by both").unwrap();
    assert_eq!(std::fs::read(second.join("file")).unwrap(), b"seen by both");
    let third = driver.path("third");
    refused(publish(&third, single.clone()).await, Code::FailedPrecondition, "first");
    driver.unpublish(&id, &first).await.unwrap();
    driver.unpublish(&id, &second).await.unwrap();
    assert!(!first.exists() && !second.exists(), "CSI: what was made for it is removed");

    publish(&first, single.clone()).await.unwrap();
    publish(&first, single.clone()).await.unwrap();
    refused(publish(&second, single).await, Code::FailedPrecondition, "first");
    refused(publish(&second, many.clone()).await, Code::FailedPrecondition, "first");
    assert!(!second.exists());
    driver.unpublish(&id, &first).await.unwrap();
    publish(&second, many).await.unwrap();
    driver.bring_down(&id, &staging, &second).await;
}
