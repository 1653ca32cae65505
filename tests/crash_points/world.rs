//! One driver on one share, killed at a step and started again, and every point that must outlive that.

use crate::driver::{Driver, Use, new_volume};
use crate::share::{Share, snapshot_of, volume_of};
use crate::support::domain::{read_start, write_at};
use crate::support::leftovers::{leftovers, processes};
use crate::support::small_share::SmallShare;
use crate::support::{self, qemu_img, qemu_storage_daemon};
use procfs::process::Process;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use strata::image::ImageRef;
use strata::rpc::csi::Snapshot;
use strata::volume::steps::Step;
use strata::volume::{SnapshotId, VolumeId};
use tempfile::TempDir;
use tonic::{Code, Status};

/// What the tests write to a block device lies in here: 32 blocks of 64 KiB, one qcow2 cluster each.
pub const BLOCK: usize = 64 << 10;
pub const LENGTH: usize = 32 * BLOCK;
const GIB: u64 = 1 << 30;
/// Longer than any call here takes, with every retry.
const LIMIT: Duration = Duration::from_secs(60);

/// A snapshot, and a copy of what it read back when it was taken.
struct Point {
    handle: String,
    kept: ImageRef,
}

/// A volume in block mode whose bytes are known.
pub struct Disk {
    pub id: String,
    pub now: Vec<u8>,
}

impl Disk {
    pub fn volume(&self) -> VolumeId {
        volume_of(&self.id)
    }
}

pub struct World {
    pub driver: Driver,
    pub share: Share,
    points: Vec<Point>,
    armed: Option<Step>,
    settings: Vec<(&'static str, &'static str)>,
    disk: Option<SmallShare>,
    pub dir: TempDir,
}

