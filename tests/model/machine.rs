//! The driver, and beside it what every volume and snapshot must hold.

use crate::driver::{Driver, Use, new_volume};
use crate::random::Random;
use crate::steps::{BLOCKS, Step, Victim};
use crate::support::domain::{read_start, write_at};
use crate::support::leftovers::{leftovers, processes};
use crate::support::{self, qemu_img, qemu_storage_daemon};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strata::agent::{AgentClient, CUT_LIMIT};
use strata::gluster::{self, Source};
use strata::image::ChainReader;
use strata::qsd::LocalDaemons;
use strata::rpc::csi::volume_content_source::{SnapshotSource, Type, VolumeSource};
use strata::rpc::csi::{CreateVolumeRequest, VolumeContentSource};
use strata::volume::{Error, Policy, SnapshotHandle, Tools, Volumes};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::{Code, Status};

const BLOCK: usize = 64 << 10;
const LENGTH: usize = BLOCKS * BLOCK;
const GIB: u64 = 1 << 30;
/// For one call with all its repetitions, and all that is started anew meanwhile.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Clone)]
pub struct Volume {
    pub id: String,
    pub gib: u64,
    pub bytes: Vec<u8>,
    pub device: Option<PathBuf>,
}

#[derive(Clone)]
pub struct Snapshot {
    pub id: String,
    pub gib: u64,
    pub bytes: Vec<u8>,
}

pub struct Machine {
    pub random: Random,
    pub volumes: BTreeMap<String, Volume>,
    pub snapshots: BTreeMap<String, Snapshot>,
    driver: Driver,
    /// Killed during the next call.
    doomed: Option<(Victim, Duration)>,
    share: PathBuf,
    /// The same share as another process sees it, which only reads.
    reader: Volumes,
    _runtime: Runtime,
    names: u64,
    dir: TempDir,
}

impl Machine {
    pub fn new(random: Random) -> Machine {
        let dir = support::scratch();
        let share = dir.path().join("share");
        std::fs::create_dir(&share).unwrap();
        let source = format!("dir:{}", share.display());
        let program = Path::new(env!("CARGO_BIN_EXE_strata"));
        let mut driver = Driver::prepare(program, &dir.path().join("d"), &[&source], "node-1");
        driver.set_environment(&[
            ("STRATA_QEMU_IMG", qemu_img().to_str().unwrap()),
            ("STRATA_QEMU_STORAGE_DAEMON", qemu_storage_daemon().to_str().unwrap()),
            // Short chains, so that clones are flattened on the way.
            ("STRATA_SOFT_DEPTH", "5"),
        ]);
        driver.launch();
        let runtime = Runtime::new().unwrap();
        let (opened, _) = gluster::open(&Source::Dir(share.clone()), &[], dir.path()).unwrap();
        let reader = Volumes::new(
            opened,
            Tools {
                qemu_img: qemu_img(),
                daemons: Arc::new(LocalDaemons::new(qemu_storage_daemon(), dir.path().join("none"))),
                agents: Arc::new(AgentClient::new(runtime.handle().clone(), CUT_LIMIT)),
                policy: Policy::default(),
            },
        );
        let (volumes, snapshots) = (BTreeMap::new(), BTreeMap::new());
        Machine {
            random,
            volumes,
            snapshots,
            driver,
            doomed: None,
            share,
            reader,
            _runtime: runtime,
            names: 0,
            dir,
        }
    }

    pub fn say(&self, line: &str) {
        let _ = writeln!(std::io::stderr(), "{line}");
    }

    pub fn fresh(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{kind}-{}", self.names)
    }

    pub fn volumes_that(&self, holds: impl Fn(&Volume) -> bool) -> Vec<String> {
        self.volumes.iter().filter(|(_, volume)| holds(volume)).map(|(name, _)| name.clone()).collect()
    }

    fn place(&self, name: &str) -> PathBuf {
        self.dir.path().join("pods").join(name)
    }

