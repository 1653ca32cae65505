//! How a volume may be used.

use crate::host::mount::{FsType, check_options};
use crate::rpc::csi::VolumeCapability;
use crate::rpc::csi::volume_capability::AccessType;
use crate::rpc::csi::volume_capability::access_mode::Mode;
use crate::volume::{Access, Purpose, Sharing};
use tonic::Status;

/// What an unset fs_type means.
const DEFAULT_FS: FsType = FsType::Ext4;

/// One way to use a volume that is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    /// What pods see.
    pub(super) access: Access,
    /// At how many paths of a node at a time.
    pub(super) sharing: Sharing,
    /// What a node is given it for.
    pub(super) purpose: Purpose,
}

/// Reads one capability; the error says what is not offered, and why.
fn read(capability: &VolumeCapability) -> Result<Usage, String> {
    let mode = capability.access_mode.ok_or("a volume capability without an access mode")?.mode();
    let (sharing, purpose) = match mode {
        // CSI leaves it to the orchestrator how many pods of the node SINGLE_NODE_WRITER means.
        Mode::SingleNodeWriter | Mode::SingleNodeMultiWriter => (Sharing::ManyTargets, Purpose::Write),
        Mode::SingleNodeSingleWriter => (Sharing::OneTarget, Purpose::Write),
        Mode::SingleNodeReaderOnly => (Sharing::ManyTargets, Purpose::ReadAlone),
        Mode::MultiNodeReaderOnly => (Sharing::ManyTargets, Purpose::Read),
        Mode::Unknown => return Err("a volume capability with an unknown access mode".to_owned()),
        Mode::MultiNodeSingleWriter | Mode::MultiNodeMultiWriter => {
            return Err(format!(
                "access mode {} is not possible: a volume is a disk image, which one node at a time may write to",
                mode.as_str_name()
            ));
        }
    };
    let access = access(capability)?;
    Ok(Usage { access, sharing, purpose })
}

fn access(capability: &VolumeCapability) -> Result<Access, String> {
    match &capability.access_type {
        None => Err("a volume capability with neither block nor mount".to_owned()),
        Some(AccessType::Block(_)) => Ok(Access::Block),
        Some(AccessType::Mount(mount)) => {
            if !mount.volume_mount_group.is_empty() {
                return Err("volume_mount_group is not offered: let the kubelet apply the fsGroup".to_owned());
            }
            let fs = match mount.fs_type.as_str() {
                "" => DEFAULT_FS,
                name => name.parse().map_err(|error| format!("{error}"))?,
            };
            check_options(&mount.mount_flags).map_err(|error| error.to_string())?;
            Ok(Access::Mount { fs, flags: mount.mount_flags.clone() })
        }
    }
}

/// The one capability of a call on a node or of an attachment.
pub(super) fn one(capability: Option<&VolumeCapability>) -> Result<Usage, Status> {
    let capability = capability.ok_or_else(|| Status::invalid_argument("a volume capability is missing"))?;
    read(capability).map_err(Status::invalid_argument)
}

/// The capabilities that a volume is to have all together.
pub(super) fn all(capabilities: &[VolumeCapability]) -> Result<(), Status> {
    if capabilities.is_empty() {
        return Err(Status::invalid_argument("volume capabilities are missing"));
    }
    unoffered(capabilities).map_or(Ok(()), |reason| Err(Status::invalid_argument(reason)))
}

/// Whether a new volume with these capabilities would never hold what they ask for: a filesystem that only readers see.
pub(super) fn stays_empty(capabilities: &[VolumeCapability]) -> bool {
    let reader_of_a_filesystem =
        |usage: Usage| usage.purpose != Purpose::Write && usage.access != Access::Block;
    capabilities.iter().all(|capability| read(capability).is_ok_and(reader_of_a_filesystem))
}

/// The filesystem that a volume with these capabilities has; none, if all that is wanted is its blocks.
pub(super) fn filesystem(capabilities: &[VolumeCapability]) -> Option<FsType> {
    capabilities.iter().find_map(|capability| match read(capability).ok()?.access {
        Access::Mount { fs, .. } => Some(fs),
        Access::Block => None,
    })
}

