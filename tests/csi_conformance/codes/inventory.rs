//! What there is: volumes, snapshots, room.

use super::{Rows, absent, backups, hold_image, id_of, lock, open_where_attached};
use crate::calls::{create_request, mount};
use crate::driver::Driver;
use crate::requests::mode;
use crate::support;
use strata::rpc::csi::volume_capability::access_mode::Mode;
use strata::rpc::csi::*;
use tonic::{Code, Status};

pub const RPCS: &[&str] = &[
    "ListVolumes",
    "ControllerGetVolume",
    "GetCapacity",
    "CreateSnapshot",
    "DeleteSnapshot",
    "ListSnapshots",
    "GetSnapshot",
];

impl Driver {
    async fn volumes(&self, max: i32, token: &str) -> Result<ListVolumesResponse, Status> {
        let request = ListVolumesRequest { max_entries: max, starting_token: token.to_owned() };
        Ok(self.controller().list_volumes(request).await?.into_inner())
    }

    async fn look_at(&self, id: &str) -> Result<ControllerGetVolumeResponse, Status> {
        let request = ControllerGetVolumeRequest { volume_id: id.to_owned() };
        Ok(self.controller().controller_get_volume(request).await?.into_inner())
    }

    pub async fn cut(&self, id: &str, name: &str, parameter: &str) -> Result<Snapshot, Status> {
        let parameters = [parameter].into_iter().filter(|key| !key.is_empty());
        let request = CreateSnapshotRequest {
            source_volume_id: id.to_owned(),
            name: name.to_owned(),
            parameters: parameters.map(|key| (key.to_owned(), "x".to_owned())).collect(),
            ..Default::default()
        };
        Ok(self.controller().create_snapshot(request).await?.into_inner().snapshot.unwrap())
    }

    async fn drop_snapshot(&self, id: &str) -> Result<(), Status> {
        let request = DeleteSnapshotRequest { snapshot_id: id.to_owned(), ..Default::default() };
        self.controller().delete_snapshot(request).await.map(drop)
    }

    pub async fn find_snapshot(&self, id: &str) -> Result<GetSnapshotResponse, Status> {
        let request = GetSnapshotRequest { snapshot_id: id.to_owned(), ..Default::default() };
        Ok(self.controller().get_snapshot(request).await?.into_inner())
    }

    async fn room(&self, request: GetCapacityRequest) -> Result<GetCapacityResponse, Status> {
        Ok(self.controller().get_capacity(request).await?.into_inner())
    }
}

