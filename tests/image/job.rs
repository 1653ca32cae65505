//! The main job, by the programs in the image alone.

use crate::cluster::mount;
use crate::container::Spec;
use crate::driver::Driver;
use crate::support::backups::{folder, write_repositories};
use crate::support::leftovers::processes;
use crate::support::writer::{Writer, verify_files};
use crate::unpacked::Image;
use procfs::process::{Process, Stat};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::Duration;

const STORE: &str = "/store";
const REPOSITORIES: &str = "/etc/strata/repositories";

/// A command as an operator runs it in a pod of its own, which may mount shares.
fn command(driver: &Driver, words: &[&str]) -> String {
    let folders = ["run", "tmp"].map(|name| (driver.cluster.empty_dir("command", name), format!("/{name}")));
    let mut mounts = vec![mount(&driver.cluster.host().join("store"), STORE, "None", false)];
    mounts.push(mount(Path::new("/dev"), "/dev", "None", false));
    mounts.push(mount(&driver.cluster.host().join("tls/controller"), "/tls", "None", true));
    for (from, to) in &folders {
        std::fs::create_dir_all(from).unwrap();
        mounts.push(mount(from, to, "None", false));
    }
    let spec = Spec {
        name: "command".to_owned(),
        arguments: words.iter().map(|word| (*word).to_owned()).collect(),
        environment: vec![("STRATA_AGENT_TLS_DIR".to_owned(), "/tls".to_owned())],
        mounts,
        user: Some(0),
        privileged: true,
        read_only_root: true,
        ..Spec::default()
    };
    spec.run(driver.cluster.image)
}

/// Every program of these names that this test has started, itself or through others, in another root than the image's; and
/// the names of those that run in it.
fn programs(image: &Image) -> (Vec<String>, BTreeSet<String>) {
    let all: HashMap<i32, (Process, Stat)> = procfs::process::all_processes()
        .unwrap()
        .flatten()
        .filter_map(|process| Some((process.pid, (process.stat().ok().map(|stat| (process, stat)))?)))
        .collect();
    let parent = |pid: &i32| all.get(pid).map(|(_, stat)| stat.ppid);
    let me = std::process::id() as i32;
    let (mut strangers, mut ours) = (Vec::new(), BTreeSet::new());
    for (process, stat) in all.values() {
        let Ok(root) = process.root() else { continue };
        if root == image.root {
            ours.insert(stat.comm.clone());
        } else if ["strata", "qemu-storage-da", "qemu-img"].contains(&stat.comm.as_str())
            && std::iter::successors(Some(process.pid), parent).any(|pid| pid == me)
        {
            strangers.push(format!("{} in {}", stat.comm, root.display()));
        }
    }
    (strangers, ours)
}

/// G5 G7 B6 B11 K4 K10: a volume, a snapshot while it is written to, its backup, and the volume that comes back; every role
/// with the mounts, the user and the rights that the chart gives it.
#[tokio::test(flavor = "multi_thread")]
async fn every_role_does_its_part_of_the_main_job() {
    let driver = Driver::start(|cluster, controller| {
        let (store, settings) = (cluster.host().join("store"), cluster.host().join("repositories"));
        for folder in [&store, &settings] {
            std::fs::create_dir(folder).unwrap();
        }
        write_repositories(&settings.join("all.json"), &[("nightly", folder(Path::new(STORE)))]);
        controller.arguments.push(format!("--repositories={REPOSITORIES}/all.json"));
        controller.mounts.push(mount(&store, STORE, "None", true));
        controller.mounts.push(mount(&settings, REPOSITORIES, "None", true));
    });
    let id = driver.first_volume("pvc-1").await;
    let (staging, target) = driver.up(&id, "v").await;
    let writer = Writer::start(&target);
    writer.goes_on();
    let at_cut = writer.written();
    let snapshot = driver.snapshot(&id, "snap-1").await.unwrap();
    writer.goes_on();

    let share = driver.cluster.share.as_str();
    let repository = format!("file://{STORE}");
    let words = ["backup", "create", "-o", "json", "--repository", &repository, "--share", share];
    let made = command(&driver, &[&words[..], &["--snapshot", &snapshot.snapshot_id]].concat());
    let made: Value = serde_json::from_str(&made).unwrap();
    let volume = snapshot.source_volume_id.split('/').nth(1).unwrap();
    let handle = format!("bak://nightly/{volume}/{}", made["backup_id"].as_str().unwrap());

    let clone = driver.create_from("pvc-2", &snapshot.snapshot_id).await.unwrap().volume_id;
    let restored = driver.restore("pvc-3", &handle).await.volume_id;
    for (id, name) in [(&clone, "c"), (&restored, "r")] {
        let (staging, target) = driver.up(id, name).await;
        verify_files(&target, at_cut);
        driver.bring_down(id, &staging, &target).await;
    }

    let (strangers, ours) = programs(driver.cluster.image);
    assert_eq!(strangers, Vec::<String>::new(), "none but the image's programs");
    // As the kernel cuts names.
    for wanted in ["strata", "qemu-storage-da", "glusterfs"] {
        assert!(ours.contains(wanted), "{wanted} in {ours:?}");
    }
    let total = writer.stop();
    verify_files(&target, total);
    driver.bring_down(&id, &staging, &target).await;
    driver.delete_snapshot(&snapshot.snapshot_id).await.unwrap();
    for id in [&id, &clone, &restored] {
        driver.delete(id).await.unwrap();
    }
    // What mounts have left to process 1 is gone a moment after it ended.
    let Driver { controller, node, mut data, cluster } = driver;
    data.until("rid of what has ended", |data| data.zombies().is_empty());
    controller.stop();
    node.stop();
    data.stop();
    drop(cluster);
}

/// On a workstation, in one container: all roles are children of it, and --teardown ends them.
#[test]
fn standalone_runs_in_one_container() {
    let cluster = crate::cluster::Cluster::new();
    let share = cluster.host().join("share");
    let folder = cluster.host().join("r");
    std::fs::create_dir(&share).unwrap();
    let source = format!("dir:{}", share.display());
    let spec = Spec {
        name: "standalone".to_owned(),
        arguments: ["standalone", "--dir", folder.to_str().unwrap(), "--share", &source, "--node-id", "n"]
            .map(str::to_owned)
            .into(),
        mounts: vec![
            mount(&cluster.host(), cluster.host().to_str().unwrap(), "Bidirectional", false),
            mount(Path::new("/dev"), "/dev", "None", false),
        ],
        user: Some(0),
        privileged: true,
        ..Spec::default()
    };
    let mut standalone = cluster.start(&spec);
    standalone.until("ready", |container| container.last_words().contains("ready: "));
    standalone.stop();
    let mut teardown = spec.clone();
    teardown.arguments.push("--teardown".to_owned());
    teardown.run(cluster.image);
    let mut left = Vec::new();
    for _ in 0..100 {
        left = processes(&folder);
        if left.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("left: {left:?}");
}
