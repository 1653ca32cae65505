//! What is where in standalone's folder.

use std::path::{Path, PathBuf};

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Layout(PathBuf);

impl Layout {
    pub(super) fn new(dir: PathBuf) -> Self {
        Layout(dir)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.0
    }

    /// Identity, Controller and Node: what callers use.
    pub(super) fn csi_socket(&self) -> PathBuf {
        self.0.join("csi.sock")
    }

    pub(super) fn controller_socket(&self) -> PathBuf {
        self.0.join("controller.sock")
    }

    pub(super) fn node_socket(&self) -> PathBuf {
        self.0.join("node.sock")
    }

    pub(super) fn agent_socket(&self) -> PathBuf {
        self.0.join("agent.sock")
    }

    pub(super) fn data_socket(&self) -> PathBuf {
        self.0.join("data.sock")
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        self.0.join("data")
    }

    pub(super) fn data_log(&self) -> PathBuf {
        self.0.join("data.log")
    }

    pub(super) fn node_dir(&self) -> PathBuf {
        self.0.join("node")
    }

    pub(super) fn lock_file(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// All of the sockets.
    pub(super) fn sockets(&self) -> [PathBuf; 5] {
        [
            self.csi_socket(),
            self.controller_socket(),
            self.node_socket(),
            self.agent_socket(),
            self.data_socket(),
        ]
    }
}
