//! The whole driver over its CSI socket: a share in a folder, everything else real.

mod agents;
mod calls;
mod driver;
mod growth;
mod mounts;
mod nodes;
mod provisioned;
mod readers;
#[path = "../support/mod.rs"]
mod support;

use calls::{NODE, block, create_request, mount};
use driver::{Driver, eventually, mode, signal};
use std::os::unix::fs::FileTypeExt;
use std::time::Duration;
use strata::rpc::csi::*;
use support::writer::{Writer, verify_files};
use tonic::Code;

/// G5 G6 G7 G8 G12: from nothing to a mounted filesystem, snapshots while it is written to, volumes from them.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_lives_its_whole_life() {
    support::need_root();
    let driver = Driver::start();
    let volume = driver.create(create_request("pvc-1")).await.unwrap();
    assert_eq!(volume.capacity_bytes, 1 << 30);
    let id = volume.volume_id;
    assert_eq!(driver.create(create_request("pvc-1")).await.unwrap().volume_id, id, "a retry finds it");
    let (staging, target) = driver.bring_up(&id, "v", mount("ext4")).await;
    let writer = Writer::start(&target);
    eventually("some files", Duration::from_secs(30), || writer.written() > 20);
    let at_cut = writer.written();
    let snapshot = driver.snapshot(&id, "snap-1").await.unwrap();
    assert!(snapshot.ready_to_use && snapshot.size_bytes == 1 << 30);
    writer.goes_on();
    let second = driver.snapshot(&id, "snap-2").await.unwrap();
    assert_eq!(driver.snapshot(&id, "snap-1").await.unwrap(), snapshot, "a retry finds it");
    let total = writer.stop();
    verify_files(&target, total);
    driver.delete_snapshot(&second.snapshot_id).await.unwrap();
    driver.delete_snapshot(&second.snapshot_id).await.unwrap();
    driver.bring_down(&id, &staging, &target).await;

    let clone = driver.create_from("pvc-2", &snapshot.snapshot_id).await.unwrap().volume_id;
    let (clone_staging, clone_target) = driver.bring_up(&clone, "c", mount("ext4")).await;
    verify_files(&clone_target, at_cut);
    driver.bring_down(&clone, &clone_staging, &clone_target).await;

    let (staging, target) = driver.bring_up(&id, "v", mount("ext4")).await;
    verify_files(&target, total);
    driver.bring_down(&id, &staging, &target).await;
    for volume in [&clone, &id] {
        driver.delete(volume).await.unwrap();
        driver.delete(volume).await.unwrap();
    }
}

/// G5, K3: sparse and full raw images, XFS, and a raw block device.
#[tokio::test(flavor = "multi_thread")]
async fn raw_images_xfs_and_block_devices_work() {
    support::need_root();
    let driver = Driver::start();
    let request = CreateVolumeRequest {
        parameters: [("format".to_owned(), "raw".to_owned())].into(),
        ..create_request("raw")
    };
    let id = driver.create(request).await.unwrap().volume_id;
    let (staging, target) = driver.bring_up(&id, "x", mount("xfs")).await;
    std::fs::write(target.join("hello"), "world").unwrap();
    driver.bring_down(&id, &staging, &target).await;

    let id = driver.create(create_request("block")).await.unwrap().volume_id;
    let (staging, target) = driver.bring_up(&id, "b", block()).await;
    assert!(std::fs::metadata(&target).unwrap().file_type().is_block_device());
    driver.bring_down(&id, &staging, &target).await;
    assert!(!target.exists());
}

/// G15, K20: controller and node are replaced under a writer, which notices nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_does_not_touch_a_staged_volume() {
    support::need_root();
    let mut driver = Driver::start();
    let id = driver.create(create_request("pvc-1")).await.unwrap().volume_id;
    let (staging, target) = driver.bring_up(&id, "v", mount("ext4")).await;
    let writer = Writer::start(&target);
    let data = driver.role("data").expect("a data plane");
    driver.stop();
    assert!(driver.role("controller").is_none() && driver.role("node").is_none());
    assert_eq!(driver.role("data"), Some(data), "the data plane stays");
    writer.goes_on();
    driver.start_again();
    assert_eq!(driver.role("data"), Some(data), "and is found");
    writer.goes_on();
    driver.snapshot(&id, "after-restart").await.unwrap();
    driver.stage(&id, &staging, mount("ext4")).await.unwrap();
    let total = writer.stop();
    verify_files(&target, total);
    driver.bring_down(&id, &staging, &target).await;
}

/// X6 for processes: each is killed under a writer; standalone brings it back and the volume is usable.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_role_comes_back() {
    support::need_root();
    let mut driver = Driver::start();
    let id = driver.create(create_request("pvc-1")).await.unwrap().volume_id;
    let (staging, target) = driver.bring_up(&id, "v", mount("ext4")).await;
    let writer = Writer::start(&target);
    for (number, role) in ["controller", "node", "data"].into_iter().enumerate() {
        let before = driver.role(role).expect(role);
        signal(before, libc::SIGKILL);
        eventually(role, Duration::from_secs(60), || driver.role(role).is_some_and(|pid| pid != before));
        driver.snapshot(&id, &format!("after-{number}")).await.unwrap();
        writer.goes_on();
    }
    driver.kill();
    writer.goes_on();
    driver.start_again();
    driver.snapshot(&id, "after-standalone").await.unwrap();
    let total = writer.stop();
    verify_files(&target, total);
    driver.bring_down(&id, &staging, &target).await;
}

