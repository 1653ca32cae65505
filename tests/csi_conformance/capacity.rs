//! GetCapacity, and that CreateVolume goes by the same figures (G4).

use crate::calls::{GIB, block, create_request, mount};
use crate::driver::Driver;
use crate::requests::{mode, refused};
use crate::support;
use std::path::PathBuf;
use strata::rpc::csi::volume_capability::access_mode::Mode;
use strata::rpc::csi::*;
use tonic::{Code, Status};

/// A share of 256 MiB in memory, whatever disk the machine has.
struct SmallShare(tempfile::TempDir);

impl SmallShare {
    fn new() -> SmallShare {
        let dir = support::scratch();
        support::run("mount", &["-t", "tmpfs", "-o", "size=256M", "small", dir.path().to_str().unwrap()]);
        SmallShare(dir)
    }

    fn source(&self) -> String {
        format!("dir:{}", self.0.path().display())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("somebody-elses")
    }
}

impl Drop for SmallShare {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

impl Driver {
    async fn capacity(&self, request: GetCapacityRequest) -> Result<GetCapacityResponse, Status> {
        Ok(self.controller().get_capacity(request).await?.into_inner())
    }

    async fn expand(&self, id: &str, gib: i64) -> Result<ControllerExpandVolumeResponse, Status> {
        let request = ControllerExpandVolumeRequest {
            volume_id: id.to_owned(),
            capacity_range: Some(CapacityRange { required_bytes: gib * GIB, limit_bytes: 0 }),
            ..Default::default()
        };
        Ok(self.controller().controller_expand_volume(request).await?.into_inner())
    }