pub fn listing(max: i32, token: &str, volume: &str, snapshot: &str) -> ListSnapshotsRequest {
    ListSnapshotsRequest {
        max_entries: max,
        starting_token: token.to_owned(),
        source_volume_id: volume.to_owned(),
        snapshot_id: snapshot.to_owned(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_and_snapshots_get_the_documented_codes() {
    support::need_root();
    let dir = support::scratch();
    let (here, away) = (dir.path().join("share"), dir.path().join("away"));
    std::fs::create_dir(&here).unwrap();
    let missing = format!("dir:{}", away.display());
    let repositories = backups::prepare(dir.path());
    let arguments =
        ["--share", &missing, "--repositories", &repositories, "--soft-depth", "3", "--hard-depth", "3"];
    let driver = Driver::on(dir, format!("dir:{}", here.display()), &arguments);
    let mut rows = Rows::of(RPCS);
    rows.hold("ListVolumes", "share is away", driver.volumes(0, "").await);
    rows.hold("ListSnapshots", "share is away", driver.list_snapshots(listing(0, "", "", "")).await);
    std::fs::create_dir(&away).unwrap();
    let back = || async { driver.volumes(0, "").await };
    crate::calls::patiently(back).await.unwrap();

    rows.hold("ListVolumes", "negative", driver.volumes(-1, "").await);
    rows.hold("ListVolumes", "starting_token", driver.volumes(0, "invalid-token").await);
    rows.hold("ListSnapshots", "negative", driver.list_snapshots(listing(-1, "", "", "")).await);
    rows.hold("ListSnapshots", "starting_token", driver.list_snapshots(listing(0, "invalid", "", "")).await);
    let parameters = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    for (key, value) in [("colour", "red"), ("preallocation", "full"), ("share", "no:/where")] {
        let request = GetCapacityRequest { parameters: parameters(key, value), ..Default::default() };
        rows.hold("GetCapacity", "unknown", driver.room(request).await);
    }
    let several = vec![mode(Mode::MultiNodeMultiWriter)];
    let none = driver.room(GetCapacityRequest { volume_capabilities: several, ..Default::default() }).await;
    assert_eq!(none.as_ref().unwrap().available_capacity, 0);
    rows.hold("GetCapacity", "not offered", none);

    snapshots(&driver, &mut rows).await;
    cuts_that_cannot_be(&driver, &mut rows).await;
    backups::look(&driver, &mut rows).await;
    look(&driver, &mut rows).await;
    rows.complete();
}

async fn snapshots(driver: &Driver, rows: &mut Rows) {
    let it = "CreateSnapshot";
    let parameters = [("share".to_owned(), format!("dir:{}", driver.share_root().display()))].into();
    let request = CreateVolumeRequest { parameters, ..create_request("v") };
    let id = driver.create(request).await.unwrap().volume_id;
    let other = driver.create_from_volume("other", &id).await;
    rows.hold(it, "no name", driver.cut(&id, "", "").await);
    rows.hold(it, "no name", driver.cut("", "s", "").await);
    rows.hold(it, "no name", driver.cut(&id, "s", "colour").await);
    for handle in ["none", &absent(&id)] {
        rows.hold(it, "no such volume", driver.cut(handle, "s", "").await);
    }
    let locked = lock(&driver.share_root(), id_of(&id));
    rows.hold(it, "somebody works", driver.cut(&id, "s", "").await);
    drop(locked);
    let snapshot = driver.cut(&id, "s", "strata.dev/repository").await.unwrap();
    rows.hold(it, "already", driver.cut(&id, "s", "").await);
    rows.hold(it, "of another volume", driver.cut(&other, "s", "").await);

    for handle in ["none", &snapshot.source_volume_id] {
        let empty = driver.list_snapshots(listing(0, "", "", handle)).await;
        assert!(empty.as_ref().unwrap().entries.is_empty());
        rows.hold("ListSnapshots", "empty list", empty);
    }
    let empty = driver.list_snapshots(listing(0, "", &absent(&id), "")).await.unwrap();
    assert!(empty.entries.is_empty());
    rows.hold("GetSnapshot", "no snapshot id", driver.find_snapshot("").await);
    let gone = format!("{id}/00000000-0000-4000-8000-000000000000");
    for handle in ["none", "s3://r/v/b", &id, &gone] {
        rows.hold("GetSnapshot", "no such snapshot", driver.find_snapshot(handle).await);
        rows.hold("DeleteSnapshot", "no such snapshot", driver.drop_snapshot(handle).await);
    }
    driver.find_snapshot(&snapshot.snapshot_id).await.expect("none of these deleted it");
    rows.hold("DeleteSnapshot", "no snapshot id", driver.drop_snapshot("").await);
    driver.drop_snapshot(&snapshot.snapshot_id).await.unwrap();
    rows.hold("DeleteSnapshot", "no such snapshot", driver.drop_snapshot(&snapshot.snapshot_id).await);
}

async fn cuts_that_cannot_be(driver: &Driver, rows: &mut Rows) {
    let it = "CreateSnapshot";
    let share = driver.share_root();
    let request = |name: &str| {
        let parameters = [("share".to_owned(), format!("dir:{}", share.display()))].into();
        CreateVolumeRequest { parameters, ..create_request(name) }
    };
    let id = driver.create(request("cut")).await.unwrap().volume_id;
    backups::cut(driver, rows, &id).await;
    let image = hold_image(&share, id_of(&id));
    rows.hold(it, "has its image open", driver.cut(&id, "c1", "").await);
    driver.register_away("away-node");
    driver.attach(&id, "away-node", Some(mount("ext4"))).await.expect_err("a cut was broken off");
    drop(image);
    driver.attach(&id, "away-node", Some(mount("ext4"))).await.unwrap();
    open_where_attached(&share, id_of(&id));
    let image = hold_image(&share, id_of(&id));
    let away = driver.cut(&id, "c1", "").await;
    assert!(away.as_ref().is_err_and(|status| status.message().contains("away-node")), "{away:?}");
    rows.hold(it, "cannot be asked", away);
    drop(image);
    driver.detach(&id, "away-node").await.unwrap();
    driver.delete(&id).await.unwrap();

    let id = driver.create(request("deep")).await.unwrap().volume_id;
    let kept = [driver.snapshot(&id, "d1").await.unwrap(), driver.snapshot(&id, "d2").await.unwrap()];
    rows.hold(it, "more layers", driver.cut(&id, "d3", "").await);
    for snapshot in kept {
        driver.drop_snapshot(&snapshot.snapshot_id).await.unwrap();
    }
    driver.delete(&id).await.unwrap();
}

async fn look(driver: &Driver, rows: &mut Rows) {
    let it = "ControllerGetVolume";
    let listed = driver.volumes(0, "").await.unwrap();
    let id = listed.entries[0].volume.as_ref().unwrap().volume_id.clone();
    rows.hold(it, "no volume id", driver.look_at("").await);
    for handle in ["none", &absent(&id)] {
        rows.hold(it, "no such volume", driver.look_at(handle).await);
    }
    let record = driver.share_root().join("volumes").join(id_of(&id).to_string()).join("volume.json");
    let text = std::fs::read(&record).unwrap();
    std::fs::write(&record, &text[1..]).unwrap();
    let damaged = driver.look_at(&id).await;
    assert!(damaged.as_ref().unwrap().status.as_ref().unwrap().volume_condition.as_ref().unwrap().abnormal);
    rows.hold(it, "damaged", damaged);
    let cut = driver.cut(&id, "t", "").await;
    assert_eq!(cut.unwrap_err().code(), Code::FailedPrecondition, "nothing is changed");
    std::fs::write(&record, &text).unwrap();
}

impl Driver {
    async fn create_from_volume(&self, name: &str, source: &str) -> String {
        let source = volume_content_source::VolumeSource { volume_id: source.to_owned() };
        let source = volume_content_source::Type::Volume(source);
        let volume_content_source = Some(VolumeContentSource { r#type: Some(source) });
        self.create(CreateVolumeRequest { volume_content_source, ..create_request(name) })
            .await
            .unwrap()
            .volume_id
    }
}
