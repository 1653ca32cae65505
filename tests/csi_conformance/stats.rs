//! NodeGetVolumeStats, and how many volumes a node takes (K7).

use crate::calls::{NODE, block, create_request, mount};
use crate::driver::{Driver, eventually, signal};
use crate::requests::refused;
use crate::support::{self, leftovers};
use std::path::Path;
use std::time::{Duration, Instant};
use strata::rpc::csi::volume_usage::Unit;
use strata::rpc::csi::*;
use tonic::{Code, Status};

impl Driver {
    async fn stats(&self, volume: &str, path: &Path) -> Result<NodeGetVolumeStatsResponse, Status> {
        let request = NodeGetVolumeStatsRequest {
            volume_id: volume.to_owned(),
            volume_path: path.display().to_string(),
            ..Default::default()
        };
        Ok(self.node().node_get_volume_stats(request).await?.into_inner())
    }

    /// The daemons of staged volumes; zombies have no command line.
    fn storage_daemons(&self) -> Vec<u32> {
        let ours = |line: &[String]| {
            let role = line.iter().any(|arg| arg == "data" || arg == "standalone");
            !role && line.iter().any(|arg| arg.ends_with("qemu-storage-daemon"))
        };
        let all = leftovers::processes(&self.dir()).into_iter();
        all.filter(|(_, line)| ours(line)).map(|(pid, _)| pid).collect()
    }
}

fn usage(stats: &NodeGetVolumeStatsResponse, unit: Unit) -> &VolumeUsage {
    stats.usage.iter().find(|usage| usage.unit() == unit).expect("figures of that unit")
}

