//! ControllerPublishVolume and its opposite.

use super::{Rows, absent, backups, hold_image, id_of, lock};
use crate::calls::{NODE, create_request, mount};
use crate::driver::Driver;
use crate::requests::mode;
use crate::support;
use strata::rpc::csi::volume_capability::access_mode::Mode;
use strata::rpc::csi::*;
use tonic::Status;

pub const RPCS: &[&str] = &["ControllerPublishVolume", "ControllerUnpublishVolume"];

impl Driver {
    pub async fn attach(
        &self,
        id: &str,
        node: &str,
        capability: Option<VolumeCapability>,
    ) -> Result<(), Status> {
        let request = ControllerPublishVolumeRequest {
            volume_id: id.to_owned(),
            node_id: node.to_owned(),
            volume_capability: capability,
            ..Default::default()
        };
        self.controller().controller_publish_volume(request).await.map(drop)
    }

    pub async fn detach(&self, id: &str, node: &str) -> Result<(), Status> {
        let request = ControllerUnpublishVolumeRequest {
            volume_id: id.to_owned(),
            node_id: node.to_owned(),
            ..Default::default()
        };
        self.controller().controller_unpublish_volume(request).await.map(drop)
    }

    /// Another node of this share, which runs nowhere and takes so many volumes.
    fn register(&self, node: &str, max_volumes: u64) {
        self.register_with(node, "max_volumes", max_volumes.into());
    }

    /// A node whose agent is nowhere.
    pub fn register_away(&self, node: &str) {
        let nowhere = self.path("nowhere").join("agent.sock");
        self.register_with(node, "agent", format!("unix://{}", nowhere.display()).into());
    }

    fn register_with(&self, node: &str, field: &str, value: serde_json::Value) {
        let nodes = self.share_root().join("nodes");
        let here = std::fs::read_to_string(nodes.join(format!("{NODE}.json"))).unwrap();
        let mut record: serde_json::Value = serde_json::from_str(&here.replace(NODE, node)).unwrap();
        record[field] = value;
        std::fs::write(nodes.join(format!("{node}.json")), record.to_string()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attaching_gets_the_documented_codes() {
    support::need_root();
    let dir = support::scratch();
    let images = dir.path().join("share");
    std::fs::create_dir(&images).unwrap();
    let repositories = backups::prepare(dir.path());
    let arguments = ["--repositories", &repositories];
    let driver = Driver::on(dir, format!("dir:{}", images.display()), &arguments);
    let mut rows = Rows::of(RPCS);
    let it = "ControllerPublishVolume";
    backups::attach(&driver, &mut rows).await;
    let id = driver.create(create_request("v")).await.unwrap().volume_id;
    let writer = || Some(mount("ext4"));
    rows.hold(it, "no volume id", driver.attach("", NODE, writer()).await);
    rows.hold(it, "no volume id", driver.attach(&id, "", writer()).await);
    rows.hold(it, "no volume id", driver.attach(&id, NODE, None).await);
    rows.hold(it, "no volume id", driver.attach(&id, NODE, Some(mode(Mode::MultiNodeMultiWriter))).await);
    for handle in ["none", "../x", &absent(&id)] {
        rows.hold(it, "no such volume", driver.attach(handle, NODE, writer()).await);
    }
    for node in ["other-node", "../x"] {
        rows.hold(it, "no such node", driver.attach(&id, node, writer()).await);
    }
    let locked = lock(&driver.share_root(), id_of(&id));
    rows.hold(it, "somebody works", driver.attach(&id, NODE, writer()).await);
    rows.hold("ControllerUnpublishVolume", "somebody works", driver.detach(&id, NODE).await);
    drop(locked);
    driver.attach(&id, NODE, writer()).await.unwrap();
    rows.hold(it, "already", driver.attach(&id, NODE, writer()).await);
    driver.register("other-node", 8);
    let second = driver.attach(&id, "other-node", writer()).await;
    assert!(second.as_ref().is_err_and(|status| status.message().contains(NODE)), "{second:?}");
    rows.hold(it, "another node has it", second);

    let it = "ControllerUnpublishVolume";
    rows.hold(it, "no volume id", driver.detach("", NODE).await);
    for (handle, node) in [(id.as_str(), "other-node"), (&id, "../x"), ("none", NODE), (&absent(&id), NODE)] {
        rows.hold(it, "not attached there", driver.detach(handle, node).await);
    }
    driver.attach(&id, NODE, writer()).await.expect("it is still attached there");
    driver.detach(&id, NODE).await.unwrap();
    rows.hold(it, "not attached there", driver.detach(&id, NODE).await);
    driver.attach(&id, "other-node", writer()).await.expect("and can go to another node");
    driver.detach(&id, "").await.unwrap();
    driver.register_away("away-node");
    driver.attach(&id, "away-node", writer()).await.unwrap();
    let image = hold_image(&driver.share_root(), id_of(&id));
    for node in ["away-node", ""] {
        let open = driver.detach(&id, node).await;
        assert!(open.as_ref().is_err_and(|status| status.message().contains("away-node")), "{open:?}");
        rows.hold(it, "cannot be asked", open);
    }
    drop(image);
    driver.detach(&id, "away-node").await.expect("nobody has it open any more");

    let it = "ControllerPublishVolume";
    let reader = || Some(mode(Mode::MultiNodeReaderOnly));
    driver.attach(&id, NODE, reader()).await.unwrap();
    rows.hold(it, "for the other purpose", driver.attach(&id, NODE, writer()).await);
    for capability in [writer(), Some(mode(Mode::SingleNodeReaderOnly))] {
        let beside = driver.attach(&id, "other-node", capability).await;
        assert!(beside.as_ref().is_err_and(|status| status.message().contains(NODE)), "{beside:?}");
        rows.hold(it, "and others read it", beside);
    }
    driver.attach(&id, "other-node", reader()).await.expect("many may read it");
    driver.detach(&id, "").await.unwrap();

    driver.register("small-node", 1);
    let second = driver.create(create_request("second")).await.unwrap().volume_id;
    driver.attach(&id, "small-node", writer()).await.unwrap();
    driver.attach(&id, "small-node", writer()).await.expect("it is counted once");
    let full = driver.attach(&second, "small-node", writer()).await;
    assert!(full.as_ref().is_err_and(|status| status.message().contains("--max-volumes")), "{full:?}");
    rows.hold(it, "as many volumes", full);
    driver.attach(&second, "other-node", writer()).await.expect("another node has the room");
    driver.detach(&second, "").await.unwrap();
    driver.detach(&id, "").await.unwrap();
    driver.attach(&second, "small-node", writer()).await.expect("its place is free");
    driver.detach(&second, "").await.unwrap();
    rows.complete();
}
