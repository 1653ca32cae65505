//! A snapshot on a share as the source of a backup: opened here, without the driver.

use super::workdir::{self, WorkDir};
use crate::agent::{AgentClient, CUT_LIMIT};
use crate::backup::{Changed, DataPoint, Origin, PinnedReader, SnapshotSource};
use crate::cli::driver::AgentTlsArgs;
use crate::cli::exit::Failure;
use crate::gluster::{self, Share, ShareKey, Source};
use crate::image::{ImageRef, ReadError};
use crate::qsd::LocalDaemons;
use crate::volume::{Error, Pinned, Policy, SnapshotHandle, Tools, VolumeView, Volumes};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};

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
pub(in crate::cli) struct PinnedSource {
    reader: PinnedReader,
    share: OpenShare,
}

/// A share that this command has opened for itself. The folder is dropped last: it goes only when nothing is
/// mounted in it.
pub(in crate::cli) struct OpenShare {
    /// The volumes on it.
    pub volumes: Volumes,
    share: Share,
    /// Drives the connections to nodes.
    runtime: Option<Runtime>,
    _folder: WorkDir,
}

impl OpenShare {
    /// Opens a share in a folder of this command's own. Blocks.
    pub fn open(source: &Source) -> Result<Self, Failure> {
        Self::open_under(source, Policy::default())
    }

    /// The same, with other limits than the usual ones.
    pub fn open_under(source: &Source, policy: Policy) -> Result<Self, Failure> {
        let folder = work_folder()?;
        let (share, findings) = gluster::open(source, &[], &folder.mounts()).map_err(Failure::failed)?;
        for finding in findings {
            tracing::warn!("{source}: {finding:?}");
        }
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(Failure::failed)?;
        let certificates = AgentTlsArgs::of_environment().map_err(Failure::usage)?;
        let agents = AgentClient::new(runtime.handle().clone(), CUT_LIMIT).with_certificates(certificates);
        let volumes = Volumes::new(share.clone(), tools(folder.path(), agents, policy));
        Ok(OpenShare { volumes, share, runtime: Some(runtime), _folder: folder })
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
        if let Some(runtime) = self.runtime.take() {
            // Nothing is asked any more. Waiting for it would be forbidden on an async thread.
            runtime.shutdown_background();
        }
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
        Self::pin(opened, "strata backup create", |volumes, owner| {
            volumes.pin_snapshot(handle.volume, handle.snapshot, owner)
        })
    }

    /// Pins what `pin` chooses, in the name of a verb. Blocks.
    pub fn pin(
        share: OpenShare,
        verb: &str,
        pin: impl FnOnce(&Volumes, &str) -> Result<Pinned, Error>,
    ) -> Result<Self, Failure> {
        let owner = format!("{verb}, process {}", std::process::id());
        let pinned = pin(&share.volumes, &owner).map_err(|e| match e {
            Error::VolumeNotFound { .. } | Error::SnapshotNotFound { .. } => {
                Failure { message: e.to_string(), code: 3 }
            }
            other => Failure::failed(other),
        })?;
        let reader = PinnedReader::open(Arc::new(pinned)).map_err(Failure::failed)?;
        Ok(PinnedSource { reader, share })
    }

    /// What is held.
    pub fn pinned(&self) -> &Pinned {
        self.reader.pinned()
    }

    /// The volume.
    pub fn volume(&self) -> &VolumeView {
        &self.pinned().volume
    }

    /// What is read, top first.
    pub fn chain(&self) -> &[ImageRef] {
        &self.pinned().chain
    }

    /// The program `qemu-img`.
    pub fn qemu_img(&self) -> PathBuf {
        self.share.volumes.tools().qemu_img.clone()
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
        self.reader.read_at(buffer, offset)
    }
    fn is_lost(&self) -> bool {
        self.reader.is_lost()
    }
    fn point(&self) -> Option<DataPoint> {
        self.reader.point()
    }
    fn origins(&self) -> Vec<Origin> {
        self.reader.origins()
    }
    fn changed_since(&self, earlier: &DataPoint) -> Result<Changed, ReadError> {
        self.reader.changed_since(earlier)
    }
}

/// As the driver's controller has them, but that daemons are this command's own.
fn tools(folder: &Path, agents: AgentClient, policy: Policy) -> Tools {
    let program = |variable: &str, name: &str| {
        std::env::var_os(variable).map_or_else(|| PathBuf::from(name), PathBuf::from)
    };
    let daemon = program("STRATA_QEMU_STORAGE_DAEMON", "qemu-storage-daemon");
    Tools {
        qemu_img: program("STRATA_QEMU_IMG", "qemu-img"),
        daemons: Arc::new(LocalDaemons::new(daemon, folder.join("daemons"))),
        agents: Arc::new(agents),
        policy,
    }
}
