//! What a node knows of its own staged volumes: enough to let go of them with the share dead.

use super::error::Error;
use super::id::{VolumeHandle, VolumeId};
use super::references::list_ids;
use super::store::{read_if_exists, remove_file};
use super::target::Sharing;
use crate::gluster::ShareKey;
use crate::host::fsio;
use serde::{Deserialize, Serialize};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A volume on this node, written before the first effect and removed after the last is undone. What a newer version added
/// is passed over, and lost with the next change: a node that went back lets go of its volumes all the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Local {
    /// The layout of this file.
    pub(super) schema: u32,
    /// Share and volume.
    pub(super) handle: VolumeHandle,
    /// The volume's folder on the share.
    pub(super) folder: PathBuf,
    /// The attachment's epoch.
    pub(super) epoch: u64,
    /// Where it is staged.
    pub(super) staging_path: PathBuf,
    /// The filesystem that is mounted there; None in block mode.
    pub(super) filesystem: Option<String>,
    /// The mount options that were asked for; None: staged before they were kept here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mount_options: Option<Vec<String>>,
    /// The daemon process that was started for it.
    pub(super) daemon_instance: Option<String>,
    /// The block device.
    pub(super) device: Option<PathBuf>,
    /// The volume is here to be read only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) reader: bool,
    /// NodeStage has answered OK: from here on pods may use it.
    pub(super) staged: bool,
    /// A cut has frozen the filesystem, or is about to.
    pub(super) freezing: bool,
    /// Where pods have it.
    pub(super) targets: Vec<PathBuf>,
    /// Whether it may have more of them.
    #[serde(default, skip_serializing_if = "Sharing::is_default")]
    pub(super) sharing: Sharing,
    /// Its filesystem was mounted without the right to write: then that is no sign of errors.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) mounted_read_only: bool,
}

/// The node's folder of such files: one a volume, beside the folder that its device works in.
#[derive(Clone, Debug)]
pub(super) struct LocalStore {
    dir: PathBuf,
}

impl LocalStore {
    pub(super) fn new(dir: PathBuf) -> Self {
        LocalStore { dir }
    }

    fn folder(&self, share: &ShareKey) -> PathBuf {
        self.dir.join(share.as_str())
    }

    /// Where the volume's block device is made.
    pub(super) fn work_dir(&self, handle: &VolumeHandle) -> PathBuf {
        self.folder(&handle.share).join(handle.volume.to_string())
    }

    fn file(&self, handle: &VolumeHandle) -> PathBuf {
        self.work_dir(handle).join("state.json")
    }

    pub(super) fn load(&self, handle: &VolumeHandle) -> Result<Option<Local>, Error> {
        let path = self.file(handle);
        let Some(bytes) = read_if_exists(&path).map_err(Error::io("read", &path))? else { return Ok(None) };
        let parsed = serde_json::from_slice(&bytes).map_err(std::io::Error::from);
        parsed.map(Some).map_err(Error::io("parse", path))
    }

    pub(super) fn save(&self, local: &Local) -> Result<(), Error> {
        let folder = self.work_dir(&local.handle);
        let made = std::fs::DirBuilder::new().mode(0o700).recursive(true).create(&folder);
        made.map_err(Error::io("make the folder", folder))?;
        let bytes = serde_json::to_vec_pretty(local).map_err(std::io::Error::from);
        let path = self.file(&local.handle);
        Ok(fsio::write_atomic(&path, &bytes.map_err(Error::io("write", &path))?)?)
    }

    pub(super) fn remove(&self, handle: &VolumeHandle) -> Result<(), Error> {
        remove_file(&self.file(handle))?;
        let folder = self.work_dir(handle);
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove the folder", folder)(error))
            }
            _ => Ok(()),
        }
    }

    /// Every volume that this node knows of.
    pub(super) fn list(&self) -> Result<Vec<VolumeHandle>, Error> {
        let mut handles = Vec::new();
        for share in list_ids::<ShareKey>(&self.dir)? {
            let volumes: Vec<VolumeId> = list_ids(&self.folder(&share))?;
            handles.extend(volumes.into_iter().map(|volume| VolumeHandle { share: share.clone(), volume }));
        }
        Ok(handles)
    }
}

/// Whether a path is absolute and has no `..`, as everything that becomes a mount point must be.
pub(super) fn plain_absolute(path: &Path) -> bool {
    path.is_absolute() && path.components().all(|part| part != std::path::Component::ParentDir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// What NodeUnstage of a version that was rolled back to finds.
    #[test]
    fn a_note_that_a_newer_version_wrote_more_into_is_read_and_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::new(dir.path().to_owned());
        let handle: VolumeHandle = format!("s1/{}", uuid::Uuid::nil()).parse().unwrap();
        let newer = json!({
            "schema": 1, "handle": handle.to_string(), "folder": "/share/volumes/x", "epoch": 1,
            "staging_path": "/staging", "filesystem": "ext4", "daemon_instance": null, "device": null,
            "staged": true, "freezing": false, "targets": ["/pod"], "later": {"x": [1]},
        });
        std::fs::create_dir_all(store.work_dir(&handle)).unwrap();
        std::fs::write(store.file(&handle), newer.to_string()).unwrap();
        let read = store.load(&handle).unwrap().unwrap();
        assert_eq!((read.staging_path.as_path(), read.targets.len()), (Path::new("/staging"), 1));
        store.save(&read).unwrap();
        let written: Value = serde_json::from_slice(&std::fs::read(store.file(&handle)).unwrap()).unwrap();
        assert_eq!((&written["epoch"], written.get("later")), (&json!(1), None));
    }
}