#[track_caller]
fn abnormal(stats: &NodeGetVolumeStatsResponse, reason: &str) {
    let condition = stats.volume_condition.as_ref().unwrap();
    assert!(condition.abnormal && condition.message.starts_with(reason), "{condition:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filesystem_tells_its_bytes_and_inodes_where_it_is_and_nowhere_else() {
    support::need_root();
    let driver = Driver::start();
    let id = driver.create(create_request("full")).await.unwrap().volume_id;
    let (staging, target) = driver.bring_up(&id, "v", mount("ext4")).await;
    let before = driver.stats(&id, &target).await.unwrap();
    assert!(!before.volume_condition.as_ref().unwrap().abnormal, "{before:?}");
    let bytes = usage(&before, Unit::Bytes);
    assert!(bytes.total > 900 << 20 && bytes.total <= 1 << 30, "{bytes:?}");
    assert!(bytes.used + bytes.available <= bytes.total && bytes.available > 0, "{bytes:?}");
    std::fs::write(target.join("file"), vec![1u8; 64 << 20]).unwrap();
    std::fs::File::open(target.join("file")).unwrap().sync_all().unwrap();
    let after = driver.stats(&id, &staging).await.unwrap();
    assert!(usage(&after, Unit::Bytes).used >= bytes.used + (64 << 20));
    assert_eq!(usage(&after, Unit::Inodes).used, usage(&before, Unit::Inodes).used + 1);
    let inodes = usage(&after, Unit::Inodes);
    assert_eq!(inodes.used + inodes.available, inodes.total);

    for elsewhere in ["some/path", "/", "/etc", "../x"] {
        refused(driver.stats(&id, Path::new(elsewhere)).await, Code::NotFound, "not staged at that path");
    }
    let absent = format!("{}/00000000-0000-4000-8000-000000000000", id.split('/').next().unwrap());
    for volume in ["no-handle", absent.as_str()] {
        refused(driver.stats(volume, &target).await, Code::NotFound, "");
    }
    refused(driver.stats("", &target).await, Code::InvalidArgument, "volume_id");
    refused(driver.stats(&id, Path::new("")).await, Code::InvalidArgument, "volume_path");

    support::run("mount", &["-o", "remount,ro", staging.to_str().unwrap()]);
    abnormal(&driver.stats(&id, &target).await.unwrap(), "FilesystemReadOnly: ");
    support::run("mount", &["-o", "remount,rw", staging.to_str().unwrap()]);
    // Unmounted behind the driver's back: what lies under it are not this volume's figures.
    support::run("umount", &[target.to_str().unwrap()]);
    refused(driver.stats(&id, &target).await, Code::NotFound, "");
    driver.bring_down(&id, &staging, &target).await;
    refused(driver.stats(&id, &target).await, Code::NotFound, "");
}

/// A raw device tells its size. A daemon that died is told of at once, and nothing waits for the device.
#[tokio::test(flavor = "multi_thread")]
async fn a_raw_device_tells_its_size_and_a_dead_daemon_is_told_of() {
    support::need_root();
    let driver = Driver::start();
    let id = driver.create(create_request("raw")).await.unwrap().volume_id;
    let (staging, target) = driver.bring_up(&id, "b", block()).await;
    let stats = driver.stats(&id, &target).await.unwrap();
    assert_eq!((usage(&stats, Unit::Bytes).total, stats.usage.len()), (1 << 30, 1));
    assert!(!stats.volume_condition.unwrap().abnormal);
    let [daemon] = driver.storage_daemons()[..] else { panic!("one volume has one daemon") };
    signal(daemon, libc::SIGKILL);
    eventually("the daemon's end", Duration::from_secs(5), || driver.storage_daemons().is_empty());
    let begun = Instant::now();
    abnormal(&driver.stats(&id, &target).await.unwrap(), "DaemonGone: ");
    assert!(begun.elapsed() < Duration::from_secs(2));
    driver.bring_down(&id, &staging, &target).await;
}

impl Driver {
    /// Gives a node a volume beyond its limit, as two controllers do that count at the same time.
    pub async fn publish_uncounted(&self, volume: &str, node: &str) -> Result<(), Status> {
        let path = self.share_root().join("nodes").join(format!("{node}.json"));
        let record = || serde_json::from_slice::<serde_json::Value>(&std::fs::read(&path).unwrap()).unwrap();
        loop {
            let mut unlimited = record();
            unlimited.as_object_mut().unwrap().remove("max_volumes");
            std::fs::write(&path, unlimited.to_string()).unwrap();
            match self.publish_to(volume, node).await {
                // It has just said its limit again.
                Err(status) if status.code() == tonic::Code::ResourceExhausted => {
                    assert!(record().get("max_volumes").is_some(), "{status:?}");
                }
                answer => return answer,
            }
        }
    }
}

/// A node tells its limit and keeps to it; what it has already is not counted twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_takes_no_more_volumes_than_it_says() {
    support::need_root();
    let dir = support::scratch();
    std::fs::create_dir(dir.path().join("share")).unwrap();
    let share = format!("dir:{}", dir.path().join("share").display());
    let driver = Driver::on(dir, share, &["--max-volumes", "1"]);
    let info = driver.node().node_get_info(NodeGetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.max_volumes_per_node, 1);
    let first = driver.create(create_request("first")).await.unwrap().volume_id;
    let second = driver.create(create_request("second")).await.unwrap().volume_id;
    let (staging, other) = (driver.path("first"), driver.path("second"));
    driver.publish_to(&first, NODE).await.unwrap();
    refused(driver.publish_to(&second, NODE).await, Code::ResourceExhausted, "--max-volumes");
    driver.publish_uncounted(&second, NODE).await.unwrap();
    driver.stage(&first, &staging, block()).await.unwrap();
    driver.stage(&first, &staging, block()).await.unwrap();
    refused(driver.stage(&second, &other, block()).await, Code::ResourceExhausted, "--max-volumes");
    driver.unstage(&first, &staging).await.unwrap();
    driver.stage(&second, &other, block()).await.unwrap();
    driver.unstage(&second, &other).await.unwrap();
}
