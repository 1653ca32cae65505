//! CreateVolume and what else is done to a volume as a whole.

use super::{Rows, absent, backups, hold_image, id_of, lock, open_where_attached, range};
use crate::calls::{GIB, NODE, block, create_request, mount};
use crate::driver::Driver;
use crate::requests::mode;
use crate::support;
use strata::rpc::csi::volume_capability::access_mode::Mode;
use strata::rpc::csi::volume_content_source::{SnapshotSource, Type, VolumeSource};
use strata::rpc::csi::*;
use strata::volume::VolumeId;
use tonic::Status;

pub const RPCS: &[&str] = &[
    "CreateVolume",
    "DeleteVolume",
    "ValidateVolumeCapabilities",
    "ControllerExpandVolume",
    "ControllerModifyVolume",
];

impl Driver {
    /// Once: the helpers ask again when they are told to.
    pub async fn create_once(&self, request: CreateVolumeRequest) -> Result<Volume, Status> {
        Ok(self.controller().create_volume(request).await?.into_inner().volume.unwrap())
    }

    async fn delete_once(&self, id: &str) -> Result<(), Status> {
        let request = DeleteVolumeRequest { volume_id: id.to_owned(), ..Default::default() };
        self.controller().delete_volume(request).await.map(drop)
    }

    pub async fn grow(&self, id: &str, range: Option<CapacityRange>) -> Result<i64, Status> {
        let request = ControllerExpandVolumeRequest {
            volume_id: id.to_owned(),
            capacity_range: range,
            ..Default::default()
        };
        Ok(self.controller().controller_expand_volume(request).await?.into_inner().capacity_bytes)
    }

    async fn validate(
        &self,
        id: &str,
        capabilities: Vec<VolumeCapability>,
    ) -> Result<ValidateVolumeCapabilitiesResponse, Status> {
        let request = ValidateVolumeCapabilitiesRequest {
            volume_id: id.to_owned(),
            volume_capabilities: capabilities,
            ..Default::default()
        };
        Ok(self.controller().validate_volume_capabilities(request).await?.into_inner())
    }
}

fn class(name: &str, pairs: &[(&str, &str)]) -> CreateVolumeRequest {
    let parameters = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    CreateVolumeRequest { parameters, ..create_request(name) }
}

fn sized(name: &str, required: i64, limit: i64) -> CreateVolumeRequest {
    CreateVolumeRequest { capacity_range: range(required, limit), ..create_request(name) }
}

fn with(name: &str, capabilities: Vec<VolumeCapability>) -> CreateVolumeRequest {
    CreateVolumeRequest { volume_capabilities: capabilities, ..create_request(name) }
}