    /// Calls as the sidecars do, until the answer is neither "still at work" nor "cannot be reached"; a process that is
    /// doomed dies on the way.
    fn ask<T>(&mut self, call: impl Fn(&Driver) -> Result<T, Status>) -> T {
        let killer = self.doomed.take().map(|(victim, after)| {
            let victims = self.processes_of(victim);
            std::thread::spawn(move || {
                std::thread::sleep(after);
                victims.into_iter().for_each(kill);
            })
        });
        let deadline = Instant::now() + LIMIT;
        let answer = loop {
            match call(&self.driver) {
                Ok(answer) => break answer,
                Err(status) => {
                    let later =
                        matches!(status.code(), Code::Aborted | Code::Unavailable | Code::DeadlineExceeded);
                    if !later || Instant::now() > deadline {
                        self.driver.fail(&format!("{status:?}"));
                    }
                    std::thread::sleep(Duration::from_millis(50));
                    self.driver.launch_if_ended();
                }
            }
        };
        if let Some(killer) = killer {
            killer.join().unwrap();
        }
        answer
    }

    fn processes_of(&self, victim: Victim) -> Vec<u32> {
        let role = match victim {
            Victim::Controller => "controller",
            Victim::Node => "node",
            Victim::Data => "data",
        };
        let found = processes(&self.driver.dir).into_iter();
        found.filter(|(_, line)| line.iter().any(|word| word == role)).map(|(pid, _)| pid).collect()
    }

    pub fn run(&mut self, step: Step) {
        match step {
            Step::Create { name, format } => {
                let request = new_volume(&name, GIB, Use::Block, &[("format", format)]);
                self.make(name, request, 1, vec![0; LENGTH]);
            }
            Step::Attach { volume } => self.attach(&volume),
            Step::Detach { volume } => self.detach(&volume),
            Step::Write { volume, block, blocks, value } => {
                let held = self.volumes.get_mut(&volume).unwrap();
                let (start, end) = (block * BLOCK, (block + blocks) * BLOCK);
                held.bytes[start..end].fill(value);
                // Not all of a cluster is data.
                held.bytes[start..start + BLOCK / 4].fill(0);
                write_at(held.device.as_ref().unwrap(), start as u64, &held.bytes[start..end]);
            }
            Step::Discard { volume, block, blocks } => {
                let held = self.volumes.get_mut(&volume).unwrap();
                let (start, length) = (block * BLOCK, blocks * BLOCK);
                let (offset, bytes) = (start.to_string(), length.to_string());
                let device = held.device.as_ref().unwrap().to_str().unwrap();
                // Zeroing, for what a plain discard reads back as is nobody's promise.
                support::run("blkdiscard", &["-z", "-o", &offset, "-l", &bytes, device]);
                // Only what was flushed outlives a daemon that is killed.
                std::fs::File::open(device).unwrap().sync_all().unwrap();
                held.bytes[start..start + length].fill(0);
            }
            Step::Snapshot { volume, name } => {
                let held = self.volumes[&volume].clone();
                let made = self.ask(|driver| driver.snapshot(&held.id, &name));
                assert_eq!(made.size_bytes as u64, held.gib * GIB);
                self.snapshots
                    .insert(name, Snapshot { id: made.snapshot_id, gib: held.gib, bytes: held.bytes });
            }
            Step::DeleteSnapshot { snapshot } => {
                let id = self.snapshots.remove(&snapshot).unwrap().id;
                self.ask(|driver| driver.delete_snapshot(&id));
            }
            Step::Clone { volume, name, gib } => {
                let Volume { id, bytes, .. } = self.volumes[&volume].clone();
                self.copy(name, Type::Volume(VolumeSource { volume_id: id }), gib, bytes);
            }
            Step::Restore { snapshot, name, gib } => {
                let Snapshot { id, bytes, .. } = self.snapshots[&snapshot].clone();
                self.copy(name, Type::Snapshot(SnapshotSource { snapshot_id: id }), gib, bytes);
            }
            Step::Grow { volume, gib } => self.grow(&volume, gib),
            Step::Delete { volume } => {
                let id = self.volumes.remove(&volume).unwrap().id;
                self.ask(|driver| driver.delete(&id));
            }
            Step::VerifySnapshot { snapshot } => {
                let Snapshot { id, gib, bytes } = self.snapshots[&snapshot].clone();
                if self.random.one_in(4) {
                    self.verify_export(&id, gib, &bytes);
                } else {
                    self.verify_snapshot(&snapshot);
                }
            }
            Step::VerifyVolume { volume } => self.verify_volume(&volume),
            Step::KillDaemon { volume } => self.kill_daemon(&volume),
            Step::Kill { victim, after_ms } => {
                self.doomed = Some((victim, Duration::from_millis(after_ms)));
            }
        }
    }

