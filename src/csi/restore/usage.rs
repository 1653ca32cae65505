//! What a volume is used as. It is kept with the volume's parameters, goes into each backup with them, and is held
//! against what is asked for when a backup is restored (B10).

use crate::backup::BackupPoint;
use crate::csi::capability;
use crate::rpc::csi::VolumeCapability;
use crate::volume::{BackupHandle, Writer};
use std::collections::BTreeMap;
use tonic::Status;

/// `block` or `filesystem`.
const MODE: &str = "strata.dev/mode";
/// Which filesystem.
const FILESYSTEM: &str = "strata.dev/filesystem";
/// What a parameter is called in a backup's metadata.
const IN_BACKUPS: &str = "strata.parameter.";

/// What tells what the volume is asked for as. No key of a class is called like this.
pub(in crate::csi) fn parameters(capabilities: &[VolumeCapability]) -> BTreeMap<String, String> {
    let pairs = match capability::filesystem(capabilities) {
        Some(fs) => vec![(MODE, "filesystem".to_owned()), (FILESYSTEM, fs.to_string())],
        None => vec![(MODE, "block".to_owned())],
    };
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Refuses to mount what is known to be no such filesystem. Any backup can be had as a block device; Cinder's say nothing.
pub(in crate::csi) fn fits(
    handle: &BackupHandle,
    point: &BackupPoint,
    capabilities: &[VolumeCapability],
) -> Result<(), Status> {
    let told = |key: &str| point.metadata.get(&format!("{IN_BACKUPS}{key}")).map(String::as_str);
    let Some(wanted) = capability::filesystem(capabilities).filter(|_| handle.writer == Writer::Strata)
    else {
        return Ok(());
    };
    let refused = |is: String| {
        Err(Status::invalid_argument(format!(
            "{handle} is {is}, and a volume with the filesystem {wanted} was asked for: ask for what it is, or for a block \
             volume"
        )))
    };
    match (told(MODE), told(FILESYSTEM)) {
        (Some("block"), _) => refused("that of a block volume".to_owned()),
        (_, Some(filesystem)) if filesystem != wanted.to_string() => {
            refused(format!("that of an {filesystem}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::csi::volume_capability::access_mode::Mode;
    use crate::rpc::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
    use rstest::rstest;
    use uuid::Uuid;

    fn capability(fs: Option<&str>) -> Vec<VolumeCapability> {
        let access = match fs {
            None => AccessType::Block(BlockVolume {}),
            Some(fs) => AccessType::Mount(MountVolume { fs_type: fs.to_owned(), ..Default::default() }),
        };
        let access_mode = Some(AccessMode { mode: Mode::SingleNodeWriter.into() });
        vec![VolumeCapability { access_mode, access_type: Some(access) }]
    }

    /// B10: what was backed up as one thing is not mounted as another.
    #[rstest]
    #[case(Some("ext4"), Some("ext4"), true)]
    #[case(Some(""), Some("ext4"), true)]
    #[case(Some("ext4"), Some("xfs"), false)]
    #[case(Some("ext4"), None, true)]
    #[case(None, None, true)]
    #[case(None, Some("xfs"), false)]
    fn a_backup_is_held_against_what_is_asked_for(
        #[case] was: Option<&str>,
        #[case] wanted: Option<&str>,
        #[case] fine: bool,
    ) {
        let kept = parameters(&capability(was)).into_iter();
        let metadata = kept.map(|(key, value)| (format!("strata.parameter.{key}"), value)).collect();
        let point = BackupPoint { bytes: 1, created_at: None, metadata };
        let nothing = BackupPoint { metadata: BTreeMap::new(), ..point.clone() };
        let handle = |scheme: &str| format!("{scheme}://r/{0}/{0}", Uuid::nil()).parse().unwrap();
        assert_eq!(fits(&handle("bak"), &point, &capability(wanted)).is_ok(), fine);
        fits(&handle("cinder"), &point, &capability(wanted)).unwrap();
        fits(&handle("bak"), &nothing, &capability(wanted)).unwrap();
    }
}