/// Why these capabilities cannot be had, if so.
pub(super) fn unoffered(capabilities: &[VolumeCapability]) -> Option<String> {
    capabilities.iter().find_map(|capability| read(capability).err())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::csi::volume_capability::{AccessMode, BlockVolume, MountVolume};
    use rstest::rstest;
    use tonic::Code;

    fn capability(mode: Mode, access: AccessType) -> VolumeCapability {
        VolumeCapability { access_mode: Some(AccessMode { mode: mode.into() }), access_type: Some(access) }
    }

    fn mount(fs: &str) -> AccessType {
        AccessType::Mount(MountVolume {
            fs_type: fs.to_owned(),
            mount_flags: vec!["noatime".to_owned()],
            volume_mount_group: String::new(),
        })
    }

    /// K2, K3 as far as this driver goes.
    #[rstest]
    #[case("", FsType::Ext4)]
    #[case("ext4", FsType::Ext4)]
    #[case("xfs", FsType::Xfs)]
    fn a_filesystem_is_offered(#[case] name: &str, #[case] fs: FsType) {
        let usage = one(Some(&capability(Mode::SingleNodeWriter, mount(name)))).unwrap();
        assert_eq!(usage.access, Access::Mount { fs, flags: vec!["noatime".to_owned()] });
    }

    #[test]
    fn a_raw_block_device_is_offered() {
        let block = AccessType::Block(BlockVolume {});
        assert_eq!(one(Some(&capability(Mode::SingleNodeWriter, block))).unwrap().access, Access::Block);
    }

    /// K2: one pod alone, or the pods of one node together.
    #[rstest]
    #[case(Mode::SingleNodeWriter, Sharing::ManyTargets)]
    #[case(Mode::SingleNodeMultiWriter, Sharing::ManyTargets)]
    #[case(Mode::SingleNodeSingleWriter, Sharing::OneTarget)]
    fn the_modes_of_one_node_are_offered(#[case] mode: Mode, #[case] sharing: Sharing) {
        assert_eq!(one(Some(&capability(mode, mount("")))).unwrap().sharing, sharing);
    }

    /// K2: readers on one node or on many; a filesystem that nobody could ever make is noticed.
    #[rstest]
    #[case(Mode::SingleNodeReaderOnly, Purpose::ReadAlone)]
    #[case(Mode::MultiNodeReaderOnly, Purpose::Read)]
    #[case(Mode::SingleNodeWriter, Purpose::Write)]
    fn readers_are_offered(#[case] mode: Mode, #[case] purpose: Purpose) {
        let (fs, block) = (capability(mode, mount("")), capability(mode, AccessType::Block(BlockVolume {})));
        assert_eq!(one(Some(&fs)).unwrap().purpose, purpose);
        assert_eq!(stays_empty(std::slice::from_ref(&fs)), purpose != Purpose::Write);
        assert!(!stays_empty(&[fs, block]));
    }

    #[rstest]
    #[case(Mode::MultiNodeMultiWriter, "one node")]
    #[case(Mode::MultiNodeSingleWriter, "one node")]
    #[case(Mode::Unknown, "unknown")]
    fn other_modes_are_refused_with_the_reason(#[case] mode: Mode, #[case] reason: &str) {
        let status = one(Some(&capability(mode, mount("")))).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(reason), "{}", status.message());
    }

    /// K3: what the kubelet adds for a pod with a label is taken; what would be a second option is not.
    #[rstest]
    #[case(r#"context="system_u:object_r:container_file_t:s0:c1,c2""#, true)]
    #[case("noatime,exec", false)]
    #[case("", false)]
    fn mount_flags_are_one_option_each(#[case] flag: &str, #[case] offered: bool) {
        let mount = MountVolume { mount_flags: vec![flag.to_owned()], ..Default::default() };
        let usage = one(Some(&capability(Mode::SingleNodeSingleWriter, AccessType::Mount(mount))));
        match usage {
            Ok(usage) => assert_eq!(
                (offered, usage.access),
                (true, Access::Mount { fs: FsType::Ext4, flags: vec![flag.to_owned()] })
            ),
            Err(status) => assert_eq!((offered, status.code()), (false, Code::InvalidArgument)),
        }
    }

    #[test]
    fn what_is_missing_or_unknown_is_refused() {
        assert!(one(None).is_err());
        assert!(one(Some(&VolumeCapability::default())).is_err());
        assert!(one(Some(&capability(Mode::SingleNodeWriter, mount("ntfs")))).is_err());
        assert!(all(&[]).is_err());
    }
}
