//! A snapshot on a share as the source of a backup: opened here, without the driver.

use super::workdir::{self, WorkDir};
use crate::backup::SnapshotSource;
use crate::cli::exit::Failure;
use crate::gluster::{self, Share, ShareKey, Source};
use crate::image::{ChainReader, ReadError};
use crate::qsd::LocalDaemons;
use crate::volume::{
    AgentError, Agents, CutOrder, CutReport, Error, NodeId, OpenImage, Pinned, Policy, SnapshotHandle,
    SnapshotView, Tools, VolumeId, VolumeView, Volumes,
};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Mounts of commands, apart from the driver's own.
const MOUNT_DIR: &str = "/run/strata/commands";

/// A folder of this command's own, to mount a share in.
pub(in crate::cli) fn work_folder() -> Result<WorkDir, Failure> {
    let base = Path::new(MOUNT_DIR);
    if let Err(error) = workdir::sweep(base) {
        tracing::warn!(%error, "what commands that were killed have left mounted stays");
    }
    WorkDir::make(base).map_err(Failure::failed)
}

/// A pinned snapshot. Fields are dropped in this order: nothing is unpinned while it can still be
/// read, nor unmounted while it is pinned.
pub(super) struct PinnedSource {
    reader: ChainReader,
    pinned: Pinned,
    _share: OpenShare,
}

/// A share that this command has opened for itself. The folder is dropped last: it goes only when nothing is
/// mounted in it.
pub(in crate::cli) struct OpenShare {
    /// The volumes on it.
    pub volumes: Volumes,
    share: Share,
    _folder: WorkDir,
}

impl OpenShare {
    /// Opens a share in a folder of this command's own. Blocks.
    pub fn open(source: &Source) -> Result<Self, Failure> {
        let folder = work_folder()?;
        let (share, findings) = gluster::open(source, &[], &folder.mounts()).map_err(Failure::failed)?;
        for finding in findings {
            tracing::warn!("{source}: {finding:?}");
        }
        let volumes = Volumes::new(share.clone(), tools(folder.path()));
        Ok(OpenShare { volumes, share, _folder: folder })
    }

    /// Whether a handle is of this share.
    pub fn expect(&self, handle: &impl std::fmt::Display, key: &ShareKey) -> Result<(), Failure> {
        let Share { key: found, source, .. } = &self.share;
        let reason = || format!("{handle} lies on the share {key}, but {source} is {found}");
        if found == key { Ok(()) } else { Err(Failure::usage(reason())) }
    }
}

impl Drop for OpenShare {
    fn drop(&mut self) {
        if let Err(error) = gluster::close(&self.share) {
            tracing::warn!(%error, "the share stays mounted until the next command");
        }
    }
}

impl PinnedSource {
    /// Opens the share and pins the snapshot. Blocks.
    pub fn open(handle: &SnapshotHandle, source: &Source) -> Result<Self, Failure> {
        let opened = OpenShare::open(source)?;
        opened.expect(handle, &handle.share)?;
        let volumes = &opened.volumes;
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
    fn is_lost(&self) -> bool {
        self.pinned.is_lost()
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
        policy: Policy::default(),
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
