//! What several integration tests need. A missing real part is a failing test that says what to do.
#![allow(dead_code)]

pub mod disk;

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

/// qemu-storage-daemon.
pub fn qemu_storage_daemon() -> PathBuf {
    qemu("STRATA_QEMU_STORAGE_DAEMON", "qemu-storage-daemon")
}

/// Mounts and loop devices are made for real.
pub fn need_root() {
    assert!(rustix::process::geteuid().is_root(), "this test makes mounts and loop devices: run it as root");
}

/// A scratch folder on a real disk: tmpfs has no direct I/O on older kernels.
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("strata-test-").tempdir_in("/var/tmp").expect("a folder in /var/tmp")
}
