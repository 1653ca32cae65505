//! Snapshots of a filesystem that is written to and verified all the time, on a replicated GlusterFS volume; then
//! merges of newest, middle and oldest (G7, G8, X1, invariants 1 and 2).

#[path = "support/driver.rs"]
#[allow(dead_code)]
mod driver;
mod support;

use driver::{Driver, Use, from_snapshot, new_volume};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use strata::rpc::csi::Snapshot;
use strata::volume::record::{Consistency, Record, decode};
use strata::volume::{Layout, VolumeId};
use support::{OpenShare, run};

const SNAPSHOTS: usize = 5;
const LIMIT: Duration = Duration::from_secs(60);

/// Each file's digest, by name.
type Files = BTreeMap<String, String>;

struct Rig {
    driver: Driver,
    share: OpenShare,
    dir: tempfile::TempDir,
}

fn start() -> Rig {
    support::need_root();
    let source = support::gluster_share();
    let dir = support::scratch();
    let share = OpenShare::new(&source, &dir.path().join("look"));
    let program = Path::new(env!("CARGO_BIN_EXE_strata"));
    let mut driver = Driver::prepare(program, &dir.path().join("d"), &[&source.to_string()], "online-node");
    let (img, daemon) = (support::qemu_img(), support::qemu_storage_daemon());
    driver.set_environment(&[
        ("STRATA_QEMU_IMG", img.to_str().unwrap()),
        ("STRATA_QEMU_STORAGE_DAEMON", daemon.to_str().unwrap()),
    ]);
    driver.launch();
    Rig { driver, share, dir }
}

impl Rig {
    fn record(&self, id: &str) -> Record {
        let volume: VolumeId = id.split('/').nth(1).unwrap().parse().unwrap();
        let path = Layout::new(&self.share.0.root).record(volume);
        decode(&std::fs::read(path).unwrap()).unwrap()
    }

    /// What a snapshot holds, seen through a volume made from it, which goes again.
    fn look(&self, snapshot: &Snapshot, name: &str) -> Files {
        let clone = self.driver.create(from_snapshot(name, snapshot, Use::Ext4)).unwrap().volume_id;
        let place = self.dir.path().join(name);
        // The filesystem stood still for the cut: nothing is left for its journal to mend.
        let device = self.driver.attach(&clone, &place, Use::Block).unwrap();
        run("e2fsck", &["-fn", device.to_str().unwrap()]);
        self.driver.detach(&clone, &place).unwrap();
        let files = digests(&self.driver.attach(&clone, &place, Use::Ext4).unwrap());
        self.driver.detach(&clone, &place).unwrap();
        self.driver.delete(&clone).unwrap();
        files
    }

    fn until_merged(&self, id: &str, layers: usize) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let record = self.record(id);
            if record.layers.len() == layers && record.merge.is_none() && record.trash.is_empty() {
                return;
            }
            if Instant::now() > deadline {
                self.driver.fail(&format!("not merged to {layers} layers: {:#?}", record.layers));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn digests(folder: &Path) -> Files {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    files
        .map(|file| {
            let digest = Sha256::digest(std::fs::read(file.path()).unwrap());
            let digest = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            (file.file_name().into_string().unwrap(), digest)
        })
        .collect()
}

fn fio(folder: &Path, state: &Path) -> std::process::Child {
    let mut command = Command::new("fio");
    command.current_dir(state).args(["--verify=crc32c", "--verify_fatal=1", "--do_verify=1"]);
    command.args(["--verify_state_save=0", "--time_based", "--runtime=15", "--rw=randwrite"]);
    command.args(["--bs=16k", "--size=24m", "--rate=6m"]);
    command.arg(format!("--directory={}", folder.display()));
    command.args(["--name=direct", "--direct=1", "--ioengine=libaio", "--iodepth=8"]);
    command.args(["--name=buffered", "--direct=0", "--ioengine=psync", "--fsync=32"]);
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    spawned.expect("fio is missing: run scripts/ensure-packages")
}

/// The pauses that writers had, as the driver measured them.
fn pauses(driver: &Driver) -> Vec<u64> {
    let log = std::fs::read_to_string(driver.log()).unwrap();
    let told = log.split("pause_us=").skip(1);
    told.filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()).collect()
}

/// As a sidecar: a share that is not usable yet is asked for again.
fn first_volume(driver: &Driver) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match driver.create(new_volume("pvc-online-cut", 1 << 30, Use::Ext4, &[])) {
            Err(status) if status.code() == tonic::Code::Unavailable && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_secs(1));
            }
            made => return made.unwrap().volume_id,
        }
    }
}

#[test]
fn snapshots_under_verified_writes_hold_one_instant_each() {
    let rig = start();
    let driver = &rig.driver;
    let id = first_volume(driver);
    let place = rig.dir.path().join("pod");
    let target = driver.attach(&id, &place, Use::Ext4).unwrap();
    let writer = fio(&target, rig.dir.path());
    let mut snapshots = Vec::new();
    for number in 1..=SNAPSHOTS {
        std::thread::sleep(Duration::from_secs(2));
        let marker = std::fs::File::create(target.join(format!("marker-{number}"))).unwrap();
        marker.sync_all().unwrap();
        snapshots.push(driver.snapshot(&id, &format!("online-cut-{number}")).unwrap());
    }
    let output = writer.wait_with_output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.matches("err= 0").count() == 2, "{said}");
    assert!(!said.contains("verify:"), "{said}");
    let now = digests(&target);
    driver.detach(&id, &place).unwrap();
    let pauses = pauses(driver);
    assert_eq!(pauses.len(), SNAPSHOTS);
    println!("writers paused for {pauses:?} microseconds");
    for snapshot in rig.record(&id).snapshots {
        assert_eq!(snapshot.consistency, Consistency::Filesystem, "{}", snapshot.name);
    }

    let mut points = Vec::new();
    for (index, snapshot) in snapshots.iter().enumerate() {
        let files = rig.look(snapshot, &format!("look-{index}"));
        let markers = files.keys().filter(|name| name.starts_with("marker-")).count();
        assert_eq!(markers, index + 1, "what was written before the cut, and nothing later: {files:?}");
        points.push(Some(files));
    }
    // Newest (its layer stays as the boundary under the active image), middle, oldest.
    for (index, layers) in [(SNAPSHOTS - 1, SNAPSHOTS + 1), (2, SNAPSHOTS), (0, SNAPSHOTS - 1)] {
        driver.delete_snapshot(&snapshots[index].snapshot_id).unwrap();
        points[index] = None;
        rig.until_merged(&id, layers);
        for (other, files) in points.iter().enumerate() {
            let Some(files) = files else { continue };
            let found = rig.look(&snapshots[other], &format!("look-{other}-without-{index}"));
            assert_eq!(found, *files, "snapshot {other} after {index} was deleted");
        }
    }
    assert_eq!(digests(&driver.attach(&id, &place, Use::Ext4).unwrap()), now, "the volume");
    driver.detach(&id, &place).unwrap();
    for snapshot in [&snapshots[1], &snapshots[3]] {
        driver.delete_snapshot(&snapshot.snapshot_id).unwrap();
    }
    driver.delete(&id).unwrap();
}