/// The way down works from any state, and twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_teardown_leaves_nothing() {
    support::need_root();
    let mut driver = Driver::start();
    let id = driver.create(create_request("pvc-1")).await.unwrap().volume_id;
    let (_, target) = driver.bring_up(&id, "v", mount("ext4")).await;
    std::fs::write(target.join("file"), "kept").unwrap();
    let data = driver.role("data").unwrap();
    driver.kill();
    signal(data, libc::SIGKILL);
    // A process that dies takes connections for moments still.
    let socket = driver.dir().join("data.sock");
    while std::os::unix::net::UnixStream::connect(&socket).is_ok() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(!driver.leftovers().is_empty(), "the volume is still staged");
    driver.teardown();
    assert_eq!(driver.leftovers(), Vec::<String>::new());
    driver.teardown();
    driver.start_again();
    let (staging, target) = driver.bring_up(&id, "v", mount("ext4")).await;
    assert_eq!(std::fs::read(target.join("file")).unwrap(), b"kept");
    driver.bring_down(&id, &staging, &target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_are_private_and_a_folder_has_one_driver() {
    support::need_root();
    let driver = Driver::start();
    for socket in ["csi.sock", "controller.sock", "node.sock", "agent.sock", "data.sock"] {
        assert_eq!(mode(&driver.dir().join(socket)), 0o600, "{socket}");
    }
    assert_eq!(mode(&driver.dir()), 0o700);
    for arguments in [&[][..], &["--teardown"]] {
        let output = driver.command().args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("another `strata standalone`"), "{said}");
    }
    let info = driver.identity().get_plugin_info(GetPluginInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.name, "csi.strata.dev");
    let node = driver.node().node_get_info(NodeGetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(node.node_id, NODE);
}

/// Invariant 6: what is wrong gets its code, and changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_input_gets_the_right_code() {
    support::need_root();
    let driver = Driver::start();
    let code = |status: tonic::Status| status.code();
    let id = driver.create(create_request("../../etc/passwd")).await.unwrap().volume_id;
    assert!(id.len() <= 128 && !id.contains(".."));
    let unknown = CreateVolumeRequest {
        parameters: [("colour".to_owned(), "red".to_owned())].into(),
        ..create_request("other")
    };
    assert_eq!(code(driver.create(unknown).await.unwrap_err()), Code::InvalidArgument);
    let larger = CreateVolumeRequest {
        capacity_range: Some(CapacityRange { required_bytes: 5 << 30, limit_bytes: 0 }),
        ..create_request("../../etc/passwd")
    };
    assert_eq!(code(driver.create(larger).await.unwrap_err()), Code::AlreadyExists);
    let tight = CreateVolumeRequest {
        capacity_range: Some(CapacityRange { required_bytes: 1, limit_bytes: 1000 }),
        ..create_request("tight")
    };
    assert_eq!(code(driver.create(tight).await.unwrap_err()), Code::OutOfRange);

    let share = id.split('/').next().unwrap();
    let absent = format!("{share}/00000000-0000-4000-8000-000000000000");
    for handle in ["../../etc/passwd", "share/../../x", absent.as_str()] {
        driver.delete(handle).await.unwrap();
        assert_eq!(code(driver.publish_to(handle, NODE).await.unwrap_err()), Code::NotFound, "{handle}");
        assert_eq!(code(driver.snapshot(handle, "s").await.unwrap_err()), Code::NotFound, "{handle}");
        assert_eq!(code(driver.create_from("c", handle).await.unwrap_err()), Code::NotFound, "{handle}");
        driver.delete_snapshot(handle).await.unwrap();
        let request = ListSnapshotsRequest { snapshot_id: handle.to_owned(), ..Default::default() };
        assert!(driver.list_snapshots(request).await.unwrap().entries.is_empty());
    }
    driver.delete_snapshot("bak://repository/volume/backup").await.unwrap();
    assert_eq!(code(driver.publish_to(&id, "no-such-node").await.unwrap_err()), Code::NotFound);
    assert_eq!(code(driver.publish_to(&id, "../x").await.unwrap_err()), Code::NotFound);
    let staging = driver.path("s");
    assert_eq!(
        code(driver.stage(&id, &staging, mount("ext4")).await.unwrap_err()),
        Code::FailedPrecondition,
        "not published"
    );
    assert_eq!(code(driver.stage(&id, &staging, mount("ntfs")).await.unwrap_err()), Code::InvalidArgument);
    let modified =
        driver.controller().controller_modify_volume(ControllerModifyVolumeRequest::default()).await;
    assert_eq!(code(modified.unwrap_err()), Code::Unimplemented);
    let token = ListSnapshotsRequest { starting_token: "nonsense".to_owned(), ..Default::default() };
    assert_eq!(code(driver.list_snapshots(token).await.unwrap_err()), Code::Aborted);
    driver.delete(&id).await.unwrap();
}

