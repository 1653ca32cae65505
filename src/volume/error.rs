//! What can go wrong with a volume. Which gRPC code each variant becomes is `csi/code.rs`'s table.

use super::agents::AgentError;
use super::id::{NodeId, SnapshotId, VolumeId};
use super::record::FailureKind;
use super::room::Capacity;
use crate::attach::AttachError;
use crate::gluster::Source;
use crate::host::freeze::FreezeError;
use crate::host::fsio::FsError;
use crate::host::growfs::GrowError;
use crate::host::mkfs::MkfsError;
use crate::host::mount::MountError;
use crate::image::header::HeaderError;
use crate::image::lock::LockError;
use crate::image::qemu_img::QemuImgError;
use crate::qsd;
use crate::qsd::command::CommandError;
use crate::qsd::qmp::QmpError;
use snafu::Snafu;
use std::path::PathBuf;

/// Why a domain call did not do its work. Nothing is half done: what was begun is journaled.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(crate)))]
pub enum Error {
    /// No such volume, or one that was deleted.
    #[snafu(display("volume {volume} does not exist"))]
    VolumeNotFound { volume: VolumeId },
    /// No such snapshot.
    #[snafu(display("snapshot {snapshot} of volume {volume} does not exist"))]
    SnapshotNotFound { volume: VolumeId, snapshot: SnapshotId },
    /// A handle of a share that this driver was not given.
    #[snafu(display("share {share} is not mounted here: add its source to the driver's list of shares"))]
    ShareNotFound { share: String },
    /// Its mount point is there, and nothing is mounted on it.
    #[snafu(display("share {share} is not mounted any more, or its .strata/share.json is gone"))]
    ShareAway { share: Source },
    /// A node that never registered.
    #[snafu(display("node {node} is not registered on the share: is its node plugin running?"))]
    NodeNotFound { node: NodeId },
    /// Two machines by one name.
    #[snafu(display(
        "another machine goes by the node name {node} (host {host}, agent {agent}): give each machine its own --node-id; \
         if that one is gone, its name is free after 90 s"
    ))]
    NodeTaken { node: NodeId, host: String, agent: String },
    /// The name is in use for something else.
    #[snafu(display("{name:?} exists already and differs: {difference}"))]
    NameTaken { name: String, difference: String },
    /// Somebody else works on the volume.
    #[snafu(display(
        "volume {volume} is busy: another operation holds its lock; it will be free when that ends"
    ))]
    Busy { volume: VolumeId },
    /// Work goes on in the background; the same call later finds it done.
    #[snafu(display("volume {volume}: {doing}; ask again"))]
    Pending { volume: VolumeId, doing: String },
    /// The last try to bring it back from a backup failed; it is not tried again yet.
    #[snafu(display("volume {volume} could not be restored: {message}"))]
    RestoreFailed { volume: VolumeId, kind: FailureKind, message: String },
    /// A second writer.
    #[snafu(display("volume {volume} is attached to node {node} for writing; detach it there first"))]
    AttachedElsewhere { volume: VolumeId, node: NodeId },
    /// Readers, where they cannot be.
    #[snafu(display(
        "volume {volume} is attached to node {node} for reading, and it has one writer or many readers; detach it there first"
    ))]
    ReadElsewhere { volume: VolumeId, node: NodeId },
    /// Staging without an attachment.
    #[snafu(display("volume {volume} is not published to node {node}: ControllerPublishVolume comes first"))]
    NotPublished { volume: VolumeId, node: NodeId },
    /// The volume's state forbids it.
    #[snafu(display("volume {volume}: {reason}"))]
    Precondition { volume: VolumeId, reason: String },
    /// An image is open in a process that the record does not know of.
    #[snafu(display("{} is open in another process, which holds its image lock", file.display()))]
    ImageInUse { file: PathBuf },
    /// The node that has the volume open cannot be asked.
    #[snafu(display("node {node}, which has volume {volume} open, cannot be asked: {source}"))]
    NodeUnreachable { volume: VolumeId, node: NodeId, source: AgentError },
    /// The node that has the volume open was asked, and failed.
    #[snafu(display("node {node}, which has volume {volume} open, failed: {source}"))]
    NodeFailed { volume: VolumeId, node: NodeId, source: AgentError },
    /// A call on a volume that this node does not have staged, or not there.
    #[snafu(display(
        "volume {volume} is not staged at that path on node {node}: NodeStageVolume comes first"
    ))]
    NotStaged { volume: VolumeId, node: NodeId },
    /// As many volumes as it may have.
    #[snafu(display(
        "node {node} has {limit} volumes, which is its limit: unstage one first (see --max-volumes)"
    ))]
    NodeFull { node: NodeId, limit: usize },
    /// A record that fails its checks. Never replaced by itself.
    #[snafu(display(
        "the record of volume {volume} is damaged: {reason}; nothing was changed; `strata volume check --repair` rebuilds it from the images"
    ))]
    DamagedRecord { volume: VolumeId, reason: String },
    /// The lock was lost, or somebody wrote the record without it.
    #[snafu(display(
        "volume {volume}: the lock on its record was lost ({reason}); nothing more was changed"
    ))]
    Fenced { volume: VolumeId, reason: String },
    /// No share with enough room.
    #[snafu(display("no share has {needed} bytes of room; the roomiest has {free}"))]
    NoRoom { needed: u64, free: u64 },
    /// More than the share can hold, or may promise.
    #[snafu(display(
        "{needed} bytes are asked for, and the share has no such room: {capacity} (see --oversubscription and --reserve)"
    ))]
    Full { needed: u64, capacity: Capacity },
    /// No share at all.
    #[snafu(display("no share is mounted"))]
    NoShare,
    /// A chain at its limit.
    #[snafu(display(
        "volume {volume}: its chain would have {depth} layers, and {limit} is the most: delete snapshots or clones, and it gets shorter in the background"
    ))]
    TooDeep { volume: VolumeId, depth: usize, limit: usize },
    /// A size that cannot be had.
    #[snafu(display("{reason}"))]
    OutOfRange { reason: String },
    /// An argument that makes no sense.
    #[snafu(display("{reason}"))]
    Invalid { reason: String },
    /// The file system said no.
    #[snafu(display("cannot {doing} {}: {source}", path.display()))]
    Io { doing: &'static str, path: PathBuf, source: std::io::Error },
    /// A file could not be written whole.
    #[snafu(display("{source}"), context(false))]
    File { source: FsError },
    /// An image's header is not what the record says.
    #[snafu(display("{source}"))]
    ImageHeader { source: HeaderError },
    /// An image could not be made or changed.
    #[snafu(display("{source}"))]
    QemuImg { source: QemuImgError },
    /// It is there, but not as asked for.
    #[snafu(display("volume {volume}: {reason}"))]
    Incompatible { volume: VolumeId, reason: String },
    /// An image is in use where it must not be, or its lock cannot be had.
    #[snafu(display("{source}"))]
    ImageLock { source: LockError },
    /// A storage daemon could not be started or stopped.
    #[snafu(display("{source}"), context(false))]
    Daemon { source: qsd::DaemonError },
    /// A storage daemon was not reached.
    #[snafu(display("{source}"), context(false))]
    Qmp { source: QmpError },
    /// A storage daemon refused a command.
    #[snafu(display("{source}"), context(false))]
    Command { source: CommandError },
    /// The image did not become a block device.
    #[snafu(display("{source}"), context(false))]
    Attach { source: AttachError },
    /// A mount failed.
    #[snafu(display("{source}"), context(false))]
    Mount { source: MountError },
    /// A filesystem could not be looked for or made.
    #[snafu(display("{source}"), context(false))]
    Mkfs { source: MkfsError },
    /// A filesystem could not be grown.
    #[snafu(display("{source}"), context(false))]
    Grow { source: GrowError },
    /// A filesystem could not be frozen.
    #[snafu(display("{source}"), context(false))]
    Freeze { source: FreezeError },
}

impl Error {
    /// Attaches what was being done, and to which path, to an I/O error.
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { doing, path, source }
    }
}
