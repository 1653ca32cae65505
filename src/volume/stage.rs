//! The node's side: an image becomes a block device, gets its filesystem, and is mounted for pods.

use super::chain::images;
use super::error::*;
use super::first_use::History;
use super::id::{NodeId, VolumeHandle, VolumeId};
use super::local::{Local, LocalStore, plain_absolute};
use super::record::{Role, State};
use super::slots::Slots;
use super::stats::Looks;
use super::steps::{Step, reached};
use super::target::Sharing;
use super::volumes::Volumes;
use crate::attach::{self, Backend};
use crate::host::mkfs::Formatter;
use crate::host::mount::{FsType, Mounter};
use crate::qsd::command::{self, Open};
use crate::qsd::qmp::Client;
use crate::qsd::{DaemonHost, DaemonName};
use snafu::{OptionExt, ensure};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

pub(super) const REACH: Duration = Duration::from_secs(10);
/// How long an operation waits for another one on the same volume of this node.
const TURN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Prefix of the node names of a volume's chain.
pub(super) const PREFIX: &str = "v";

/// How pods see a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// As a mounted filesystem.
    Mount {
        /// Made at first use.
        fs: FsType,
        /// Mount options, one each.
        flags: Vec<String>,
    },
    /// As a raw block device.
    Block,
}

/// A volume to be staged.
#[derive(Clone, Debug)]
pub struct StageVolume {
    /// The volume.
    pub volume: VolumeId,
    /// Where its filesystem is mounted for all pods of the node. A folder that is there.
    pub staging_path: PathBuf,
    /// How pods see it.
    pub access: Access,
}

/// What a node needs.
#[derive(Clone)]
pub struct StagingParts {
    /// This node.
    pub node: NodeId,
    /// Node-local state.
    pub dir: PathBuf,
    /// Runs the storage daemons.
    pub daemons: Arc<dyn DaemonHost>,
    /// Makes block devices.
    pub backend: Arc<dyn Backend>,
    /// Mounts.
    pub mounter: Arc<dyn Mounter>,
    /// Makes filesystems.
    pub formatter: Arc<dyn Formatter>,
}

/// The volumes of one node.
pub struct Staging {
    pub(super) parts: StagingParts,
    pub(super) local: LocalStore,
    /// One operation on a volume at a time, and cuts between them.
    busy: Mutex<HashMap<VolumeHandle, Arc<Mutex<()>>>>,
    pub(super) slots: Slots,
    pub(super) looks: Looks,
}

/// An image that became a block device.
pub(super) struct Opened {
    pub(super) local: Local,
    pub(super) device: attach::Device,
    /// What the record told of it before.
    pub(super) history: History,
}

/// The name of the daemon that has a volume open on its node.
pub(super) fn daemon_name(volume: &VolumeHandle) -> DaemonName {
    DaemonName::of("volume", volume.share.as_str(), volume.volume.uuid())
}

/// Not for ever: whoever has the turn may hang on a dead share, and each that waits holds a thread.
fn wait_for_turn(turn: &Mutex<()>) -> Option<MutexGuard<'_, ()>> {
    let deadline = Instant::now() + TURN;
    loop {
        match turn.try_lock() {
            Ok(guard) => return Some(guard),
            // A panic of an earlier holder left nothing in here that could be half done.
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOOK_AGAIN),
            Err(TryLockError::WouldBlock) => return None,
        }
    }
}

impl Staging {
    /// A node's volumes.
    pub fn new(parts: StagingParts) -> Self {
        let local = LocalStore::new(parts.dir.clone());
        Staging { parts, local, busy: Mutex::default(), slots: Slots::default(), looks: Looks::default() }
    }

    /// Runs alone on one volume.
    pub(super) fn alone<T>(
        &self,
        handle: &VolumeHandle,
        work: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let turn = {
            let mut busy = self.busy.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            busy.entry(handle.clone()).or_default().clone()
        };
        let _turn = wait_for_turn(&turn).context(BusySnafu { volume: handle.volume })?;
        work()
    }

