//! The handles of backups, where volumes, snapshots and attachments are asked for. The backups are those that Cinder wrote.

use super::Rows;
use super::inventory::listing;
use super::volumes::{from, snapshot};
use crate::calls::{NODE, create_request, mount};
use crate::driver::Driver;
use crate::support::backups::{
    chunks, cinder_bucket, cinder_handles, copy, flip, folder, write_repositories,
};
use std::fs::File;
use std::path::Path;
use strata::rpc::csi::*;
use strata::volume::VolumeId;
use tonic::{Code, Status};

const ID: &str = "00000000-0000-4000-8000-000000000000";

/// A file of repositories: one that is well, one that is damaged, one that lacks an object, one that is nowhere.
pub fn prepare(dir: &Path) -> String {
    let bucket = |name: &str| dir.join(name);
    for name in ["damaged", "lacking"] {
        copy(&cinder_bucket("zstd"), &bucket(name));
    }
    let first = |name: &str| chunks(&bucket(name)).remove(0);
    flip(&first("damaged"));
    std::fs::remove_file(first("lacking")).unwrap();
    let file = dir.join("repositories.json");
    write_repositories(
        &file,
        &[
            ("good", folder(&cinder_bucket("zstd"))),
            ("damaged", folder(&bucket("damaged"))),
            ("lacking", folder(&bucket("lacking"))),
            ("away", folder(&bucket("nowhere"))),
        ],
    );
    file.to_str().unwrap().to_owned()
}

/// The full backup of a fixture.
fn handle(repository: &str) -> String {
    cinder_handles("zstd", repository).remove(0)
}

fn malformed() -> [String; 5] {
    let handle = handle("good");
    [
        "bak://".to_owned(),
        "bak://good/volume/backup".to_owned(),
        handle.replace("good", "../good"),
        handle.to_uppercase().replacen("CINDER", "cinder", 1),
        format!("{handle}/"),
    ]
}

/// What another controller holds that brings the volume's data back.
fn turn(driver: &Driver, name: &str) -> File {
    let lock = format!("{}.restore", VolumeId::from_name(name));
    let path = driver.share_root().join("locks").join(lock);
    let file = File::options().write(true).create(true).truncate(false).open(path).unwrap();
    file.lock().unwrap();
    file
}

/// On the share of the tests, whichever is roomier.
fn wanted(driver: &Driver, name: &str, handle: &str) -> CreateVolumeRequest {
    let share = format!("dir:{}", driver.share_root().display());
    CreateVolumeRequest { parameters: [("share".to_owned(), share)].into(), ..from(name, snapshot(handle)) }
}

pub async fn create(driver: &Driver, rows: &mut Rows) {
    let it = "CreateVolume";
    let ask = async |name: &str, handle: &str| driver.create_once(wanted(driver, name, handle)).await;
    for handle in malformed() {
        rows.hold(it, "is malformed", ask("restored", &handle).await);
    }
    let gone = handle("good").rsplit_once('/').unwrap().0.to_owned() + "/" + ID;
    for handle in [gone, handle("unknown")] {
        rows.hold(it, "its backup is not in the repository", ask("restored", &handle).await);
    }
    rows.hold(it, "its backup's repository does not answer", ask("restored", &handle("away")).await);
    rows.hold(it, "its backup is damaged", ask("restored", &handle("lacking")).await);
    let request = wanted(driver, "restored", &handle("damaged"));
    rows.hold(it, "its backup is damaged", driver.create(request).await.map_err(not_aborted));
    rows.hold(it, "its backup is damaged", ask("restored", &handle("damaged")).await);
    let held = turn(driver, "on-its-way");
    let answer = ask("on-its-way", &handle("good")).await;
    assert!(
        answer.as_ref().is_err_and(|status| status.message().contains("0 % of cinder://good/")),
        "{answer:?}"
    );
    rows.hold(it, "on the way from its backup", answer);
    drop(held);
    let id = driver.create(wanted(driver, "on-its-way", &handle("good"))).await.unwrap().volume_id;
    rows.hold(it, "there already", ask("on-its-way", &handle("good")).await);
    rows.hold(it, "the name belongs", ask("on-its-way", &handle("away")).await);
    driver.delete(&id).await.unwrap();
    other_filesystem(driver, rows).await;
}

fn not_aborted(status: Status) -> Status {
    assert_ne!(status.code(), Code::Aborted);
    status
}

