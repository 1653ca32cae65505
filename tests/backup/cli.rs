//! The commands, through the real binary: results, exit codes, refusals.

use crate::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
use crate::util::noise;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use strata::image::lock::ImageLock;
use tempfile::TempDir;
use uuid::Uuid;

pub struct Shell {
    pub folder: TempDir,
    pub repository: Vec<String>,
    pub variables: Vec<(&'static str, &'static str)>,
}

impl Shell {
    pub fn local() -> Shell {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("--repository=file://{}", folder.path().join("repo").display());
        Shell { folder, repository: vec![url], variables: Vec::new() }
    }

    pub fn s3(server: &S3Server) -> Shell {
        let endpoint = format!("--endpoint={}", server.endpoint);
        let repository =
            vec!["--repository=s3://volumebackups".to_owned(), endpoint, "--region=eu-1".to_owned()];
        let variables = vec![("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
        Shell { folder: tempfile::tempdir().unwrap(), repository, variables }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn run(&self, verb: &str, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
        command.args(["backup", verb]).args(&self.repository).args(args);
        for name in ["AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            command.env_remove(name);
        }
        command.envs(self.variables.iter().copied()).output().unwrap()
    }

    /// Succeeds, and answers its JSON.
    pub fn json(&self, verb: &str, args: &[&str]) -> Value {
        let output = self.run(verb, &[args, &["-o", "json"]].concat());
        assert!(output.status.success(), "{verb} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Ends with that code and says this.
    pub fn fails(&self, code: i32, says: &str, verb: &str, args: &[&str]) {
        let output = self.run(verb, args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{verb} {args:?}: {error}");
        assert!(error.contains(says), "{error}");
    }

    pub fn create(&self, image: &Path, volume: &str, parent: &str) -> Value {
        let image = image.to_str().unwrap();
        let args = ["--image", image, "--format", "raw", "--volume-id", volume, "--parent", parent];
        self.json("create", &[&args[..], &["--chunk-size", "64K", "--hash-block", "4K"]].concat())
    }
}

fn whole_job(shell: &Shell) {
    let volume = Uuid::new_v4().to_string();
    let image = shell.path("volume.raw");
    let mut data = noise(11, 300_001);
    std::fs::write(&image, &data).unwrap();
    let full = shell.create(&image, &volume, "latest");
    for key in [
        "backup_id",
        "prefix",
        "objects",
        "bytes_total",
        "bytes_read",
        "bytes_changed",
        "bytes_uploaded",
        "seconds",
    ] {
        assert!(!full[key].is_null(), "{key}");
    }
    assert!(full["parent_id"].is_null());
    assert_eq!(full["objects"], 5);
    let first = data.clone();
    data[70_000] ^= 1;
    std::fs::write(&image, &data).unwrap();
    let second = shell.create(&image, &volume, "latest");
    assert_eq!(second["parent_id"], full["backup_id"]);
    assert_eq!((&second["objects"], &second["bytes_changed"]), (&Value::from(1), &Value::from(4096)));
    for (backup, expected) in [(&full, &first), (&second, &data)] {
        let to = shell.path(&format!("restored-{}", backup["backup_id"].as_str().unwrap()));
        let to_text = to.to_str().unwrap();
        shell.json("restore", &["--backup", backup["backup_id"].as_str().unwrap(), "--to", to_text]);
        assert!(std::fs::read(&to).unwrap() == **expected);
    }
    let (parent, child) = (full["backup_id"].as_str().unwrap(), second["backup_id"].as_str().unwrap());
    assert_eq!(shell.json("list", &[]).as_array().unwrap().len(), 2);
    assert_eq!(shell.json("list", &["--volume-id", &Uuid::nil().to_string()]).as_array().unwrap().len(), 0);
    let shown = shell.json("show", &["--backup", child]);
    assert_eq!(shown["chain"], serde_json::json!([child, parent]));
    assert_eq!(shown["bytes_total"], 300_001);
    assert!(shown["volume_meta"].as_str().unwrap().contains("\"version\":2"));
    shell.fails(4, child, "delete", &["--backup", parent]);
    shell.json("delete", &["--backup", child]);
    shell.json("delete", &["--backup", parent]);
    shell.fails(3, parent, "delete", &["--backup", parent]);
    assert_eq!(shell.json("list", &[]).as_array().unwrap().len(), 0);
}

#[test]
fn the_whole_job_in_a_directory() {
    whole_job(&Shell::local());
}

#[test]
fn the_whole_job_on_s3() {
    let server = S3Server::start();
    whole_job(&Shell::s3(&server));
}

/// Each exit code by what leads to it.
#[test]
fn exit_codes() {
    let shell = Shell::local();
    let image = shell.path("image");
    std::fs::write(&image, noise(1, 100_000)).unwrap();
    let (image_text, id) = (image.to_str().unwrap(), Uuid::new_v4().to_string());
    let create = ["--image", image_text, "--format", "raw", "--volume-id", &id];
    shell.fails(2, "--format", "create", &["--image", image_text]);
    shell.fails(2, "multiple", "create", &[&create[..], &["--hash-block", "3000"]].concat());
    shell.fails(2, "lzma", "create", &[&create[..], &["--compression", "lzma"]].concat());
    shell.fails(1, "qcow2", "create", &["--image", image_text, "--format", "qcow2", "--volume-id", &id]);
    shell.fails(3, "does not exist", "list", &[]);
    let lock = ImageLock::write(&image).unwrap();
    shell.fails(4, "in use", "create", &create);
    drop(lock);
    let backup = shell.create(&image, &id, "none")["backup_id"].as_str().unwrap().to_owned();
    let other = Uuid::new_v4().to_string();
    shell.fails(3, &other, "restore", &["--backup", &other, "--to", shell.path("new").to_str().unwrap()]);
    shell.fails(3, &other, "show", &["--backup", &other]);
    let restore = |to: &Path, more: &[&'static str]| -> Vec<String> {
        let args = ["--backup", &backup, "--to", to.to_str().unwrap()];
        args.iter().chain(more).map(|arg| (*arg).to_owned()).collect()
    };
    let refused = |says: &str, to: &Path, more: &[&'static str]| {
        let args = restore(to, more);
        shell.fails(4, says, "restore", &args.iter().map(String::as_str).collect::<Vec<_>>());
    };
    // There already; too small; in use; part of a share; a folder.
    let target = shell.path("target");
    std::fs::write(&target, vec![1; 100_001]).unwrap();
    refused("--in-place", &target, &[]);
    let lock = ImageLock::write(&target).unwrap();
    refused("in use", &target, &["--in-place"]);
    drop(lock);
    std::fs::write(shell.path("small"), b"small").unwrap();
    refused("it has 5 bytes, the volume has 100000", &shell.path("small"), &["--in-place"]);
    std::fs::create_dir_all(shell.path("share/.strata")).unwrap();
    std::fs::create_dir_all(shell.path("share/volumes")).unwrap();
    std::fs::write(shell.path("share/.strata/share.json"), b"{}").unwrap();
    refused("share", &shell.path("share/volumes/new"), &[]);
    refused("share", &shell.path("share/.strata/share.json"), &["--in-place"]);
    refused("no file", &shell.path("share"), &["--in-place"]);
    let done = restore(&target, &["--in-place", "-o", "json"]);
    shell.json("restore", &done.iter().map(String::as_str).take(5).collect::<Vec<_>>());
    let found = std::fs::read(&target).unwrap();
    assert!(found[..100_000] == noise(1, 100_000)[..] && found[100_000] == 1);
}

/// A mounted filesystem's device is refused whatever was asked for.
#[test]
fn a_mounted_device_is_refused() {
    assert!(rustix::process::geteuid().is_root(), "this test makes a loop device: run it as root");
    let shell = Shell::local();
    let image = shell.path("image");
    std::fs::write(&image, noise(1, 100_000)).unwrap();
    let made = shell.create(&image, &Uuid::new_v4().to_string(), "none");
    let backup = made["backup_id"].as_str().unwrap();
    let disk = shell.path("disk");
    std::fs::File::create(&disk).unwrap().set_len(16 << 20).unwrap();
    let sh = |script: &str| {
        let output = Command::new("sh").args(["-ec", script]).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let mount = shell.path("mount");
    std::fs::create_dir(&mount).unwrap();
    let (disk_text, mount_text) = (disk.to_str().unwrap(), mount.to_str().unwrap());
    sh(&format!("mkfs.ext4 -q -F {disk_text}"));
    let device = sh(&format!("losetup --find --show {disk_text}"));
    sh(&format!("mount {device} {mount_text}"));
    let mounted = shell.run("restore", &["--backup", backup, "--to", &device, "--in-place"]);
    let file = shell.run("restore", &["--backup", backup, "--to", disk_text, "--in-place"]);
    // What somebody may be writing to is not read either.
    let id = Uuid::new_v4().to_string();
    let source = |image| shell.run("create", &["--image", image, "--format", "raw", "--volume-id", &id]);
    let (device_source, file_source) = (source(&device), source(disk_text));
    sh(&format!("umount {mount_text}"));
    let free = shell.run("restore", &["--backup", backup, "--to", &device, "--in-place"]);
    sh(&format!("losetup -d {device}"));
    assert_eq!(mounted.status.code(), Some(4), "{mounted:?}");
    assert!(String::from_utf8_lossy(&mounted.stderr).contains("mounted on"));
    assert_eq!(file.status.code(), Some(4), "{file:?}");
    assert_eq!(device_source.status.code(), Some(4), "{device_source:?}");
    assert!(String::from_utf8_lossy(&device_source.stderr).contains("mounted on"));
    assert_eq!(file_source.status.code(), Some(4), "{file_source:?}");
    assert!(String::from_utf8_lossy(&file_source.stderr).contains("is attached to it"));
    assert!(free.status.success(), "{free:?}");
    assert!(std::fs::read(&disk).unwrap()[..100_000] == noise(1, 100_000)[..]);
}