    /// Opens a volume on this node and mounts it at its staging path. Staged there already: success.
    pub fn stage(&self, volumes: &Volumes, request: &StageVolume) -> Result<(), Error> {
        ensure!(
            plain_absolute(&request.staging_path),
            InvalidSnafu { reason: format!("{} is no absolute path", request.staging_path.display()) }
        );
        let handle = volumes.handle(request.volume);
        // An operation that was broken off may have to ask this very node, which answers only while nobody else
        // works on the volume here.
        if !self.alone(&handle, || self.is_staged(&handle, request))? {
            volumes.settle(request.volume)?;
        }
        self.alone(&handle, || {
            if self.is_staged(&handle, request)? {
                return Ok(());
            }
            // What an earlier try left behind, or what a daemon that died left: no pod uses it any more.
            self.close(&handle)?;
            let _slot = self.take_slot(&handle)?;
            let opened = self.open(volumes, request);
            let staged = opened.and_then(|opened| self.present(volumes, request, opened));
            if staged.is_err()
                && let Err(error) = self.close(&handle)
            {
                tracing::warn!(volume = %handle, %error, "a volume that could not be staged was not closed");
            }
            staged
        })
    }

    /// Opens the active image in a daemon, under the volume's lock from the look at the record to the note in it.
    fn open(&self, volumes: &Volumes, request: &StageVolume) -> Result<Opened, Error> {
        let volume = request.volume;
        let _sources = volumes.hold_sources(volume)?;
        // Whatever of it this node had open was closed above.
        let mut locked = volumes.lock_on(volume, &self.parts.node)?;
        let node = &self.parts.node;
        ensure!(locked.record.state != State::Deleted, VolumeNotFoundSnafu { volume });
        let published = locked.record.attachments.iter().find(|attachment| attachment.node == *node);
        let role = published.context(NotPublishedSnafu { volume, node: node.clone() })?.role;
        ensure!(
            locked.record.state == State::Ready,
            PreconditionSnafu { volume, reason: format!("it is {:?}, not ready", locked.record.state) }
        );
        locked.stop_merge()?;
        let active = locked.record.active.context(VolumeNotFoundSnafu { volume })?;
        let chain = volumes.chain(&locked.record, active)?;
        volumes.verify(&chain)?;
        let (history, epoch) = (History::of(&locked.record), locked.record.epoch + 1);
        if history == History::Untouched && request.access != Access::Block {
            self.nobody_wrote_past_us(volume, &chain)?;
        }
        let mut local = Local {
            schema: 1,
            handle: volumes.handle(volume),
            folder: volumes.layout().volume(volume),
            epoch,
            staging_path: request.staging_path.clone(),
            filesystem: None,
            mount_options: Some(request.access.mount_options()),
            daemon_instance: None,
            device: None,
            reader: role == Role::Reader,
            staged: false,
            freezing: false,
            targets: Vec::new(),
            sharing: Sharing::default(),
            mounted_read_only: false,
        };
        self.local.save(&local)?;
        let daemon = self.parts.daemons.start(&daemon_name(&local.handle))?;
        local.daemon_instance = Some(daemon.instance.clone());
        self.local.save(&local)?;
        let mut client = Client::connect(&daemon.qmp_socket, REACH)?;
        let top = match role {
            Role::Reader => self.open_to_read(volumes, &mut client, &local, &chain, &request.access)?,
            Role::Writer => command::add_chain(&mut client, PREFIX, &images(&chain), Open::ReadWrite)?,
        };
        drop(client);
        reached(Step::StageDaemonStarted);
        locked.record.epoch = epoch;
        for attachment in locked.record.attachments.iter_mut().filter(|a| a.node == *node) {
            attachment.opened = Some(epoch);
            attachment.reads = local.reader.then_some(active);
        }
        locked.commit()?;
        reached(Step::StageOpened);
        // Still under the lock: QEMU locks a raw image only when its export can write to it, and until then a
        // detached cut would not see us.
        let work_dir = self.local.work_dir(&local.handle);
        let access = attach::Access { readonly: local.reader && request.access == Access::Block };
        let device = self.parts.backend.attach(&daemon, &top, &work_dir, access)?;
        local.device = Some(device.path.clone());
        self.local.save(&local)?;
        reached(Step::StageAttached);
        Ok(Opened { local, device, history })
    }