    fn make(&mut self, name: String, request: CreateVolumeRequest, gib: u64, bytes: Vec<u8>) {
        let made = self.ask(|driver| driver.create(request.clone()));
        assert_eq!(made.capacity_bytes as u64, gib * GIB);
        self.volumes.insert(name, Volume { id: made.volume_id, gib, bytes, device: None });
    }

    fn copy(&mut self, name: String, source: Type, gib: u64, bytes: Vec<u8>) {
        let request = CreateVolumeRequest {
            volume_content_source: Some(VolumeContentSource { r#type: Some(source) }),
            ..new_volume(&name, gib * GIB, Use::Block, &[])
        };
        self.make(name, request, gib, bytes);
    }

    fn attach(&mut self, volume: &str) {
        let (id, place) = (self.volumes[volume].id.clone(), self.place(volume));
        let device = self.ask(|driver| driver.attach(&id, &place, Use::Block));
        let held = self.volumes.get_mut(volume).unwrap();
        assert!(read_start(&device, LENGTH) == held.bytes, "{volume} is not what it was when it is attached");
        assert_eq!(length_of(&device), held.gib * GIB, "{volume}");
        held.device = Some(device);
    }

    fn detach(&mut self, volume: &str) {
        let (id, place) = (self.volumes[volume].id.clone(), self.place(volume));
        self.ask(|driver| driver.detach(&id, &place));
        self.volumes.get_mut(volume).unwrap().device = None;
    }

    fn grow(&mut self, volume: &str, gib: u64) {
        let (id, place) = (self.volumes[volume].id.clone(), self.place(volume));
        let grown = self.ask(|driver| driver.expand(&id, gib * GIB));
        assert_eq!(grown, gib * GIB);
        if let Some(device) = self.volumes[volume].device.clone() {
            self.ask(|driver| driver.node_expand(&id, &place.join("target"), gib * GIB));
            assert_eq!(length_of(&device), gib * GIB, "{volume}");
        }
        self.volumes.get_mut(volume).unwrap().gib = gib;
    }

    fn verify_volume(&mut self, volume: &str) {
        let Volume { id, gib, bytes, device } = self.volumes[volume].clone();
        match device {
            Some(device) => assert!(read_start(&device, LENGTH) == bytes, "{volume} has changed"),
            None if self.random.one_in(4) => self.verify_export(&id, gib, &bytes),
            None => {
                self.attach(volume);
                self.detach(volume);
            }
        }
    }

    /// Pinned and read as a backup does it.
    fn verify_snapshot(&mut self, snapshot: &str) {
        let Snapshot { id, gib, bytes } = &self.snapshots[snapshot];
        let handle: SnapshotHandle = id.parse().unwrap();
        let deadline = Instant::now() + LIMIT;
        let pinned = loop {
            match self.reader.pin_snapshot(handle.volume, handle.snapshot, "a test") {
                Ok(pinned) => break pinned,
                Err(error @ (Error::Busy { .. } | Error::Pending { .. } | Error::NodeUnreachable { .. })) => {
                    assert!(Instant::now() < deadline, "{error}");
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => self.driver.fail(&format!("{snapshot}: {error}")),
            }
        };
        let reader = ChainReader::open(&pinned.chain).unwrap();
        let mut found = vec![0; LENGTH];
        reader.read_at(&mut found, 0).unwrap();
        assert!(found == *bytes && reader.size() == gib * GIB, "snapshot {snapshot} has changed");
    }

    /// Exported while whatever else goes on: the layers are pinned meanwhile.
    fn verify_export(&mut self, handle: &str, gib: u64, bytes: &[u8]) {
        let to = self.dir.path().join("export");
        let source = format!("dir:{}", self.share.display());
        let deadline = Instant::now() + LIMIT;
        loop {
            let output = Command::new(env!("CARGO_BIN_EXE_strata"))
                .args(["volume", "export", handle, "--share", &source, "--force", "--to"])
                .arg(&to)
                .env("STRATA_QEMU_IMG", qemu_img())
                .env("STRATA_QEMU_STORAGE_DAEMON", qemu_storage_daemon())
                .output()
                .unwrap();
            if output.status.success() {
                break;
            }
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // As for any other caller: something else works on it.
            assert!(said.contains("busy") || said.contains("ask again"), "{said}");
            assert!(Instant::now() < deadline, "{said}");
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(read_start(&to, LENGTH) == bytes, "{handle} has changed");
        assert_eq!(std::fs::metadata(&to).unwrap().len(), gib * GIB, "{handle}");
        std::fs::remove_file(to).unwrap();
    }

    /// As after a crash of the daemon: the pod is gone, the volume is staged anew.
    fn kill_daemon(&mut self, volume: &str) {
        let id = self.volumes[volume].id.clone();
        let uuid = id.split('/').next_back().unwrap().to_owned();
        let mut daemons = processes(&self.driver.dir);
        daemons.retain(|(pid, line)| {
            let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            line.iter().any(|word| word == "chardev=qmp")
                && cwd.to_string_lossy().contains(&uuid)
                && cwd.to_string_lossy().contains("volume")
        });
        daemons.into_iter().for_each(|(pid, _)| kill(pid));
        self.detach(volume);
        self.attach(volume);
    }

    /// Every point once more; then all of it goes, in an order of chance, and nothing stays behind.
    pub fn finish(mut self) {
        for name in self.volumes_that(|volume| volume.device.is_some()) {
            self.verify_volume(&name);
            self.detach(&name);
        }
        while !self.volumes.is_empty() || !self.snapshots.is_empty() {
            for name in self.volumes.keys().cloned().collect::<Vec<_>>() {
                self.verify_volume(&name);
            }
            for name in self.snapshots.keys().cloned().collect::<Vec<_>>() {
                self.verify_snapshot(&name);
            }
            for _ in 0..4 {
                let volumes: Vec<String> = self.volumes.keys().cloned().collect();
                let snapshots: Vec<String> = self.snapshots.keys().cloned().collect();
                match self.random.below(2) {
                    0 if !volumes.is_empty() => {
                        let volume = self.random.pick(&volumes).unwrap();
                        self.run(Step::Delete { volume });
                    }
                    _ if !snapshots.is_empty() => {
                        let snapshot = self.random.pick(&snapshots).unwrap();
                        self.run(Step::DeleteSnapshot { snapshot });
                    }
                    _ => {}
                }
            }
        }
        let folder = self.share.join("volumes");
        let deadline = Instant::now() + LIMIT;
        let left = || std::fs::read_dir(&folder).unwrap().flatten().map(|e| e.path()).collect::<Vec<_>>();
        while !left().is_empty() {
            if Instant::now() > deadline {
                self.driver.fail(&format!("of deleted volumes there is left: {:?}", left()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(self.driver.teardown(), "the driver could not be torn down");
        assert_eq!(leftovers(self.dir.path()), Vec::<String>::new());
    }
}

fn kill(pid: u32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

fn length_of(device: &Path) -> u64 {
    use std::io::{Seek, SeekFrom};
    std::fs::File::open(device).unwrap().seek(SeekFrom::End(0)).unwrap()
}
