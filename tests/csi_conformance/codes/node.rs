//! The kubelet's calls.

use super::{Rows, absent, id_of, lock, range};
use crate::calls::{GIB, NODE, block, create_request, mount};
use crate::driver::{Driver, script};
use crate::requests::{mode, publish_request};
use crate::support;
use std::path::Path;
use strata::rpc::csi::volume_capability::access_mode::Mode;
use strata::rpc::csi::*;
use tonic::Status;

pub const RPCS: &[&str] = &[
    "NodeStageVolume",
    "NodeUnstageVolume",
    "NodePublishVolume",
    "NodeUnpublishVolume",
    "NodeGetVolumeStats",
    "NodeExpandVolume",
];

/// Paths that could leave the folder they seem to be in.
const WRONG_PATHS: [&str; 3] = ["", "relative/path", "/a/../b"];

impl Driver {
    async fn stage_once(
        &self,
        id: &str,
        path: impl AsRef<Path>,
        capability: Option<VolumeCapability>,
    ) -> Result<(), Status> {
        let request = NodeStageVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: path.as_ref().display().to_string(),
            volume_capability: capability,
            ..Default::default()
        };
        self.node().node_stage_volume(request).await.map(drop)
    }

    async fn unstage_once(&self, id: &str, path: impl AsRef<Path>) -> Result<(), Status> {
        let staging_target_path = path.as_ref().display().to_string();
        let request = NodeUnstageVolumeRequest { volume_id: id.to_owned(), staging_target_path };
        self.node().node_unstage_volume(request).await.map(drop)
    }

    async fn publish_once(&self, request: NodePublishVolumeRequest) -> Result<(), Status> {
        self.node().node_publish_volume(request).await.map(drop)
    }

    async fn unpublish_once(&self, id: &str, path: impl AsRef<Path>) -> Result<(), Status> {
        let target_path = path.as_ref().display().to_string();
        let request = NodeUnpublishVolumeRequest { volume_id: id.to_owned(), target_path };
        self.node().node_unpublish_volume(request).await.map(drop)
    }

    async fn figures(&self, id: &str, path: impl AsRef<Path>) -> Result<NodeGetVolumeStatsResponse, Status> {
        let volume_path = path.as_ref().display().to_string();
        let request =
            NodeGetVolumeStatsRequest { volume_id: id.to_owned(), volume_path, ..Default::default() };
        Ok(self.node().node_get_volume_stats(request).await?.into_inner())
    }

    async fn grow_there(&self, id: &str, path: impl AsRef<Path>, bytes: i64) -> Result<(), Status> {
        let request = NodeExpandVolumeRequest {
            volume_id: id.to_owned(),
            volume_path: path.as_ref().display().to_string(),
            capacity_range: range(bytes, 0),
            ..Default::default()
        };
        self.node().node_expand_volume(request).await.map(drop)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubelets_calls_get_the_documented_codes() {
    support::need_root();
    let dir = support::scratch();
    std::fs::create_dir(dir.path().join("share")).unwrap();
    let share = format!("dir:{}", dir.path().join("share").display());
    let without = ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"];
    let driver = Driver::stopped(dir, share, &["--max-volumes", "1"]).launched_by(&without).started();
    let id = driver.create(create_request("v")).await.unwrap().volume_id;
    let mut rows = Rows::of(RPCS);
    contents(&driver, &mut rows).await;
    stage(&driver, &mut rows, &id).await;
    publish(&driver, &mut rows, &id).await;
    look_and_grow(&driver, &mut rows, &id).await;
    go(&driver, &mut rows, &id).await;
    drop(driver);
    unsound(&mut rows).await;
    rows.complete();
}

/// A volume that was used raw is not taken for one without data.
async fn contents(driver: &Driver, rows: &mut Rows) {
    let (it, words) = ("NodeStageVolume", "what it holds");
    let staging = driver.path("raw-staging");
    std::fs::create_dir_all(&staging).unwrap();
    let id = driver.create(create_request("raw")).await.unwrap().volume_id;
    let (_, device) = driver.bring_up(&id, "raw", block()).await;
    driver.unpublish(&id, &device).await.unwrap();
    driver.unstage(&id, &staging).await.unwrap();
    rows.hold(it, words, driver.stage_once(&id, &staging, Some(mount("ext4"))).await);
    driver.stage(&id, &staging, block()).await.unwrap();
    driver.publish(&id, &staging, &device, block()).await.unwrap();
    crate::support::domain::write_at(&device, 64 << 10, b"a database of some kind");
    driver.unpublish(&id, &device).await.unwrap();
    driver.unstage(&id, &staging).await.unwrap();
    rows.hold(it, words, driver.stage_once(&id, &staging, Some(mount("ext4"))).await);
    driver.unpublish_from(&id, NODE).await.unwrap();
    driver.delete(&id).await.unwrap();
}

/// Debian 12's own QEMU.
async fn unsound(rows: &mut Rows) {
    let dir = support::scratch();
    let (images, program) = (dir.path().join("share"), dir.path().join("qemu-storage-daemon"));
    std::fs::create_dir(&images).unwrap();
    script(&program, "#!/bin/sh\necho 'qemu-storage-daemon version 10.0.2 (Debian 1:10.0.2+ds-2)'\n");
    let source = format!("dir:{}", images.display());
    let mut driver = Driver::stopped(dir, source, &[]);
    driver.storage_daemon = program;
    let driver = driver.started();
    let id = driver.create(create_request("v")).await.unwrap().volume_id;
    driver.publish_to(&id, NODE).await.unwrap();
    let staging = driver.path("staging");
    let refused = driver.stage_once(&id, &staging, Some(mount("ext4"))).await;
    assert!(refused.as_ref().is_err_and(|status| status.message().contains("10.0.13")), "{refused:?}");
    rows.hold("NodeStageVolume", "not known to be sound", refused);
}

async fn stage(driver: &Driver, rows: &mut Rows, id: &str) {
    let it = "NodeStageVolume";
    let (staging, other) = (driver.path("staging"), driver.path("other"));
    std::fs::create_dir_all(&staging).unwrap();
    std::fs::create_dir_all(&other).unwrap();
    let ext4 = || Some(mount("ext4"));
    rows.hold(it, "no volume id", driver.stage_once("", &staging, ext4()).await);
    rows.hold(it, "no volume id", driver.stage_once(id, &staging, None).await);
    rows.hold(it, "no volume id", driver.stage_once(id, &staging, Some(mount("ntfs"))).await);
    for path in WRONG_PATHS {
        rows.hold(it, "no volume id", driver.stage_once(id, path, ext4()).await);
    }
    for handle in ["none", &absent(id)] {
        rows.hold(it, "no such volume", driver.stage_once(handle, &staging, ext4()).await);
    }
    rows.hold(it, "not published", driver.stage_once(id, &staging, ext4()).await);
    let reader = || Some(mode(Mode::MultiNodeReaderOnly));
    let reading = ControllerPublishVolumeRequest {
        volume_id: id.to_owned(),
        node_id: NODE.to_owned(),
        volume_capability: reader(),
        ..Default::default()
    };
    driver.controller().controller_publish_volume(reading).await.unwrap();
    rows.hold(it, "it is empty", driver.stage_once(id, &staging, reader()).await);
    driver.unpublish_from(id, NODE).await.unwrap();
    driver.publish_to(id, NODE).await.unwrap();
    let locked = lock(&driver.share_root(), id_of(id));
    rows.hold(it, "somebody works", driver.stage_once(id, &staging, ext4()).await);
    drop(locked);
    driver.stage(id, &staging, mount("ext4")).await.unwrap();
    rows.hold(it, "there already", driver.stage_once(id, &staging, ext4()).await);
    rows.hold(it, "at another path", driver.stage_once(id, &other, ext4()).await);
    rows.hold(it, "in another mode", driver.stage_once(id, &staging, Some(block())).await);
    rows.hold(it, "in another mode", driver.stage_once(id, &staging, Some(mount("xfs"))).await);
    let mut other_options = mount("ext4");
    if let Some(volume_capability::AccessType::Mount(mount)) = &mut other_options.access_type {
        mount.mount_flags = vec!["noatime".to_owned()];
    }
    rows.hold(it, "other mount options", driver.stage_once(id, &staging, Some(other_options)).await);
    let second = driver.create(create_request("second")).await.unwrap().volume_id;
    driver.publish_uncounted(&second, NODE).await.unwrap();
    rows.hold(it, "as many volumes", driver.stage_once(&second, &other, ext4()).await);
    driver.unstage(id, &staging).await.unwrap();
    rows.hold(it, "another filesystem", driver.stage_once(id, &staging, Some(mount("xfs"))).await);
    driver.stage(id, &staging, mount("ext4")).await.unwrap();
}

async fn publish(driver: &Driver, rows: &mut Rows, id: &str) {
    let it = "NodePublishVolume";
    let (staging, target, other) = (driver.path("staging"), driver.path("target"), driver.path("other"));
    let request = |id: &str| publish_request(id, &staging, &target, mount("ext4"));
    rows.hold(it, "no volume id", driver.publish_once(request("")).await);
    let no_capability = NodePublishVolumeRequest { volume_capability: None, ..request(id) };
    rows.hold(it, "no volume id", driver.publish_once(no_capability).await);
    let several = publish_request(id, &staging, &target, mode(Mode::MultiNodeMultiWriter));
    rows.hold(it, "no volume id", driver.publish_once(several).await);
    for path in WRONG_PATHS {
        rows.hold(
            it,
            "no volume id",
            driver.publish_once(publish_request(id, &staging, Path::new(path), mount("ext4"))).await,
        );
    }
    rows.hold(it, "no volume can have", driver.publish_once(request("none")).await);
    let unstaged = NodePublishVolumeRequest { staging_target_path: String::new(), ..request(id) };
    rows.hold(it, "no staging path", driver.publish_once(unstaged).await);
    rows.hold(it, "no staging path", driver.publish_once(request(&absent(id))).await);
    let elsewhere = publish_request(id, &other, &target, mount("ext4"));
    rows.hold(it, "no staging path", driver.publish_once(elsewhere).await);
    assert!(!target.exists(), "nothing was made for what was refused");

    driver.publish_once(request(id)).await.unwrap();
    rows.hold(it, "there already", driver.publish_once(request(id)).await);
    let readonly = NodePublishVolumeRequest { readonly: true, ..request(id) };
    rows.hold(it, "in another mode", driver.publish_once(readonly).await);
    let raw = publish_request(id, &staging, &other.join("raw"), block());
    rows.hold(it, "in another mode", driver.publish_once(raw).await);
    let alone = publish_request(id, &staging, &other.join("pod"), mode(Mode::SingleNodeSingleWriter));
    rows.hold(it, "one pod alone", driver.publish_once(alone).await);
}

async fn look_and_grow(driver: &Driver, rows: &mut Rows, id: &str) {
    let (staging, target) = (driver.path("staging"), driver.path("target"));
    for (handle, path) in [("", target.as_path()), (id, Path::new(""))] {
        rows.hold("NodeGetVolumeStats", "no volume id", driver.figures(handle, path).await);
        rows.hold("NodeExpandVolume", "no volume id", driver.grow_there(handle, path, GIB).await);
    }
    let nowhere = Path::new("some/path");
    for (handle, path) in [("none", nowhere), (id, nowhere), (id, Path::new("/etc")), (&absent(id), &target)]
    {
        rows.hold("NodeGetVolumeStats", "neither staged", driver.figures(handle, path).await);
        rows.hold("NodeExpandVolume", "neither staged", driver.grow_there(handle, path, GIB).await);
    }
    rows.hold("NodeExpandVolume", "already", driver.grow_there(id, &target, GIB).await);
    rows.hold("NodeExpandVolume", "its device is smaller", driver.grow_there(id, &target, 2 * GIB).await);
    driver.grow(id, range(2 * GIB, 0)).await.unwrap();
    rows.hold("NodeExpandVolume", "no CAP_SYS_RESOURCE", driver.grow_there(id, &target, 2 * GIB).await);
    support::run("mount", &["-o", "remount,ro", staging.to_str().unwrap()]);
    let stopped = driver.figures(id, &target).await;
    assert!(stopped.as_ref().unwrap().volume_condition.as_ref().unwrap().abnormal);
    rows.hold("NodeGetVolumeStats", "something is wrong", stopped);
    support::run("mount", &["-o", "remount,rw", staging.to_str().unwrap()]);
}

async fn go(driver: &Driver, rows: &mut Rows, id: &str) {
    let (staging, target) = (driver.path("staging"), driver.path("target"));
    for path in WRONG_PATHS {
        rows.hold("NodeUnpublishVolume", "no volume id", driver.unpublish_once(id, path).await);
        rows.hold("NodeUnstageVolume", "no volume id", driver.unstage_once(id, path).await);
    }
    rows.hold("NodeUnpublishVolume", "no volume id", driver.unpublish_once("", &target).await);
    rows.hold("NodeUnstageVolume", "no volume id", driver.unstage_once("", &staging).await);
    rows.hold("NodeUnstageVolume", "pods still", driver.unstage_once(id, &staging).await);
    for handle in ["none", &absent(id)] {
        rows.hold("NodeUnpublishVolume", "not published there", driver.unpublish_once(handle, &target).await);
        rows.hold("NodeUnstageVolume", "not staged", driver.unstage_once(handle, &staging).await);
    }
    rows.hold("NodeUnpublishVolume", "not published there", driver.unpublish_once(id, "/etc").await);
    driver.unpublish_once(id, &target).await.unwrap();
    assert!(!target.exists());
    rows.hold("NodeUnpublishVolume", "not published there", driver.unpublish_once(id, &target).await);
    driver.unstage_once(id, &staging).await.unwrap();
    rows.hold("NodeUnstageVolume", "not staged", driver.unstage_once(id, &staging).await);
    driver.unpublish_from(id, NODE).await.unwrap();
}