    /// Makes and mounts the filesystem, or hands the device out as it is.
    fn present(&self, volumes: &Volumes, request: &StageVolume, opened: Opened) -> Result<(), Error> {
        if opened.local.reader {
            return self.present_to_read(request, opened);
        }
        let volume = request.volume;
        let Opened { mut local, device, history } = opened;
        match &request.access {
            Access::Block => {
                // Before the device is handed out: what a pod writes to it must never look new.
                self.no_longer_new(volumes, volume, history)?;
            }
            Access::Mount { fs, flags } => {
                self.format(volume, &device.path, *fs, history)?;
                self.grow_before_mount(volume, &device.path, *fs)?;
                self.parts.mounter.mount(&device.path, &request.staging_path, *fs, flags)?;
                reached(Step::StageMounted);
                let mounted = self.parts.mounter.find(&request.staging_path)?;
                local.mounted_read_only = mounted.is_some_and(|mount| mount.read_only());
                // From here on the mount holds the device: it goes with it, whatever becomes of us.
                self.parts.backend.release_with_mount(&device)?;
                self.no_longer_new(volumes, volume, history)?;
                self.grow_after_mount(&device.path, &request.staging_path, *fs)?;
                local.filesystem = Some(fs.name().to_owned());
            }
        }
        local.staged = true;
        self.local.save(&local)
    }

    fn no_longer_new(&self, volumes: &Volumes, volume: VolumeId, history: History) -> Result<(), Error> {
        if history.is_new() {
            let mut locked = volumes.lock_settled(volume)?;
            locked.record.new = false;
            locked.commit()?;
        }
        Ok(())
    }

    /// Unmounts a volume and closes its image. Not staged: success. Works with the share dead: what the
    /// record says of the attachment is put right by whoever asks this node next.
    pub fn unstage(&self, handle: &VolumeHandle, staging_path: &Path) -> Result<(), Error> {
        ensure!(
            plain_absolute(staging_path),
            InvalidSnafu { reason: format!("{} is no absolute path", staging_path.display()) }
        );
        self.alone(handle, || {
            if let Some(local) = self.local.load(handle)? {
                let (volume, targets) = (handle.volume, self.targets_in_use(&local)?);
                ensure!(
                    targets.is_empty(),
                    PreconditionSnafu { volume, reason: format!("pods still have it at {targets:?}") }
                );
            }
            self.close(handle)
        })
    }

    /// Undoes all of [`Staging::stage`], as far as it got.
    pub(super) fn close(&self, handle: &VolumeHandle) -> Result<(), Error> {
        let Some(mut local) = self.local.load(handle)? else { return Ok(()) };
        if local.staged {
            // Whatever becomes of the rest: from here on no pod is given it.
            local.staged = false;
            self.local.save(&local)?;
        }
        if self.parts.mounter.find(&local.staging_path)?.is_some() {
            self.parts.mounter.unmount(&local.staging_path)?;
        }
        reached(Step::UnstageUnmounted);
        let name = daemon_name(handle);
        let daemon = self.parts.daemons.find(&name)?;
        self.parts.backend.detach(daemon.as_ref(), &self.local.work_dir(handle))?;
        reached(Step::UnstageDetached);
        self.parts.daemons.stop(&name)?;
        reached(Step::UnstageClosed);
        self.local.remove(handle)
    }

    /// Every volume that this node has staged, or has begun to.
    pub fn staged(&self) -> Result<Vec<VolumeHandle>, Error> {
        self.local.list()
    }
}
