//! Where things are on a share.

use super::id::{LayerId, NodeId, SnapshotId, VolumeId};
use std::path::{Path, PathBuf};

/// Paths below a share's root. Built from parsed ids alone.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout of a share.
    pub fn new(root: &Path) -> Self {
        Layout { root: root.to_owned() }
    }

    /// What every share has from the beginning.
    pub fn identity(&self) -> PathBuf {
        self.root.join(".strata").join("share.json")
    }

    /// One folder a volume.
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// A volume's folder.
    pub fn volume(&self, id: VolumeId) -> PathBuf {
        self.volumes().join(id.to_string())
    }

    /// A volume's record.
    pub fn record(&self, id: VolumeId) -> PathBuf {
        self.volume(id).join("volume.json")
    }

    /// Cinder's table, derived from the record.
    pub fn info(&self, id: VolumeId) -> PathBuf {
        self.volume(id).join("volume.info")
    }

    /// An image file. The name was checked when the record was read.
    pub fn image(&self, id: VolumeId, file: &str) -> PathBuf {
        self.volume(id).join(file)
    }

    /// Names of the volumes that may stand on layers of this one: all that do, perhaps some that no longer do.
    pub fn children(&self, id: VolumeId) -> PathBuf {
        self.volume(id).join("children")
    }

    /// Images that no record knew, moved there by a repair.
    pub fn lost(&self, id: VolumeId) -> PathBuf {
        self.volume(id).join("lost+found")
    }

    /// What changed from one state of the volume to the next.
    pub fn deltas(&self, id: VolumeId) -> PathBuf {
        self.volume(id).join("deltas")
    }

    /// What changed up to the state that a layer holds, or held before it was merged away.
    pub fn delta(&self, id: VolumeId, layer: LayerId) -> PathBuf {
        self.deltas(id).join(layer.to_string())
    }

    /// What the background does with it: a hint.
    pub fn background(&self, id: VolumeId) -> PathBuf {
        self.volume(id).join("background.json")
    }

    /// Lock files: never renamed, never unlinked.
    pub fn lock(&self, id: VolumeId) -> PathBuf {
        self.root.join("locks").join(id.to_string())
    }

    /// Held by whoever merges layers of the volume.
    pub fn merge_lock(&self, id: VolumeId) -> PathBuf {
        self.root.join("locks").join(format!("{id}.merge"))
    }

    /// Held by whoever brings the volume's data back from a backup.
    pub fn restore_lock(&self, id: VolumeId) -> PathBuf {
        self.root.join("locks").join(format!("{id}.restore"))
    }

    /// The lock on who refers to whom.
    pub fn graph_lock(&self) -> PathBuf {
        self.root.join("locks").join("graph")
    }

    /// Which volume a snapshot's name belongs to.
    pub fn snapshot_owner(&self, id: SnapshotId) -> PathBuf {
        self.root.join("snapshots").join(id.to_string())
    }

    /// One file a node.
    pub fn nodes(&self) -> PathBuf {
        self.root.join("nodes")
    }

    /// A node's registration.
    pub fn node(&self, id: &NodeId) -> PathBuf {
        self.nodes().join(format!("{id}.json"))
    }
}
