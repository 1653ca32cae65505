//! Nodes are told apart, also when somebody gives two machines one name.

use crate::calls::{NODE, create_request, mount};
use crate::driver::Driver;
use crate::support;
use tonic::Code;

/// The second of two drivers by one name stages nothing, and says what to do; the first one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn two_drivers_by_one_name_are_noticed() {
    support::need_root();
    let mut first = Driver::start();
    let source = format!("dir:{}", first.share_root().display());
    let mut second = Driver::on(support::scratch(), source, &[]);
    let id = first.create(create_request("pvc-1")).await.unwrap().volume_id;
    first.publish_to(&id, NODE).await.unwrap();
    let refused = second.stage(&id, &second.path("s"), mount("ext4")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("--node-id"), "{refused:?}");
    let (staging, target) = first.bring_up(&id, "v", mount("ext4")).await;
    first.bring_down(&id, &staging, &target).await;

    let record = first.share_root().join("nodes").join(format!("{NODE}.json"));
    let before = std::fs::read(&record).unwrap();
    second.stop();
    second.teardown();
    assert_eq!(std::fs::read(&record).unwrap(), before, "it is the first one's");
    first.stop();
    first.teardown();
    assert!(!record.exists());
}
