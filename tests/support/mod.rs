//! What several integration tests need. A missing real part is a failing test that says what to do.
#![allow(dead_code)]

pub mod backups;
pub mod cinder;
pub mod disk;
pub mod domain;
pub mod leftovers;
pub mod on_gluster;
pub mod small_share;
pub mod writer;

use std::path::PathBuf;

/// A program of the sound QEMU.
fn qemu(variable: &str, name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let path = home.join(".cache/strata/qemu/bin").join(name);
    assert!(path.exists(), "{} is missing: run scripts/ensure-qemu, or set {variable}", path.display());
    path
}

/// qemu-img.
pub fn qemu_img() -> PathBuf {
    qemu("STRATA_QEMU_IMG", "qemu-img")
}

/// qemu-io, which comes beside qemu-img.
pub fn qemu_io() -> PathBuf {
    qemu_img().with_file_name("qemu-io")
}

/// qemu-storage-daemon.
pub fn qemu_storage_daemon() -> PathBuf {
    qemu("STRATA_QEMU_STORAGE_DAEMON", "qemu-storage-daemon")
}

/// Mounts and loop devices are made for real.
pub fn need_root() {
    assert!(rustix::process::geteuid().is_root(), "this test makes mounts and loop devices: run it as root");
}

/// A scratch folder on a real disk (tmpfs has no direct I/O on older kernels), and where the run looks
/// for what was left behind.
pub fn scratch() -> tempfile::TempDir {
    let parent = std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into());
    tempfile::Builder::new().prefix("strata-test-").tempdir_in(parent).expect("a scratch folder")
}

/// The replica-3 GlusterFS volume that the tests run beside.
pub fn gluster_share() -> strata::gluster::Source {
    let share = std::env::var("STRATA_TEST_SHARE")
        .expect("this test needs a GlusterFS volume of its own: run `make test` (or T=\"name\" make test)");
    share.parse().expect("STRATA_TEST_SHARE is HOST:/VOLUME")
}

/// Runs a program and expects it to succeed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let mut command = std::process::Command::new(program);
    command.args(arguments);
    let limit = std::time::Duration::from_secs(60);
    let output =
        strata::host::exec::run_ok(command, limit).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A share mounted as mount(8) does it when it is told nothing, unmounted at the end.
pub struct PlainMount(pub PathBuf);

impl PlainMount {
    /// Mounts it at that path, which is made.
    pub fn new(source: &strata::gluster::Source, at: PathBuf) -> PlainMount {
        std::fs::create_dir_all(&at).unwrap();
        run("mount", &["-t", "glusterfs", &source.to_string(), at.to_str().unwrap()]);
        PlainMount(at)
    }
}

impl Drop for PlainMount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

/// A share as the driver opens it, closed at the end.
pub struct OpenShare(pub strata::gluster::Share);

impl OpenShare {
    /// Opens it under that folder, as one node would.
    pub fn new(source: &strata::gluster::Source, mount_dir: &std::path::Path) -> OpenShare {
        let (share, findings) = strata::gluster::open(source, &[], mount_dir).unwrap();
        assert_eq!(findings, [], "the volume of the tests is as it should be");
        OpenShare(share)
    }
}

impl Drop for OpenShare {
    fn drop(&mut self) {
        let closed = strata::gluster::close(&self.0);
        if !std::thread::panicking() {
            closed.unwrap();
        }
    }
}

/// A volume of the tests' own servers, deleted at the end.
pub struct OwnVolume(pub &'static str);

impl OwnVolume {
    /// Not started yet.
    pub fn new(name: &'static str, host: &str, bricks: &std::path::Path) -> OwnVolume {
        let bricks: Vec<_> = (1..=3).map(|n| format!("{host}:{}/brick{n}", bricks.display())).collect();
        let mut words = vec!["--mode=script", "volume", "create", name, "replica", "3"];
        words.extend(bricks.iter().map(String::as_str));
        words.push("force");
        run("gluster", &words);
        OwnVolume(name)
    }

    pub fn set(&self, option: &str, value: &str) {
        run("gluster", &["--mode=script", "volume", "set", self.0, option, value]);
    }
}

impl Drop for OwnVolume {
    fn drop(&mut self) {
        for verb in ["stop", "delete"] {
            let _ = std::process::Command::new("gluster")
                .args(["--mode=script", "volume", verb, self.0])
                .output();
        }
    }
}