    async fn available(&self) -> i64 {
        self.capacity(GetCapacityRequest::default()).await.unwrap().available_capacity
    }
}

fn class(pairs: &[(&str, &str)]) -> GetCapacityRequest {
    let parameters = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    GetCapacityRequest { parameters, ..Default::default() }
}

fn sized(name: &str, gib: i64) -> CreateVolumeRequest {
    let capacity_range = Some(CapacityRange { required_bytes: gib * GIB, limit_bytes: 0 });
    CreateVolumeRequest { capacity_range, ..create_request(name) }
}

/// What is said to be available can be had, and nothing beyond it; what is deleted can be had again.
#[tokio::test(flavor = "multi_thread")]
async fn volumes_fit_into_what_is_said_to_be_available() {
    support::need_root();
    let share = SmallShare::new();
    let driver =
        Driver::on(support::scratch(), share.source(), &["--oversubscription", "20", "--reserve", "10"]);
    let all = driver.capacity(GetCapacityRequest::default()).await.unwrap();
    assert_eq!(all.available_capacity, 5 * GIB, "20 times 256 MiB");
    assert_eq!((all.minimum_volume_size, all.maximum_volume_size), (Some(GIB), Some(5 * GIB)));

    refused(driver.create(sized("too-large", 6)).await, Code::ResourceExhausted, "5368709120");
    let first = driver.create(sized("first", 3)).await.unwrap();
    assert_eq!(driver.available().await, 2 * GIB);
    assert_eq!(driver.create(sized("first", 3)).await.unwrap(), first, "a retry needs no more room");
    refused(driver.expand(&first.volume_id, 6).await, Code::ResourceExhausted, "6442450944");
    assert_eq!(driver.expand(&first.volume_id, 4).await.unwrap().capacity_bytes, 4 * GIB);
    assert_eq!(driver.available().await, GIB);
    driver.delete(&first.volume_id).await.unwrap();
    let first = driver.create(sized("first", 3)).await.unwrap();
    let snapshot = driver.snapshot(&first.volume_id, "snapshot").await.unwrap();
    assert_eq!(driver.available().await, 2 * GIB, "a snapshot counts by what it takes up");
    let source = volume_content_source::SnapshotSource { snapshot_id: snapshot.snapshot_id };
    let source = volume_content_source::Type::Snapshot(source);
    let volume_content_source = Some(VolumeContentSource { r#type: Some(source) });
    let clone = CreateVolumeRequest { volume_content_source, ..sized("clone", 3) };
    refused(driver.create(clone).await, Code::ResourceExhausted, "3221225472");
    driver.create(sized("second", 2)).await.unwrap();
    assert_eq!(driver.available().await, 0);
    refused(driver.create(sized("third", 1)).await, Code::ResourceExhausted, "at most 5368709120");
    driver.delete(&first.volume_id).await.unwrap();
    assert_eq!(driver.available().await, 3 * GIB);
    driver.create(sized("third", 3)).await.unwrap();
}

/// The reserve stays free for the volumes and snapshots that are there, however much may be promised.
#[tokio::test(flavor = "multi_thread")]
async fn the_reserve_is_kept_free() {
    support::need_root();
    let share = SmallShare::new();
    let driver = Driver::on(support::scratch(), share.source(), &["--reserve", "25"]);
    assert_eq!(driver.available().await, 5 * GIB);
    // 150 MiB: what is left is more than the reserve of 64 MiB, and less than a volume's start besides.
    std::fs::write(share.file(), vec![1u8; 150 << 20]).unwrap();
    assert_eq!(driver.available().await, 0);
    refused(driver.create(create_request("one")).await, Code::ResourceExhausted, "67108864 are kept");
    std::fs::remove_file(share.file()).unwrap();
    driver.create(create_request("one")).await.unwrap();
}

/// A class and the capabilities decide what counts; what CreateVolume refuses, GetCapacity does not promise.
#[tokio::test(flavor = "multi_thread")]
async fn capacity_is_that_of_the_class_that_is_asked_for() {
    support::need_root();
    let share = SmallShare::new();
    let dir = support::scratch();
    std::fs::create_dir(dir.path().join("share")).unwrap();
    let large = format!("dir:{}", dir.path().join("share").display());
    let driver = Driver::on(dir, share.source(), &["--share", &large]);
    let small = driver.capacity(class(&[("share", &share.source())])).await.unwrap();
    assert_eq!(small.available_capacity, 5 * GIB);
    let large = driver.capacity(class(&[("share", &large)])).await.unwrap();
    let both = driver.capacity(class(&[])).await.unwrap();
    assert!(large.available_capacity > 5 * GIB, "the disk of this machine is too small: {large:?}");
    assert_eq!(both.available_capacity, small.available_capacity + large.available_capacity);
    assert_eq!(both.maximum_volume_size, large.maximum_volume_size, "a volume lies on one share");

    let full = [("share", share.source()), ("format", "raw".into()), ("preallocation", "full".into())];
    let full: Vec<(&str, &str)> = full.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let none = driver.capacity(class(&full)).await.unwrap();
    assert_eq!((none.available_capacity, none.maximum_volume_size), (0, None), "256 MiB hold no whole GiB");
    let request = CreateVolumeRequest { parameters: class(&full).parameters, ..create_request("full") };
    refused(driver.create(request).await, Code::ResourceExhausted, "");

    let of = |capability| GetCapacityRequest { volume_capabilities: vec![capability], ..Default::default() };
    for offered in [mount("xfs"), block(), mode(Mode::SingleNodeSingleWriter)] {
        assert_eq!(driver.capacity(of(offered)).await.unwrap(), both);
    }
    let unoffered = driver.capacity(of(mode(Mode::MultiNodeMultiWriter))).await.unwrap();
    assert_eq!(unoffered.available_capacity, 0);
    let topology = Topology { segments: [("zone".to_owned(), "a".to_owned())].into() };
    let there = GetCapacityRequest { accessible_topology: Some(topology), ..Default::default() };
    assert_eq!(driver.capacity(there).await.unwrap(), both, "every node reaches every share");
    refused(driver.capacity(class(&[("colour", "red")])).await, Code::InvalidArgument, "colour");
    refused(driver.capacity(class(&[("share", "nowhere:/v")])).await, Code::InvalidArgument, "nowhere:/v");
}