pub fn from(name: &str, source: Type) -> CreateVolumeRequest {
    let volume_content_source = Some(VolumeContentSource { r#type: Some(source) });
    CreateVolumeRequest { volume_content_source, ..create_request(name) }
}

pub fn snapshot(id: &str) -> Type {
    Type::Snapshot(SnapshotSource { snapshot_id: id.to_owned() })
}

fn volume(id: &str) -> Type {
    Type::Volume(VolumeSource { volume_id: id.to_owned() })
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_get_the_documented_codes() {
    support::need_root();
    let dir = support::scratch();
    let (here, away) = (dir.path().join("share"), dir.path().join("away"));
    std::fs::create_dir(&here).unwrap();
    let away = format!("dir:{}", away.display());
    let repositories = backups::prepare(dir.path());
    let arguments =
        ["--share", &away, "--oversubscription", "1", "--reserve", "1", "--repositories", &repositories];
    let driver = Driver::on(dir, format!("dir:{}", here.display()), &arguments);
    let mut rows = Rows::of(RPCS);
    create(&driver, &mut rows, &away).await;
    delete(&driver, &mut rows).await;
    grow_and_validate(&driver, &mut rows).await;
    backups::create(&driver, &mut rows).await;
    rows.complete();
}

async fn create(driver: &Driver, rows: &mut Rows, away: &str) {
    let it = "CreateVolume";
    rows.hold(it, "is away", driver.create_once(class("there", &[("share", away)])).await);
    std::fs::create_dir(away.strip_prefix("dir:").unwrap()).unwrap();
    let elsewhere = driver.create(class("there", &[("share", away)])).await.unwrap().volume_id;
    let large = "x".repeat(129);
    for name in ["", "a\0b", &large] {
        rows.hold(it, "no name", driver.create_once(create_request(name)).await);
    }
    let no_access = VolumeCapability { access_type: None, ..mount("ext4") };
    let wrong =
        [mode(Mode::MultiNodeMultiWriter), mode(Mode::MultiNodeSingleWriter), mount("ntfs"), no_access];
    rows.hold(it, "no capability", driver.create_once(with("v", Vec::new())).await);
    for capability in wrong {
        rows.hold(it, "no capability", driver.create_once(with("v", vec![block(), capability])).await);
    }
    let only_read = vec![mode(Mode::MultiNodeReaderOnly), mode(Mode::SingleNodeReaderOnly)];
    rows.hold(it, "nothing to copy it from", driver.create_once(with("v", only_read)).await);
    for pair in [("colour", "red"), ("format", "vmdk"), ("preallocation", "full"), ("share", "no:/where")] {
        rows.hold(it, "unknown or impossible", driver.create_once(class("v", &[pair])).await);
    }
    for (required, limit) in [(-1, 0), (0, -1), (2 * GIB, GIB)] {
        rows.hold(it, "negative", driver.create_once(sized("v", required, limit)).await);
    }
    let mutable = [("iops".to_owned(), "1".to_owned())].into();
    let mutable = CreateVolumeRequest { mutable_parameters: mutable, ..create_request("v") };
    rows.hold(it, "mutable", driver.create_once(mutable).await);
    for (required, limit) in [(1, 1000), (GIB + 1, 2 * GIB - 1), (i64::MAX, 0)] {
        rows.hold(it, "no whole GiB", driver.create_once(sized("v", required, limit)).await);
    }

    let named = [("share", format!("dir:{}", driver.share_root().display()))];
    let named: Vec<(&str, &str)> = named.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let id = driver.create_once(class("first", &named)).await.unwrap().volume_id;
    rows.hold(it, "there already", driver.create_once(class("first", &named)).await);
    let no_snapshot = format!("{}/00000000-0000-4000-8000-000000000000", absent(&id));
    for source in [snapshot("no-snapshot"), snapshot(&no_snapshot), volume("no-volume"), volume(&absent(&id))]
    {
        rows.hold(it, "source does not exist", driver.create_once(from("copy", source)).await);
    }
    let grown = driver
        .create_once(CreateVolumeRequest {
            parameters: class("", &named).parameters,
            ..sized("grown", 2 * GIB, 0)
        })
        .await
        .unwrap()
        .volume_id;
    rows.hold(it, "the source holds", driver.create_once(from("copy", volume(&grown))).await);
    let taken = [
        sized("first", 5 * GIB, 0),
        class("first", &[("format", "raw")]),
        class("first", &[("share", away)]),
        from("first", volume(&grown)),
    ];
    for request in taken {
        rows.hold(it, "the name belongs", driver.create_once(request).await);
    }
    rows.hold(it, "no share has the room", driver.create_once(sized("huge", 1 << 58, 0)).await);
    let locked = lock(&driver.share_root(), VolumeId::from_name("locked"));
    rows.hold(it, "somebody works", driver.create_once(class("locked", &named)).await);
    drop(locked);
    for id in [id, grown, elsewhere] {
        driver.delete(&id).await.unwrap();
    }
}

async fn delete(driver: &Driver, rows: &mut Rows) {
    let it = "DeleteVolume";
    let named = [("share", format!("dir:{}", driver.share_root().display()))];
    let named: Vec<(&str, &str)> = named.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let id = driver.create(class("goes", &named)).await.unwrap().volume_id;
    rows.hold(it, "no volume id", driver.delete_once("").await);
    for handle in ["none", "../../etc/passwd", &absent(&id)] {
        rows.hold(it, "no such volume", driver.delete_once(handle).await);
    }
    driver.publish_to(&id, NODE).await.unwrap();
    rows.hold(it, "attached", driver.delete_once(&id).await);
    driver.unpublish_from(&id, NODE).await.unwrap();
    let locked = lock(&driver.share_root(), id_of(&id));
    rows.hold(it, "somebody works", driver.delete_once(&id).await);
    drop(locked);
    let image = hold_image(&driver.share_root(), id_of(&id));
    rows.hold(it, "has its image open", driver.delete_once(&id).await);
    drop(image);
    let record = driver.share_root().join("volumes").join(id_of(&id).to_string()).join("volume.json");
    let text = std::fs::read_to_string(&record).unwrap();
    std::fs::write(&record, text.replace("\"goes\"", "\"stays\"")).unwrap();
    rows.hold(it, "damaged", driver.delete_once(&id).await);
    std::fs::write(&record, text).unwrap();
    driver.delete_once(&id).await.unwrap();
    rows.hold(it, "no such volume", driver.delete_once(&id).await);
}

async fn grow_and_validate(driver: &Driver, rows: &mut Rows) {
    let it = "ControllerExpandVolume";
    let named = format!("dir:{}", driver.share_root().display());
    let parameters = class("", &[("share", &named)]).parameters;
    let request = CreateVolumeRequest { parameters, ..sized("grows", 2 * GIB, 0) };
    let id = driver.create(request).await.unwrap().volume_id;
    rows.hold(it, "already", driver.grow(&id, range(GIB, 0)).await);
    let senseless =
        [("", range(GIB, 0)), (id.as_str(), None), (&id, range(-1, 0)), (&id, range(3 * GIB, GIB))];
    for (id, range) in senseless {
        rows.hold(it, "makes no sense", driver.grow(id, range).await);
    }
    for id in ["none", &absent(&id)] {
        rows.hold(it, "no such volume", driver.grow(id, range(3 * GIB, 0)).await);
    }
    for (required, limit) in [(GIB, GIB), (2 * GIB + 1, 3 * GIB - 1)] {
        rows.hold(it, "the limit", driver.grow(&id, range(required, limit)).await);
    }
    let reading = ControllerPublishVolumeRequest {
        volume_id: id.clone(),
        node_id: NODE.to_owned(),
        volume_capability: Some(mode(Mode::MultiNodeReaderOnly)),
        ..Default::default()
    };
    driver.controller().controller_publish_volume(reading).await.unwrap();
    rows.hold(it, "nodes read it", driver.grow(&id, range(3 * GIB, 0)).await);
    driver.unpublish_from(&id, NODE).await.unwrap();
    rows.hold(it, "no room", driver.grow(&id, range(1 << 58, 0)).await);
    let share = driver.share_root();
    let locked = lock(&share, id_of(&id));
    rows.hold(it, "somebody works", driver.grow(&id, range(3 * GIB, 0)).await);
    drop(locked);
    driver.register_away("away-node");
    driver.attach(&id, "away-node", Some(mount("ext4"))).await.unwrap();
    open_where_attached(&share, id_of(&id));
    let image = hold_image(&share, id_of(&id));
    rows.hold(it, "cannot be asked", driver.grow(&id, range(3 * GIB, 0)).await);
    drop(image);
    driver.detach(&id, "away-node").await.unwrap();
    assert_eq!(driver.grow(&id, range(3 * GIB, 0)).await.unwrap(), 3 * GIB);

    let it = "ValidateVolumeCapabilities";
    rows.hold(it, "no volume id", driver.validate("", vec![block()]).await);
    rows.hold(it, "no volume id", driver.validate(&id, Vec::new()).await);
    for id in ["none", &absent(&id)] {
        rows.hold(it, "no such volume", driver.validate(id, vec![block()]).await);
    }
    let confirmed = driver.validate(&id, vec![block(), mount("xfs")]).await;
    assert_eq!(confirmed.as_ref().unwrap().confirmed.as_ref().unwrap().volume_capabilities.len(), 2);
    rows.hold(it, "confirmed", confirmed);
    let refused = driver.validate(&id, vec![mode(Mode::MultiNodeMultiWriter)]).await.unwrap();
    assert!(refused.confirmed.is_none() && refused.message.contains("one node"), "{refused:?}");
    let modified =
        driver.controller().controller_modify_volume(ControllerModifyVolumeRequest::default()).await;
    rows.hold("ControllerModifyVolume", "always", modified);
}
