//! The domain on real parts without gRPC: volumes of a share, one node, its storage daemons.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use strata::attach::FuseLoop;
use strata::gluster::{self, Share, Source};
use strata::host::loopdev::KernelLoops;
use strata::host::mkfs::LinuxFormatter;
use strata::host::mount::LinuxMounter;
use strata::image::Format;
use strata::qsd::{DaemonHost, LocalDaemons};
use strata::volume::*;
use tempfile::TempDir;

/// Calls the one node's [`Staging`] directly.
#[derive(Default)]
pub struct LocalAgent(
    OnceLock<Arc<Staging>>,
    AtomicBool,
    Mutex<Vec<(NodeId, Arc<Staging>)>>,
    AtomicBool,
    Hang,
);

/// An agent that takes calls and does not answer, until it does again or the caller's deadline comes.
#[derive(Default)]
struct Hang {
    hangs: AtomicBool,
    asked: AtomicBool,
}

impl Hang {
    const DEADLINE: Duration = Duration::from_secs(20);

    fn wait(&self) -> Result<(), AgentError> {
        let begun = Instant::now();
        while self.hangs.load(Ordering::SeqCst) {
            self.asked.store(true, Ordering::SeqCst);
            if begun.elapsed() > Self::DEADLINE {
                return Err(AgentError::Unreachable { reason: "the node does not answer".into() });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl LocalAgent {
    fn staging(&self) -> Result<&Staging, AgentError> {
        self.4.wait()?;
        let none = || AgentError::Unreachable { reason: "the node is down".into() };
        let up = !self.1.load(Ordering::SeqCst);
        self.0.get().filter(|_| up).map(AsRef::as_ref).ok_or_else(none)
    }

    /// That of another node, if the test has added one of that name.
    fn of(&self, node: &NodeId) -> Result<Arc<Staging>, AgentError> {
        self.staging()?;
        let others = self.2.lock().unwrap();
        let other = others.iter().find(|(other, _)| other == node).map(|(_, staging)| staging.clone());
        Ok(other.unwrap_or_else(|| self.0.get().unwrap().clone()))
    }
}

fn failed(error: Error) -> AgentError {
    AgentError::Failed { reason: error.to_string() }
}

impl Agents for LocalAgent {
    fn cut(&self, _: &NodeId, _: &str, order: &CutOrder) -> Result<CutReport, AgentError> {
        self.staging()?.cut(order).map_err(failed)
    }
    fn grow(&self, _: &NodeId, _: &str, order: &GrowOrder) -> Result<GrowReport, AgentError> {
        if self.3.load(Ordering::SeqCst) {
            return Err(AgentError::Failed { reason: "the test has it fail".into() });
        }
        self.staging()?.grow(order).map_err(failed)
    }
    fn merge(&self, _: &NodeId, _: &str, call: &MergeCall) -> Result<MergeReport, AgentError> {
        self.staging()?.merge(call).map_err(failed)
    }
    fn status(
        &self,
        _: &NodeId,
        _: &str,
        share: &gluster::ShareKey,
        volume: VolumeId,
        epoch: u64,
    ) -> Result<Option<OpenImage>, AgentError> {
        self.staging()?.status(share, volume, epoch).map_err(failed)
    }
    fn release(
        &self,
        node: &NodeId,
        _: &str,
        share: &gluster::ShareKey,
        volume: VolumeId,
    ) -> Result<(), AgentError> {
        self.of(node)?.release(share, volume).map_err(failed)
    }
}

/// What the volumes of a test lie on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// A folder of its own.
    Folder,
    /// The run's GlusterFS volume, beside those of other tests.
    Gluster,
}

/// One share and one node. What is staged is closed when dropped.
pub struct Domain {
    pub volumes: Volumes,
    pub staging: Arc<Staging>,
    pub daemons: Arc<LocalDaemons>,
    pub node: NodeId,
    agent: Arc<LocalAgent>,
    /// Before every name of a volume: those of other tests are other volumes.
    prefix: String,
    share_guard: Vec<Box<dyn std::any::Any + Send + Sync>>,
    pub dir: TempDir,
}

impl Domain {
    pub fn new() -> Domain {
        Domain::with(Policy::default())
    }

    pub fn with(policy: Policy) -> Domain {
        Domain::on(policy, |_| ())
    }

    /// On a share of that kind.
    pub fn of(on: On, policy: Policy) -> Domain {
        match on {
            On::Folder => Domain::with(policy),
            On::Gluster => {
                let mounted = super::on_gluster::mounted(0);
                Domain::on_share(policy, super::scratch(), mounted.share(), Box::new(mounted))
            }
        }
    }

    /// On a share whose empty folder the caller makes ready; what that answers goes when all is closed.
    pub fn on<G: Send + Sync + 'static>(policy: Policy, prepare: impl FnOnce(&Path) -> G) -> Domain {
        let dir = super::scratch();
        let share = dir.path().join("share");
        std::fs::create_dir(&share).unwrap();
        let share_guard = Box::new(prepare(&share));
        let (share, _) = gluster::open(&Source::Dir(share), &[], dir.path()).unwrap();
        Domain::on_share(policy, dir, share, share_guard)
    }

    /// On that share, with all else in this folder. The guard goes when all is closed.
    pub fn on_share(
        policy: Policy,
        dir: TempDir,
        share: Share,
        share_guard: Box<dyn std::any::Any + Send + Sync>,
    ) -> Domain {
        super::need_root();
        let prefix = match share.source {
            Source::Dir(_) => String::new(),
            Source::Gluster { .. } => format!("{}-", uuid::Uuid::new_v4().simple()),
        };
        let daemons = Arc::new(LocalDaemons::new(super::qemu_storage_daemon(), dir.path().join("daemons")));
        let agent = Arc::new(LocalAgent::default());
        let tools =
            Tools { qemu_img: super::qemu_img(), daemons: daemons.clone(), agents: agent.clone(), policy };
        let volumes = Volumes::new(share, tools);
        let node: NodeId = "node-1".parse().unwrap();
        let staging = Arc::new(Staging::new(StagingParts {
            node: node.clone(),
            dir: dir.path().join("node"),
            daemons: daemons.clone(),
            backend: Arc::new(FuseLoop::new(Arc::new(KernelLoops), Arc::new(LinuxMounter))),
            mounter: Arc::new(LinuxMounter),
            formatter: Arc::new(LinuxFormatter),
        }));
        assert!(agent.0.set(staging.clone()).is_ok());
        volumes.register_node(&NodeRecord::now(node.clone(), "local".into())).unwrap();
        Domain { volumes, staging, daemons, node, agent, prefix, share_guard: vec![share_guard], dir }
    }

    /// The same GlusterFS volume as another node has it: through a mount of its own.
    pub fn other_mount(&mut self) -> Volumes {
        let mounted = super::on_gluster::mounted(1);
        let share = mounted.share();
        self.share_guard.push(Box::new(mounted));
        let tools = Tools {
            qemu_img: super::qemu_img(),
            daemons: self.daemons.clone(),
            agents: self.agent.clone(),
            policy: Policy::default(),
        };
        Volumes::new(share, tools)
    }

    /// What a volume is called here.
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// From now on the node's agent does not answer, or does again.
    pub fn unplug_agent(&self, away: bool) {
        self.agent.1.store(away, Ordering::SeqCst);
    }

    /// From now on the node's agent takes calls and does not answer, or does again.
    pub fn hang_agent(&self, hangs: bool) {
        self.agent.4.hangs.store(hangs, Ordering::SeqCst);
    }

    /// Whether somebody waits for its answer, or did.
    pub fn hanging_agent_was_asked(&self) -> bool {
        self.agent.4.asked.load(Ordering::SeqCst)
    }

    /// From now on the node answers every growth with a failure, or does again what it is asked.
    pub fn fail_growth(&self, fails: bool) {
        self.agent.3.store(fails, Ordering::SeqCst);
    }

    /// Another node of the same machine, with daemons of its own.
    pub fn add_node(&self, name: &str) -> (NodeId, Arc<Staging>, Arc<LocalDaemons>) {
        let (node, dir): (NodeId, _) = (name.parse().unwrap(), self.dir.path().join(name));
        let daemons = Arc::new(LocalDaemons::new(super::qemu_storage_daemon(), dir.join("daemons")));
        let staging = Arc::new(Staging::new(StagingParts {
            node: node.clone(),
            dir: dir.join("node"),
            daemons: daemons.clone(),
            backend: Arc::new(FuseLoop::new(Arc::new(KernelLoops), Arc::new(LinuxMounter))),
            mounter: Arc::new(LinuxMounter),
            formatter: Arc::new(LinuxFormatter),
        }));
        self.agent.2.lock().unwrap().push((node.clone(), staging.clone()));
        self.volumes.register_node(&NodeRecord::now(node.clone(), "local".into())).unwrap();
        (node, staging, daemons)
    }

    /// Another share beside the first one.
    pub fn second_share(&self) -> Volumes {
        let share = self.dir.path().join("share-2");
        std::fs::create_dir(&share).unwrap();
        let (share, _) = gluster::open(&Source::Dir(share), &[], self.dir.path()).unwrap();
        let agents = Arc::new(LocalAgent::default());
        assert!(agents.0.set(self.staging.clone()).is_ok());
        let tools = Tools {
            qemu_img: super::qemu_img(),
            daemons: self.daemons.clone(),
            agents,
            policy: Policy::default(),
        };
        let volumes = Volumes::new(share, tools);
        volumes.register_node(&NodeRecord::now(self.node.clone(), "local".into())).unwrap();
        volumes
    }

    /// A new volume of 1 GiB.
    pub fn create(&self, name: &str, kind: VolumeKind) -> VolumeId {
        self.create_from(name, kind, None)
    }

    pub fn create_from(&self, name: &str, kind: VolumeKind, source: Option<VolumeSource>) -> VolumeId {
        let request = CreateVolume {
            name: self.name(name),
            required: None,
            limit: None,
            kind,
            source,
            parameters: Default::default(),
        };
        self.volumes.create(&request).unwrap().handle.volume
    }

    pub fn place(&self, volume: VolumeId) -> PathBuf {
        self.dir.path().join("stage").join(volume.to_string())
    }

    /// Publishes and stages; answers the block device or the mount point. What somebody else just works on is asked for
    /// again, as by the sidecars.
    pub fn attach(&self, volume: VolumeId, access: Access) -> PathBuf {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match self.try_attach(volume, access.clone()) {
                Err(Error::Busy { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                attached => return attached.unwrap(),
            }
        }
    }

    pub fn try_attach(&self, volume: VolumeId, access: Access) -> Result<PathBuf, Error> {
        self.volumes.publish(volume, &self.node, Purpose::Write)?;
        let (staging_path, target_path) = (self.place(volume), self.place(volume).with_extension("pod"));
        std::fs::create_dir_all(&staging_path).unwrap();
        let request = StageVolume { volume, staging_path: staging_path.clone(), access: access.clone() };
        self.staging.stage(&self.volumes, &request)?;
        let target = PublishTarget {
            staging_path,
            target_path: target_path.clone(),
            readonly: false,
            access,
            sharing: Sharing::ManyTargets,
        };
        self.staging.publish(&self.volumes.handle(volume), &target)?;
        Ok(target_path)
    }

    pub fn detach(&self, volume: VolumeId) {
        let handle = self.volumes.handle(volume);
        for target in self.staging.targets(&handle).unwrap() {
            self.staging.unpublish(&handle, &target).unwrap();
        }
        let unstaged = self.staging.unstage(&handle, &self.place(volume));
        unstaged.unwrap_or_else(|error| panic!("unstage: {error}"));
        self.volumes.unpublish(volume, Some(&self.node)).unwrap();
    }

    /// The first `length` bytes of a volume that is not attached, as its users would read them.
    pub fn read(&self, volume: VolumeId, length: usize) -> Vec<u8> {
        let device = self.attach(volume, Access::Block);
        let bytes = read_start(&device, length);
        self.detach(volume);
        bytes
    }

    /// The first `length` bytes of a snapshot, read by qemu-img from its pinned layers.
    pub fn read_snapshot(&self, snapshot: &SnapshotView, length: usize) -> Vec<u8> {
        let handle = &snapshot.handle;
        let pinned = self.volumes.pin_snapshot(handle.volume, handle.snapshot, "a test").unwrap();
        let img = strata::image::QemuImg::new(super::qemu_img());
        let flat = self.dir.path().join(uuid::Uuid::new_v4().to_string());
        img.convert(&pinned.chain, &flat, Format::Raw, super::disk::LIMIT).unwrap();
        let bytes = read_start(&flat, length);
        std::fs::remove_file(flat).unwrap();
        bytes
    }

    /// Every image file in a volume's folder.
    pub fn files(&self, volume: VolumeId) -> Vec<String> {
        let folder = self.volumes.layout().volume(volume);
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.starts_with("volume-")).collect();
        names.sort();
        names
    }

    /// Others go on with the share: as much of it as can be is given back.
    fn delete_all(&self) {
        let ids = self.volumes.list().unwrap_or_default();
        let ours =
            |id: &VolumeId| self.volumes.get(*id).is_ok_and(|volume| volume.name.starts_with(&self.prefix));
        for id in ids.into_iter().filter(ours) {
            let _ = self.volumes.unpublish(id, None);
            for snapshot in self.volumes.list_snapshots(Some(id)).unwrap_or_default() {
                let _ = self.volumes.delete_snapshot(id, snapshot.handle.snapshot);
            }
            let _ = self.volumes.delete(id);
        }
    }

    /// `qemu-img check` of every image of a volume.
    pub fn check(&self, volume: VolumeId) {
        let img = strata::image::QemuImg::new(super::qemu_img());
        for file in self.files(volume) {
            let path = self.volumes.layout().volume(volume).join(&file);
            let raw = read_start(&path, 4) != b"QFI\xfb";
            let format = if raw { Format::Raw } else { Format::Qcow2 };
            let report = img.check(&path, format, super::disk::LIMIT).unwrap();
            assert_eq!(report.corruptions, 0, "{file}: {report:?}");
        }
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        for handle in self.staging.staged().unwrap_or_default() {
            for target in self.staging.targets(&handle).unwrap_or_default() {
                let _ = self.staging.unpublish(&handle, &target);
            }
            let _ = self.staging.unstage(&handle, &self.place(handle.volume));
        }
        for daemon in self.daemons.list().unwrap_or_default() {
            let _ = self.daemons.stop(&daemon.name);
        }
        if !self.prefix.is_empty() {
            self.delete_all();
        }
    }
}

pub fn read_start(path: &Path, length: usize) -> Vec<u8> {
    use std::io::Read;
    let mut bytes = vec![0; length];
    std::fs::File::open(path).unwrap().read_exact(&mut bytes).unwrap();
    bytes
}

pub fn write_at(path: &Path, offset: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    file.sync_all().unwrap();
}
