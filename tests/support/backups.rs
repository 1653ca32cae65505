//! Repositories and backups for tests of restores.

use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// SHA-256 of what each of the three backups of a fixture restores to (tests/fixtures/cinder/README.md).
pub const CINDER: [&str; 3] = [
    "0c707e760e3c7f141e3968c48977fdc7f8615b9ebb0c4bb1e0c80ab40e0761e5",
    "0e759cfaba48c1850fdf6a306b1340e6897b8f7dcbee8f2b186a0cc64218400a",
    "581aa0b51d329db7bc5c0b632db31f071a6065cc0c40baa3f464678a61d76795",
];
/// Bytes of the fixtures' volumes.
pub const CINDER_BYTES: usize = 64 << 20;

/// The bucket that Cinder wrote.
pub fn cinder_bucket(set: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cinder").join(set).join("bucket")
}

/// The handles of a fixture's backups in a repository of that name, the oldest first.
pub fn cinder_handles(set: &str, repository: &str) -> Vec<String> {
    let records = std::fs::read(cinder_bucket(set).parent().unwrap().join("records.json")).unwrap();
    let records: Vec<Value> = serde_json::from_slice(&records).unwrap();
    let text = |record: &Value, key: &str| record[key].as_str().unwrap().to_owned();
    let handle = |record: &Value| {
        format!("cinder://{repository}/{}/{}", text(record, "volume_id"), text(record, "id"))
    };
    records.iter().map(handle).collect()
}

/// A copy of a folder.
pub fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

/// The chunks of a repository in a folder, in order.
pub fn chunks(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path if path.to_str().unwrap().contains("_metadata") => {}
                path if path.to_str().unwrap().contains("_sha256file") => {}
                path => found.push(path),
            }
        }
    }
    found.sort();
    found
}

/// Changes one byte in the middle of a file; again: back.
pub fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(path, bytes).unwrap();
}

/// What `--repositories` takes: each with its settings.
pub fn write_repositories(file: &Path, repositories: &[(&str, Value)]) {
    let all: serde_json::Map<String, Value> =
        repositories.iter().map(|(name, settings)| ((*name).to_owned(), settings.clone())).collect();
    std::fs::write(file, Value::Object(all).to_string()).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// The settings of a repository in a folder.
pub fn folder(path: &Path) -> Value {
    json!({ "repository": format!("file://{}", path.display()) })
}
