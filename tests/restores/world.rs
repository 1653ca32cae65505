//! A driver with a repository, a volume with known bytes, and its backup.

use crate::calls::{GIB, NODE, block, create_request};
use crate::driver::Driver;
use crate::s3_server::{ACCESS_KEY, SECRET_KEY};
use crate::support::backups::write_repositories;
use crate::support::{self, qemu_img};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use strata::rpc::csi::volume_content_source::{SnapshotSource, Type as SourceType};
use strata::rpc::csi::*;
use tonic::Status;

/// The repository's name in handles.
pub const REPOSITORY: &str = "nightly";

pub struct World {
    pub driver: Driver,
    /// As the command line takes it.
    url: String,
    endpoint: Option<String>,
}

/// What a backed up volume held.
pub struct Original {
    pub handle: String,
    pub digest: String,
}

pub fn s3(endpoint: &str) -> Value {
    json!({
        "repository": "s3://backups/some/prefix",
        "endpoint": endpoint,
        "region": "us-east-1",
        "access-key-id": ACCESS_KEY,
        "secret-access-key": SECRET_KEY,
        "concurrency": 1,
        // Below two chunks: one after the other.
        "memory": 1,
    })
}

impl World {
    /// With these settings of its one repository; beside it one named `away`, which is nowhere.
    pub fn new(settings: Value) -> World {
        support::need_root();
        let dir = support::scratch();
        let images = dir.path().join("share");
        std::fs::create_dir(&images).unwrap();
        World::on(dir, format!("dir:{}", images.display()), settings)
    }

    /// On a given share.
    pub fn on(dir: tempfile::TempDir, share: String, settings: Value) -> World {
        let file = dir.path().join("repositories.json");
        let away = json!({ "repository": format!("file://{}", dir.path().join("nowhere").display()) });
        write_repositories(&file, &[(REPOSITORY, settings.clone()), ("away", away)]);
        let text = |key: &str| settings[key].as_str().map(str::to_owned);
        let (url, endpoint) = (text("repository").unwrap(), text("endpoint"));
        let driver = Driver::on(dir, share, &["--repositories", file.to_str().unwrap(), "--no-restart"]);
        World { driver, url, endpoint }
    }

    /// A repository in a folder beside the share.
    pub fn in_folder() -> (World, tempfile::TempDir) {
        let folder = support::scratch();
        let world = World::new(support::backups::folder(folder.path()));
        (world, folder)
    }

    pub fn repositories(&self) -> PathBuf {
        self.driver.dir().parent().unwrap().join("repositories.json")
    }

    /// Makes a block volume of that size with some data in it, and its backup.
    pub async fn backed_up(&self, name: &str, gib: i64, format: &str) -> Original {
        let request = CreateVolumeRequest {
            volume_capabilities: vec![block()],
            capacity_range: Some(CapacityRange { required_bytes: gib * GIB, limit_bytes: 0 }),
            parameters: [("format".to_owned(), format.to_owned())].into(),
            ..create_request(name)
        };
        let id = self.driver.create(request).await.unwrap().volume_id;
        let (staging, target) = self.driver.bring_up(&id, name, block()).await;
        fill(&target, (gib * GIB) as u64);
        let digest = digest(&target);
        self.driver.bring_down(&id, &staging, &target).await;
        let snapshot = self.driver.snapshot(&id, &format!("{name}-snapshot")).await.unwrap();
        Original { handle: self.backup(&snapshot.snapshot_id), digest }
    }

    /// Backs a snapshot up, as a person would.
    pub fn backup(&self, snapshot: &str) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
        command.args(["backup", "create", "-o", "json", "--compression", "none", "--chunk-size", "4M"]);
        command.args(["--repository", &self.url, "--snapshot", snapshot, "--share"]);
        command.arg(format!("dir:{}", self.driver.share_root().display()));
        if let Some(endpoint) = &self.endpoint {
            command.args(["--endpoint", endpoint, "--region", "us-east-1"]);
        }
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command.env("STRATA_QEMU_IMG", qemu_img());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let made: Value = serde_json::from_slice(&output.stdout).unwrap();
        let volume = snapshot.split('/').nth(1).unwrap();
        format!("bak://{REPOSITORY}/{volume}/{}", made["backup_id"].as_str().unwrap())
    }

    /// Holds a volume to its bytes, from the device that a pod would get.
    pub async fn verify(&self, id: &str, digest_: &str) {
        let name = id.replace('/', "-");
        let (staging, target) = self.driver.bring_up(id, &name, block()).await;
        assert_eq!(digest(&target), digest_, "{id} is not what was backed up");
        self.driver.bring_down(id, &staging, &target).await;
    }

    /// Nothing but these volumes is on the share, in whatever state.
    pub fn holds_only(&self, handles: &[&str]) {
        let entries = std::fs::read_dir(self.driver.share_root().join("volumes")).unwrap().flatten();
        let mut found: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        let mut wanted: Vec<String> = handles.iter().map(|handle| volume_of(handle)).collect();
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted);
    }
}

/// The volume's part of a handle.
pub fn volume_of(handle: &str) -> String {
    handle.split('/').nth(1).unwrap().to_owned()
}

/// A request for a block volume from a backup.
pub fn from(handle: &str, name: &str, gib: i64) -> CreateVolumeRequest {
    let source = SourceType::Snapshot(SnapshotSource { snapshot_id: handle.to_owned() });
    CreateVolumeRequest {
        volume_capabilities: vec![block()],
        capacity_range: Some(CapacityRange { required_bytes: gib * GIB, limit_bytes: 0 }),
        volume_content_source: Some(VolumeContentSource { r#type: Some(source) }),
        ..create_request(name)
    }
}

/// One call, whatever the answer.
pub async fn once(driver: &Driver, request: CreateVolumeRequest) -> Result<Volume, Status> {
    Ok(driver.controller().create_volume(request).await?.into_inner().volume.unwrap())
}

/// Some megabytes that do not compress, here and there.
fn fill(device: &Path, size: u64) {
    let file = std::fs::File::options().write(true).open(device).unwrap();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for at in [0, 9 << 20, (60 << 20) + 4096, size - (1 << 20)] {
        let mut bytes = vec![0; 1 << 20];
        for word in bytes.chunks_exact_mut(8) {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            word.copy_from_slice(&seed.to_le_bytes());
        }
        file.write_all_at(&bytes, at).unwrap();
    }
    file.sync_all().unwrap();
}

fn digest(device: &Path) -> String {
    digest_of(device, u64::MAX)
}

/// SHA-256 of so many bytes, or of what there is.
pub fn digest_of(device: &Path, bytes: u64) -> String {
    let mut file = std::fs::File::open(device).unwrap().take(bytes);
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 4 << 20]);
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The node of all these tests.
pub fn node() -> &'static str {
    NODE
}
