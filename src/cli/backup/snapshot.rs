//! A snapshot on a share as the source of a backup: opened here, without the driver.

use crate::backup::SnapshotSource;
use crate::cli::exit::Failure;
use crate::gluster::{self, Share, Source};
use crate::image::{ChainReader, ReadError};
use crate::qsd::LocalDaemons;
use crate::volume::{
    AgentError, Agents, CutOrder, CutReport, Error, NodeId, OpenImage, Pinned, SnapshotHandle, SnapshotView,
    Tools, VolumeId, VolumeView, Volumes,
};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// Mounts of commands, apart from the driver's own.
const MOUNT_DIR: &str = "/run/strata/commands";

/// A pinned snapshot. Fields are dropped in this order: nothing is unpinned while it can still be
/// read, nor unmounted while it is pinned.
pub(super) struct PinnedSource {
    reader: ChainReader,
    pinned: Pinned,
    _share: OpenShare,
}

struct OpenShare {
    share: Share,
    folder: PathBuf,
}

impl Drop for OpenShare {
    fn drop(&mut self) {
        if let Err(error) = gluster::close(&self.share) {
            tracing::warn!(%error, "the share stays mounted");
            return;
        }
        // What the mount left there is this command's own: logs and empty mount points.
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, "{} stays", self.folder.display());
        }
    }
}

impl PinnedSource {
    /// Opens the share and pins the snapshot. Blocks.
    pub fn open(handle: &SnapshotHandle, source: &Source) -> Result<Self, Failure> {
        let folder = Path::new(MOUNT_DIR).join(Uuid::new_v4().to_string());
        fs::create_dir_all(&folder).map_err(|e| Failure::failed(format!("{}: {e}", folder.display())))?;
        let opened = gluster::open(source, &[], &folder.join("mounts"));
        let (share, findings) = match opened {
            Ok(opened) => opened,
            Err(e) => {
                // Empty unless a mount is stuck, and then it must stay.
                let _ = fs::remove_dir(folder.join("mounts")).and_then(|()| fs::remove_dir(&folder));
                return Err(Failure::failed(e));
            }
        };
        let opened = OpenShare { share: share.clone(), folder: folder.clone() };
        for finding in findings {
            tracing::warn!("{source}: {finding:?}");
        }
        if share.key != handle.share {
            let reason =
                format!("{handle} lies on the share {}, but {source} is {}", handle.share, share.key);
            return Err(Failure::usage(reason));
        }
        let volumes = Volumes::new(share, tools(&folder));
        let owner = format!("strata backup create, process {}", std::process::id());
        let pinned = volumes.pin_snapshot(handle.volume, handle.snapshot, &owner).map_err(|e| match e {
            Error::VolumeNotFound { .. } | Error::SnapshotNotFound { .. } => {
                Failure { message: e.to_string(), code: 3 }
            }
            other => Failure::failed(other),
        })?;
        let reader = ChainReader::open(&pinned.chain).map_err(Failure::failed)?;
        Ok(PinnedSource { reader, pinned, _share: opened })
    }

    /// The snapshot's volume.
    pub fn volume(&self) -> &VolumeView {
        &self.pinned.volume
    }

    /// The snapshot.
    pub fn snapshot(&self) -> &SnapshotView {
        &self.pinned.snapshot
    }
}

impl SnapshotSource for PinnedSource {
    fn size(&self) -> u64 {
        self.reader.size()
    }
    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        self.reader.data_ranges(range)
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), ReadError> {
        SnapshotSource::read_at(&self.reader, buffer, offset)
    }
}

/// Pinning asks no node and starts no daemon; it may have to settle a merge that was interrupted.
fn tools(folder: &Path) -> Tools {
    let program = |variable: &str, name: &str| {
        std::env::var_os(variable).map_or_else(|| PathBuf::from(name), PathBuf::from)
    };
    let daemon = program("STRATA_QEMU_STORAGE_DAEMON", "qemu-storage-daemon");
    Tools {
        qemu_img: program("STRATA_QEMU_IMG", "qemu-img"),
        daemons: Arc::new(LocalDaemons::new(daemon, folder.join("daemons"))),
        agents: Arc::new(NoAgents),
    }
}

/// A command has no certificate to speak to nodes with.
struct NoAgents;

impl NoAgents {
    fn refuse<T>(&self, node: &NodeId) -> Result<T, AgentError> {
        Err(AgentError::Unreachable {
            reason: format!("a command does not speak to nodes (asked for {node})"),
        })
    }
}

impl Agents for NoAgents {
    fn cut(&self, node: &NodeId, _: &str, _: &CutOrder) -> Result<CutReport, AgentError> {
        self.refuse(node)
    }
    fn status(
        &self,
        node: &NodeId,
        _: &str,
        _: &gluster::ShareKey,
        _: VolumeId,
        _: u64,
    ) -> Result<Option<OpenImage>, AgentError> {
        self.refuse(node)
    }
    fn release(&self, node: &NodeId, _: &str, _: &gluster::ShareKey, _: VolumeId) -> Result<(), AgentError> {
        self.refuse(node)
    }
}