/// What was backed up as an XFS volume is not mounted as another one. Its metadata say so; the rest is Cinder's.
async fn other_filesystem(driver: &Driver, rows: &mut Rows) {
    let bucket = driver.share_root().parent().unwrap().join("damaged");
    let manifest = cinder_manifest(&bucket, &handle("good"));
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    let meta = serde_json::json!({"version": 2, "volume-metadata": {
        "strata.parameter.strata.dev/mode": "filesystem", "strata.parameter.strata.dev/filesystem": "xfs"
    }});
    json["volume_meta"] = meta.to_string().into();
    std::fs::write(manifest, json.to_string()).unwrap();
    let handle = handle("damaged").replacen("cinder", "bak", 1);
    let request = wanted(driver, "other", &handle);
    rows.hold("CreateVolume", "to mount as one filesystem", driver.create_once(request).await);
}

fn cinder_manifest(bucket: &Path, handle: &str) -> std::path::PathBuf {
    let [volume, backup] = handle.rsplitn(3, '/').take(2).collect::<Vec<_>>()[..] else { unreachable!() };
    let (backup, volume) = (volume, backup);
    let times = std::fs::read_dir(bucket.join(format!("volume_{volume}"))).unwrap().flatten();
    let files = times.flat_map(|time| std::fs::read_dir(time.path()).unwrap().flatten());
    let is_it = |name: &str| name.ends_with(&format!("_backup_{backup}_metadata"));
    files.map(|file| file.path()).find(|path| is_it(path.to_str().unwrap())).unwrap()
}

pub async fn look(driver: &Driver, rows: &mut Rows) {
    for handle in malformed() {
        let listed = driver.list_snapshots(listing(0, "", "", &handle)).await;
        rows.hold("ListSnapshots", "is malformed", listed);
        rows.hold("GetSnapshot", "is malformed", driver.find_snapshot(&handle).await);
        driver.delete_snapshot(&handle).await.unwrap();
    }
    for (repository, words) in
        [("lacking", "what is stored of it is not whole"), ("away", "whose repository does not answer")]
    {
        let handle = handle(repository);
        rows.hold("ListSnapshots", words, driver.list_snapshots(listing(0, "", "", &handle)).await);
        rows.hold("GetSnapshot", words, driver.find_snapshot(&handle).await);
    }
    let unknown = handle("unknown");
    rows.hold(
        "ListSnapshots",
        "nobody has told of",
        driver.list_snapshots(listing(0, "", "", &unknown)).await,
    );
    rows.hold("GetSnapshot", "no such snapshot", driver.find_snapshot(&unknown).await);
    let gone = handle("good").rsplit_once('/').unwrap().0.to_owned() + "/" + ID;
    rows.hold("GetSnapshot", "no such snapshot", driver.find_snapshot(&gone).await);
    let empty = driver.list_snapshots(listing(0, "", "", &gone)).await;
    assert!(empty.as_ref().unwrap().entries.is_empty());
    rows.hold("ListSnapshots", "an empty list", empty);
    rows.hold("ListSnapshots", "negative", driver.list_snapshots(listing(-1, "", "", &handle("good"))).await);
    rows.hold(
        "ListSnapshots",
        "starting_token",
        driver.list_snapshots(listing(0, "x", "", &handle("good"))).await,
    );
    let other = driver.list_snapshots(listing(0, "", "none", &handle("good"))).await.unwrap();
    assert!(other.entries.is_empty());
    let found = driver.find_snapshot(&handle("good")).await.unwrap().snapshot.unwrap();
    assert!(found.ready_to_use && found.size_bytes == 64 << 20 && found.snapshot_id == handle("good"));
    rows.hold("DeleteSnapshot", "no such snapshot", driver.delete_snapshot(&handle("good")).await);
    driver.find_snapshot(&handle("good")).await.expect("it is still there");
}

pub async fn attach(driver: &Driver, rows: &mut Rows) {
    let ready = driver.create(create_request("ready")).await.unwrap().volume_id;
    let (held, id) = restoring(driver, &ready).await;
    let answer = driver.attach(&id, NODE, Some(mount("ext4"))).await;
    rows.hold("ControllerPublishVolume", "still being brought back", answer);
    drop(held);
    driver.delete(&id).await.unwrap();
    driver.delete(&ready).await.unwrap();
}

/// `beside` is a volume of the same share.
pub async fn cut(driver: &Driver, rows: &mut Rows, beside: &str) {
    let (held, id) = restoring(driver, beside).await;
    rows.hold("CreateSnapshot", "still being brought back", driver.cut(&id, "s", "").await);
    drop(held);
    driver.delete(&id).await.unwrap();
}

/// A volume whose data another controller is about to bring, for as long as the file lives.
async fn restoring(driver: &Driver, beside: &str) -> (File, String) {
    let held = turn(driver, "restoring");
    let aborted = driver.create_once(wanted(driver, "restoring", &handle("good"))).await.unwrap_err();
    assert_eq!(aborted.code(), Code::Aborted);
    let share = beside.split('/').next().unwrap();
    (held, format!("{share}/{}", VolumeId::from_name("restoring")))
}