/// Invariant 3 at the edge: a second writer is refused with the first one's name.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_writer_is_refused_by_name() {
    support::need_root();
    let driver = Driver::start();
    let id = driver.create(create_request("pvc-1")).await.unwrap().volume_id;
    driver.add_node("other-node");
    driver.publish_to(&id, NODE).await.unwrap();
    driver.publish_to(&id, NODE).await.unwrap();
    let status = driver.publish_to(&id, "other-node").await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("test-node"), "{}", status.message());
    assert_eq!(driver.delete(&id).await.unwrap_err().code(), Code::FailedPrecondition);
    driver.unpublish_from(&id, NODE).await.unwrap();
    driver.unpublish_from(&id, NODE).await.unwrap();
    driver.publish_to(&id, "other-node").await.unwrap();
    driver.unpublish_from(&id, "").await.unwrap();
    driver.delete(&id).await.unwrap();
}

/// K6: listing by volume, by snapshot, and in parts.
#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_listed_whole_and_in_parts() {
    support::need_root();
    let driver = Driver::start();
    let mut handles = Vec::new();
    for volume in ["a", "b"] {
        let id = driver.create(create_request(volume)).await.unwrap().volume_id;
        for name in ["1", "2", "3"] {
            handles.push(driver.snapshot(&id, &format!("{volume}-{name}")).await.unwrap());
        }
    }
    let taken = driver.snapshot(&handles[0].source_volume_id, "b-1").await.unwrap_err();
    assert_eq!(taken.code(), Code::AlreadyExists, "the name belongs to another volume");
    let by_volume =
        ListSnapshotsRequest { source_volume_id: handles[0].source_volume_id.clone(), ..Default::default() };
    assert_eq!(driver.list_snapshots(by_volume).await.unwrap().entries.len(), 3);
    let one = ListSnapshotsRequest { snapshot_id: handles[4].snapshot_id.clone(), ..Default::default() };
    let found = driver.list_snapshots(one).await.unwrap().entries;
    assert_eq!(found[0].snapshot.as_ref(), Some(&handles[4]));
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let part = ListSnapshotsRequest { max_entries: 4, starting_token: token, ..Default::default() };
        let part = driver.list_snapshots(part).await.unwrap();
        seen.extend(part.entries.into_iter().map(|entry| entry.snapshot.unwrap().snapshot_id));
        token = part.next_token;
        if token.is_empty() {
            break;
        }
    }
    let mut all: Vec<String> = handles.into_iter().map(|snapshot| snapshot.snapshot_id).collect();
    all.sort();
    assert_eq!(seen, all);
}

/// G1, G3: a share that fails is reported and stops nobody; it is taken up when it comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_is_away_does_not_stop_the_others() {
    support::need_root();
    let dir = support::scratch();
    let (here, away) = (dir.path().join("share"), dir.path().join("away"));
    std::fs::create_dir(&here).unwrap();
    let source = format!("dir:{}", away.display());
    let driver = Driver::on(dir, format!("dir:{}", here.display()), &["--share", &source]);
    let id = driver.create(create_request("pvc-1")).await.unwrap().volume_id;
    let there = CreateVolumeRequest {
        parameters: [("share".to_owned(), source.clone())].into(),
        ..create_request("pvc-2")
    };
    let refused = driver.controller().create_volume(there.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("make it"), "the cause: {}", refused.message());
    let listed = driver.list_snapshots(ListSnapshotsRequest::default()).await.unwrap_err();
    assert_eq!(listed.code(), Code::Unavailable, "never silently short");
    std::fs::create_dir(&away).unwrap();
    let second = driver.create(there).await.unwrap().volume_id;
    assert_ne!(id.split('/').next(), second.split('/').next());
    driver.publish_to(&second, NODE).await.unwrap();
    driver.list_snapshots(ListSnapshotsRequest::default()).await.unwrap();
    driver.unpublish_from(&second, NODE).await.unwrap();
}

/// G1: the list of shares is read again at run time.
#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_is_added_to_the_list_is_taken_up() {
    let dir = support::scratch();
    let (here, later, list) = (dir.path().join("share"), dir.path().join("later"), dir.path().join("shares"));
    std::fs::create_dir(&here).unwrap();
    std::fs::create_dir(&later).unwrap();
    std::fs::write(&list, "# none yet\n").unwrap();
    let source = format!("dir:{}", later.display());
    let file = list.to_str().unwrap().to_owned();
    let driver = Driver::on(dir, format!("dir:{}", here.display()), &["--shares-file", &file]);
    let mut request = create_request("on-the-later-one");
    request.parameters.insert("share".into(), source.clone());
    let refused = driver.create(request.clone()).await.unwrap_err();
    assert!(refused.message().contains(&source), "{refused}");

    std::fs::write(&list, format!("{source}  # added\n")).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    let made = loop {
        match driver.create(request.clone()).await {
            Ok(made) => break made,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!(std::fs::read_dir(later.join("volumes")).unwrap().count(), 1);
    driver.delete(&made.volume_id).await.unwrap();
}