/// Calls as the sidecars do, until the answer is neither "still at work" nor "cannot be reached".
pub fn patiently<T>(mut call: impl FnMut() -> Result<T, Status>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        match call() {
            Ok(answer) => return answer,
            Err(status) => {
                let later = matches!(status.code(), Code::Aborted | Code::Unavailable);
                assert!(later && Instant::now() < deadline, "{status:?}");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !check() {
        assert!(Instant::now() < deadline, "{what}: not within {} s", LIMIT.as_secs());
        std::thread::sleep(Duration::from_millis(30));
    }
}

impl World {
    /// Not launched yet: [`World::arm`] or [`World::calm`] comes first.
    pub fn new() -> World {
        World::with(|_| None)
    }

    /// On a share that can be filled up.
    pub fn on_small_share() -> World {
        World::with(|root| Some(SmallShare::mount(root, 2)))
    }

    fn with(disk: impl FnOnce(&Path) -> Option<SmallShare>) -> World {
        let dir = support::scratch();
        let root = dir.path().join("share");
        std::fs::create_dir(&root).unwrap();
        let disk = disk(&root);
        let source = format!("dir:{}", root.display());
        let program = Path::new(env!("CARGO_BIN_EXE_strata"));
        let driver = Driver::prepare(program, &dir.path().join("d"), &[&source], "node-1");
        World {
            driver,
            share: Share::new(&root),
            points: Vec::new(),
            armed: None,
            settings: Vec::new(),
            disk,
            dir,
        }
    }

    fn launch(&mut self, armed: Option<Step>) {
        self.driver.stop();
        let (img, daemon) = (qemu_img(), qemu_storage_daemon());
        let mut environment = vec![
            ("STRATA_QEMU_IMG", img.to_str().unwrap()),
            ("STRATA_QEMU_STORAGE_DAEMON", daemon.to_str().unwrap()),
            ("STRATA_NO_RESTART", "true"),
        ];
        environment.extend(&self.settings);
        environment.extend(armed.map(|step| ("STRATA_CRASH_AT", step.name())));
        self.driver.set_environment(&environment);
        self.driver.launch();
        self.armed = armed;
    }

    /// An environment variable of the driver, from its next start on.
    pub fn setting(&mut self, name: &'static str, value: &'static str) {
        self.settings.push((name, value));
    }

    /// Starts the driver so that it dies at that step.
    pub fn arm(&mut self, step: Step) {
        self.launch(Some(step));
    }

    /// Starts the driver as it is used.
    pub fn calm(&mut self) {
        self.launch(None);
    }

    /// Takes the driver down, in whatever state it is.
    pub fn pause(&mut self) {
        self.driver.set_environment(&[
            ("STRATA_QEMU_IMG", qemu_img().to_str().unwrap()),
            ("STRATA_QEMU_STORAGE_DAEMON", qemu_storage_daemon().to_str().unwrap()),
        ]);
        let down = self.driver.teardown();
        assert!(down, "the driver could not be torn down; see {}", self.driver.log().display());
        let mut left = leftovers(self.dir.path());
        // The test's own filesystem stays until the world ends.
        left.retain(|line| self.disk.is_none() || !line.contains("/share"));
        assert_eq!(left, Vec::<String>::new());
    }

    /// The processes of controller and node. One that is about to start a program is there twice for a moment: its child
    /// does not count.
    fn roles(&self) -> Vec<u32> {
        let role = |line: &[String]| line.iter().any(|word| word == "controller" || word == "node");
        let found = processes(&self.driver.dir).into_iter().filter(|(_, line)| role(line));
        let found: Vec<u32> = found.map(|(pid, _)| pid).collect();
        let parent =
            |pid: u32| Process::new(pid as i32).and_then(|process| process.stat()).map(|stat| stat.ppid);
        let is_child = |pid: u32| parent(pid).is_ok_and(|parent| found.contains(&(parent as u32)));
        found.iter().copied().filter(|pid| !is_child(*pid)).collect()
    }

    /// Makes a call in which one of the processes must die, at the armed step and nowhere else.
    pub fn dies<T>(&self, call: impl FnOnce(&Driver) -> Result<T, Status>) -> Option<Status> {
        let step = self.armed.expect("an armed driver");
        let said = format!("crash point {} reached", step.name());
        let log = || std::fs::read_to_string(self.driver.log()).unwrap_or_default().matches(&said).count();
        let (roles, before) = (self.roles(), log());
        assert_eq!(roles.len(), 2, "controller and node run before the call");
        let answer = call(&self.driver);
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.roles().len() >= roles.len() {
            if Instant::now() > deadline {
                let answer = answer.err();
                self.driver
                    .fail(&format!("nothing died at {}; the call was answered {answer:?}", step.name()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!((self.roles().len(), log()), (1, before + 1), "one process died, at {}", step.name());
        answer.err()
    }

    /// A new volume in block mode.
    pub fn disk(&self, name: &str, format: &str) -> Disk {
        let request = new_volume(name, GIB, Use::Block, &[("format", format)]);
        let id = patiently(|| self.driver.create(request.clone())).volume_id;
        Disk { id, now: vec![0; LENGTH] }
    }

    pub fn place(&self, id: &str) -> PathBuf {
        self.dir.path().join("pods").join(volume_of(id).to_string())
    }

    pub fn attach(&self, id: &str, usage: Use) -> PathBuf {
        patiently(|| self.driver.attach(id, &self.place(id), usage))
    }

    pub fn detach(&self, id: &str) {
        patiently(|| self.driver.detach(id, &self.place(id)));
    }

    /// Writes to some blocks, and zeros to a part of them; returns when all of it is acknowledged.
    pub fn write(&self, disk: &mut Disk, blocks: std::ops::Range<usize>, value: u8) {
        let device = self.attach(&disk.id, Use::Block);
        self.write_to(disk, &device, blocks, value);
        self.detach(&disk.id);
    }

    pub fn write_to(&self, disk: &mut Disk, device: &Path, blocks: std::ops::Range<usize>, value: u8) {
        let (start, end) = (blocks.start * BLOCK, blocks.end * BLOCK);
        disk.now[start..end].fill(value);
        disk.now[start..start + BLOCK / 2].fill(0);
        write_at(device, start as u64, &disk.now[start..end]);
    }

    /// Remembers a snapshot whose contents are right, so that they stay so.
    pub fn keep(&mut self, snapshot: &Snapshot) -> ImageRef {
        let handle = snapshot.snapshot_id.clone();
        let to = self.dir.path().join(format!("kept-{}", snapshot_of(&handle)));
        let kept = self.share.keep(|| self.share.snapshot_chain(&handle), to);
        self.points.push(Point { handle, kept: kept.clone() });
        kept
    }

    /// Takes a snapshot of a disk, or finds it, and holds it to the bytes that were acknowledged.
    pub fn snapshot(&mut self, disk: &Disk, name: &str) -> Snapshot {
        let snapshot = patiently(|| self.driver.snapshot(&disk.id, name));
        let kept = self.keep(&snapshot);
        assert!(read_start(&kept.path, LENGTH) == disk.now, "snapshot {name} is not what was acknowledged");
        snapshot
    }

    /// Deletes a snapshot, again if need be.
    pub fn delete_snapshot(&mut self, handle: &str) {
        patiently(|| self.driver.delete_snapshot(handle));
        self.points.retain(|point| point.handle != handle);
    }

    /// Every snapshot reads back as when it was taken.
    pub fn verify_points(&self) {
        for Point { handle, kept } in &self.points {
            let same = self.share.same(&self.share.snapshot_chain(handle), kept);
            assert!(same, "snapshot {handle} has changed");
        }
    }

    /// Waits until the background has nothing left to do on a volume that is not attached.
    pub fn until_tidy(&self, volume: VolumeId) {
        let deadline = Instant::now() + LIMIT;
        while !self.share.is_tidy(volume) {
            if Instant::now() > deadline {
                let record = self.share.record(volume);
                self.driver.fail(&format!("the background did not come to an end: {record:#?}"));
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// A disk that is not attached reads back what was acknowledged; its images are sound, its folder in order.
    pub fn verify_disk(&self, disk: &Disk) {
        let volume = disk.volume();
        self.until_tidy(volume);
        let to = self.dir.path().join(format!("look-{volume}"));
        let look = self.share.keep(|| self.share.active_chain(volume), to);
        assert!(read_start(&look.path, LENGTH) == disk.now, "the volume is not what was acknowledged");
        std::fs::remove_file(look.path).unwrap();
        self.share.folder_agrees(volume);
        self.share.check(volume);
        self.verify_points();
    }

    /// No volumes and snapshots but these, and after the end nothing on the machine.
    pub fn end(mut self, volumes: &[VolumeId]) {
        let snapshots: Vec<SnapshotId> = self.points.iter().map(|point| snapshot_of(&point.handle)).collect();
        eventually("the folders of deleted volumes go", || {
            volumes.len() == std::fs::read_dir(self.share.layout.volumes()).unwrap().count()
        });
        self.share.holds_only(volumes, &snapshots);
        self.pause();
    }
}
