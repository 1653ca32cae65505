//! How a volume on this node is, and how full (K7). Nothing here waits for a mount that does not answer.

use super::error::{Error, NotStagedSnafu};
use super::health::{Health, Reason};
use super::id::VolumeHandle;
use super::local::Local;
use super::stage::Staging;
use crate::host::deadline;
use crate::host::device::{self, DevNumber};
use crate::host::mount::{MountError, Mounter};
use snafu::{OptionExt, ensure};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A filesystem that is alive answers within microseconds.
const LIMIT: Duration = Duration::from_secs(10);
/// Of one volume. Each look that hangs keeps a thread until the kernel lets go of it: they must not add up.
const LOOKS: usize = 3;

/// How much there is of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// In all.
    pub total: u64,
    /// In use.
    pub used: u64,
    /// What a pod can still have.
    pub available: u64,
}

/// A volume on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Bytes. Of a raw device the total is known alone: what is in use on it is its pod's affair. None if it cannot be asked.
    pub bytes: Option<Usage>,
    /// Inodes of a filesystem.
    pub inodes: Option<Usage>,
    /// How it is.
    pub health: Health,
}

/// Looks that are under way, by volume.
#[derive(Clone, Debug)]
pub(super) struct Looks {
    running: Arc<Mutex<HashMap<VolumeHandle, usize>>>,
    limit: Duration,
}

impl Default for Looks {
    fn default() -> Self {
        Looks { running: Arc::default(), limit: LIMIT }
    }
}

/// One of them; over when dropped.
struct Looking(Looks, VolumeHandle);

impl Looks {
    fn begin(&self, volume: &VolumeHandle) -> Option<Looking> {
        let mut looks = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let running = looks.entry(volume.clone()).or_default();
        if *running == LOOKS {
            return None;
        }
        *running += 1;
        Some(Looking(self.clone(), volume.clone()))
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        let mut looks = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = looks.get_mut(&self.1) {
            *running -= 1;
        }
        looks.retain(|_, running| *running > 0);
    }
}

impl Staging {
    /// How full a volume is and how it is, at the path where it is staged or where a pod has it.
    pub fn stats(&self, handle: &VolumeHandle, path: &Path) -> Result<Stats, Error> {
        let (volume, node) = (handle.volume, self.parts.node.clone());
        let local = self.local.load(handle)?.filter(|local| local.staged);
        let local = local.context(NotStagedSnafu { volume, node: node.clone() })?;
        let here = local.staging_path == path || local.targets.iter().any(|target| target == path);
        ensure!(here, NotStagedSnafu { volume, node: node.clone() });
        let daemon = match self.daemon_of(&local)? {
            Some(_) => Health::Sound,
            None => Health::abnormal(Reason::DaemonGone, DAEMON_GONE),
        };
        let seen = self.look(handle, local, path)?;
        let mut stats = seen.context(NotStagedSnafu { volume, node })?;
        stats.health = daemon.or_else(|| stats.health);
        Ok(stats)
    }

    /// None: it is not mounted there.
    fn look(&self, handle: &VolumeHandle, local: Local, path: &Path) -> Result<Option<Stats>, Error> {
        let hangs = |message: String| Ok(Some(Stats::failed(Reason::NotAnswering, message)));
        let Some(looking) = self.looks.begin(handle) else {
            return hangs(format!("{LOOKS} looks at it have not come back yet"));
        };
        let (mounter, path) = (Arc::clone(&self.parts.mounter), path.to_owned());
        let looked = deadline::within(self.looks.limit, format!("a look at {}", path.display()), move || {
            let _looking = looking;
            match local.filesystem {
                Some(_) => filesystem(mounter.as_ref(), &local, &path),
                None => raw_device(mounter.as_ref(), &local, &path),
            }
        });
        match looked {
            Ok(stats) => Ok(stats?),
            Err(late) => hangs(late.to_string()),
        }
    }
}

const DAEMON_GONE: &str = "its storage daemon has ended, and every read and write fails; it is opened anew when its pods \
                           have let go of it: delete them";

impl Stats {
    fn failed(reason: Reason, message: impl std::fmt::Display) -> Stats {
        Stats { bytes: None, inodes: None, health: Health::abnormal(reason, message) }
    }
}

/// The device's number; what is wrong with it if it has none.
fn number(local: &Local) -> Result<DevNumber, Box<Stats>> {
    let missing = |message: String| Box::new(Stats::failed(Reason::DeviceMissing, message));
    let device = local.device.clone().ok_or_else(|| missing("it has no device".to_owned()))?;
    DevNumber::of_node(&device).map_err(|error| missing(format!("{}: {error}", device.display())))
}

fn raw_device(mounter: &dyn Mounter, local: &Local, path: &Path) -> Result<Option<Stats>, MountError> {
    if *path != local.staging_path && mounter.find(path)?.is_none() {
        return Ok(None);
    }
    let number = match number(local) {
        Ok(number) => number,
        Err(missing) => return Ok(Some(*missing)),
    };
    Ok(Some(match device::size(number) {
        Ok(0) => Stats::failed(Reason::DeviceMissing, format!("block device {number} has no size any more")),
        Ok(total) => {
            let bytes = Some(Usage { total, used: 0, available: 0 });
            Stats { bytes, inodes: None, health: Health::Sound }
        }
        Err(error) => Stats::failed(Reason::DeviceMissing, format!("block device {number}: {error}")),
    }))
}

