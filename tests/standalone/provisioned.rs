//! Static provisioning: what was imported or adopted is used by the handle that its manifest names (K8, G16).

use crate::calls::mount;
use crate::driver::Driver;
use crate::support::{self, cinder::CinderVolume, run};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const MIB: u64 = 1 << 20;

/// A raw disk with a filesystem and one file on it.
fn disk(path: &Path, fs: &str, bytes: u64) {
    std::fs::File::create(path).unwrap().set_len(bytes).unwrap();
    let path = path.to_str().unwrap();
    run(&format!("mkfs.{fs}"), &["-q", path]);
    let at = support::scratch();
    run("mount", &["-o", "loop", path, at.path().to_str().unwrap()]);
    let written = std::fs::write(at.path().join("here"), "before");
    run("umount", &[at.path().to_str().unwrap()]);
    written.unwrap();
}

/// Runs `strata volume import` beside the driver; answers the PersistentVolume.
fn import(driver: &Driver, arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_strata"))
        .args(["volume", "import", "--share", &format!("dir:{}", driver.share_root().display())])
        .args(arguments)
        .args(["--manifest", "-o", "json"])
        .env("STRATA_QEMU_IMG", support::qemu_img())
        .env("STRATA_QEMU_STORAGE_DAEMON", support::qemu_storage_daemon())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    answer["manifest"][0].clone()
}

/// What a pod finds at a PersistentVolume, and that it lives on: written to, cut, and staged again.
async fn use_as_any_other(driver: &Driver, name: &str, volume: &Value) {
    let csi = &volume["spec"]["csi"];
    let (id, fs) = (csi["volumeHandle"].as_str().unwrap(), csi["fsType"].as_str().unwrap());
    let (staging, target) = driver.bring_up(id, name, mount(fs)).await;
    assert_eq!(std::fs::read_to_string(target.join("here")).unwrap(), "before", "{name}");
    // The filesystem is as large as its claim, however small the disk was.
    let stat = rustix::fs::statvfs(&target).unwrap();
    assert!(stat.f_blocks * stat.f_frsize > 900 * MIB, "{name}: {} blocks", stat.f_blocks);
    std::fs::write(target.join("there"), "after").unwrap();
    let snapshot = driver.snapshot(id, &format!("{name}-1")).await.unwrap();
    driver.bring_down(id, &staging, &target).await;
    let (staging, target) = driver.bring_up(id, name, mount(fs)).await;
    for (file, text) in [("here", "before"), ("there", "after")] {
        assert_eq!(std::fs::read_to_string(target.join(file)).unwrap(), text, "{name}");
    }
    driver.bring_down(id, &staging, &target).await;
    driver.delete_snapshot(&snapshot.snapshot_id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_file_is_mounted_by_its_handle() {
    support::need_root();
    let driver = Driver::start();
    let file = driver.path("disk.raw");
    disk(&file, "xfs", 400 * MIB);
    let file = file.to_str().unwrap();
    let imported = import(&driver, &[file, "--format", "raw", "--name", "vm-1", "--fs-type", "xfs"]);
    use_as_any_other(&driver, "imported", &imported).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cinder_left_is_mounted_by_its_handle() {
    support::need_root();
    let driver = Driver::start();
    let root = driver.share_root();
    let mut cinder = CinderVolume::new(&root, "raw", 0);
    disk(&cinder.path(""), "ext4", 1024 * MIB);
    let snapshot = uuid::Uuid::new_v4().to_string();
    let (base, overlay) = (cinder.name(""), cinder.path(&snapshot));
    let whole = cinder.path("");
    let create = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", whole.to_str().unwrap()];
    let img = support::qemu_img();
    run(img.to_str().unwrap(), &[&create[..], &[overlay.to_str().unwrap()]].concat());
    let rebase = ["rebase", "-u", "-F", "raw", "-b", &base, overlay.to_str().unwrap()];
    run(img.to_str().unwrap(), &rebase);
    cinder.snapshots.push(snapshot.clone());
    cinder.write_table(&cinder.name(&snapshot));
    let adopted = import(&driver, &["--cinder", &cinder.id]);
    use_as_any_other(&driver, "adopted", &adopted).await;
}
