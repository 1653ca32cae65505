//! Where etcd and kube-apiserver are.

use std::path::PathBuf;

/// As scripts/ensure-apiserver calls it.
const FOLDER: &str = "kube-apiserver-1.20.2";
const REMEDY: &str = "run scripts/ensure-apiserver, or set KUBEBUILDER_ASSETS to a folder that has it";

/// One of the two programs.
pub fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os("KUBEBUILDER_ASSETS").filter(|folder| !folder.is_empty());
    let path = folder.map_or_else(|| cache().join(FOLDER), PathBuf::from).join(name);
    assert!(path.exists(), "this test needs {}: {REMEDY}", path.display());
    path
}

fn cache() -> PathBuf {
    let set = std::env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache");
    set.unwrap_or_else(home).join("strata")
}