fn filesystem(mounter: &dyn Mounter, local: &Local, path: &PathBuf) -> Result<Option<Stats>, MountError> {
    let Some(mounted) = mounter.find(path)? else { return Ok(None) };
    let number = match number(local) {
        Ok(number) => number,
        Err(missing) => return Ok(Some(*missing)),
    };
    // Whatever else is mounted there now, its figures are not this volume's.
    if mounted.dev != number {
        return Ok(None);
    }
    // XFS says by the first, not by the second, that it has shut down.
    let answered = rustix::fs::stat(path).and_then(|_| rustix::fs::statvfs(path));
    let stat = match answered {
        Ok(stat) => stat,
        Err(errno) => {
            let message = format!("{}: {}", path.display(), std::io::Error::from(errno));
            return Ok(Some(Stats::failed(Reason::FilesystemFailed, message)));
        }
    };
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    let usage = Usage {
        total: bytes(stat.f_blocks),
        used: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
        available: bytes(stat.f_bavail),
    };
    let used = stat.f_files.saturating_sub(stat.f_ffree);
    let inodes = Usage { total: stat.f_files, used, available: stat.f_favail };
    let staged = mounter.find(&local.staging_path)?;
    let stopped = |option: &String| matches!(option.as_str(), "ro" | "emergency_ro" | "shutdown");
    let stopped = staged.is_some_and(|mount| mount.options.iter().any(stopped));
    let health = match stopped && !local.mounted_read_only {
        true => Health::abnormal(Reason::FilesystemReadOnly, FILESYSTEM_STOPPED),
        false => Health::Sound,
    };
    Ok(Some(Stats { bytes: Some(usage), inodes: Some(inodes), health }))
}

const FILESYSTEM_STOPPED: &str = "its filesystem takes no writes any more, as filesystems do after errors; the kernel's log \
                                  of the node has the cause, and it is mounted anew when its pods have let go of it";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::FuseLoop;
    use crate::host::fake::FakeHost;
    use crate::host::mount::{FsType, MountInfo};
    use crate::qsd::LocalDaemons;
    use crate::volume::target::Sharing;
    use crate::volume::{StagingParts, VolumeId};
    use std::time::Instant;

    /// Its answers never come.
    struct Hanging;

    impl Mounter for Hanging {
        fn mount(&self, _: &Path, _: &Path, _: FsType, _: &[String]) -> Result<(), MountError> {
            unreachable!("a look mounts nothing")
        }
        fn bind(&self, _: &Path, _: &Path, _: bool) -> Result<(), MountError> {
            unreachable!("a look mounts nothing")
        }
        fn unmount(&self, _: &Path) -> Result<(), MountError> {
            unreachable!("a look unmounts nothing")
        }
        fn find(&self, _: &Path) -> Result<Option<MountInfo>, MountError> {
            loop {
                std::thread::park();
            }
        }
    }

    /// K7: a mount that hangs is told of in time, and keeps a few threads at most, however often it is asked for.
    #[test]
    fn a_mount_that_hangs_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let host = Arc::new(FakeHost::default());
        let mut staging = Staging::new(StagingParts {
            node: "n1".parse().unwrap(),
            dir: dir.path().join("volumes"),
            daemons: Arc::new(LocalDaemons::new("none".into(), dir.path().join("daemons"))),
            backend: Arc::new(FuseLoop::new(Arc::clone(&host) as _, Arc::clone(&host) as _)),
            mounter: Arc::new(Hanging),
            formatter: host,
        });
        staging.looks.limit = Duration::from_millis(50);
        let handle = VolumeHandle { share: "s1".parse().unwrap(), volume: VolumeId::from_name("a") };
        let local = Local {
            schema: 1,
            handle: handle.clone(),
            folder: "/share".into(),
            epoch: 1,
            staging_path: "/staging".into(),
            filesystem: Some("ext4".to_owned()),
            mount_options: None,
            daemon_instance: None,
            device: Some("/dev/null".into()),
            reader: false,
            staged: true,
            freezing: false,
            targets: Vec::new(),
            sharing: Sharing::default(),
            mounted_read_only: false,
        };
        let begun = Instant::now();
        for look in 0..100 {
            let stats = staging.look(&handle, local.clone(), Path::new("/staging")).unwrap().unwrap();
            let Health::Abnormal { reason, message } = stats.health else { panic!("it hangs") };
            assert_eq!((reason, stats.bytes), (Reason::NotAnswering, None));
            assert_eq!(message.contains("have not come back"), look >= LOOKS, "{message}");
        }
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    /// Looks that hang do not add up, and those that come back make room.
    #[test]
    fn looks_at_a_volume_are_bounded() {
        let looks = Looks::default();
        let of = |name| VolumeHandle { share: "s1".parse().unwrap(), volume: VolumeId::from_name(name) };
        let mut held: Vec<_> = (0..LOOKS).map(|_| looks.begin(&of("a")).unwrap()).collect();
        assert!(looks.begin(&of("a")).is_none());
        assert!(looks.begin(&of("b")).is_some());
        held.pop();
        assert!(looks.begin(&of("a")).is_some());
    }
}
