//! Verbs that work on a snapshot of a share, through the real binary: killed and gone on with, and repairs.

use crate::cli::Shell;
use crate::random::Random;
use crate::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
use crate::support::domain::Domain;
use crate::support::{qemu_io, run};
use rstest::rstest;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use strata::backup::store::{LocalStore, ObjectBacked, ObjectInfo, S3Options, Store};
use strata::volume::{SnapshotView, VolumeId, VolumeKind};
use tokio::runtime::Runtime;

/// Eight chunks that do not shrink; the rest of the volume is zeros.
const LENGTH: usize = 32 << 20;
const CHUNK: u64 = 4 << 20;

fn random(seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..LENGTH / 8).flat_map(|_| random.next().to_le_bytes()).collect()
}

/// A volume on a share, whose first bytes are written by qemu-io.
struct World {
    domain: Domain,
    volume: VolumeId,
    share: String,
}

impl World {
    fn new() -> World {
        let domain = Domain::new();
        let volume = domain.create("pvc", VolumeKind::Qcow2);
        let share = format!("--share=dir:{}", domain.dir.path().join("share").display());
        World { domain, volume, share }
    }

    fn snapshot(&self, name: &str, data: &[u8]) -> SnapshotView {
        let layout = self.domain.volumes.layout();
        let record = std::fs::read(layout.record(self.volume)).unwrap();
        let record = strata::volume::record::decode(&record).unwrap();
        let active = layout.image(self.volume, &record.active_layer().unwrap().file);
        let pattern = self.domain.dir.path().join("pattern");
        std::fs::write(&pattern, data).unwrap();
        let command = format!("write -s {} 0 {}", pattern.display(), data.len());
        run(qemu_io().to_str().unwrap(), &["-f", "qcow2", "-c", &command, active.to_str().unwrap()]);
        self.domain.volumes.snapshot(self.volume, name).unwrap()
    }

    fn create<'a>(&'a self, snapshot: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let sizes = ["--chunk-size=4M", "--hash-block=64K", "--parent=none"];
        [&["--snapshot", snapshot, &self.share][..], &sizes, more].concat()
    }
}

/// The same repository without the binary.
fn store(shell: &Shell, server: Option<&S3Server>) -> Arc<dyn Store> {
    let Some(server) = server else { return Arc::new(LocalStore::new(shell.path("repo"))) };
    let options = S3Options {
        endpoint: Some(server.endpoint.clone()),
        credentials: Some((ACCESS_KEY.to_owned(), SECRET_KEY.to_owned())),
        region: Some("eu-1".to_owned()),
        ..S3Options::default()
    };
    Arc::new(ObjectBacked::s3("volumebackups", "", &options).unwrap())
}

fn restored(shell: &Shell, backup: &str) -> Vec<u8> {
    let to: PathBuf = shell.path(&format!("restored-{backup}"));
    shell.json("restore", &["--backup", backup, "--to", to.to_str().unwrap()]);
    let bytes = crate::support::domain::read_start(&to, LENGTH);
    std::fs::remove_file(to).unwrap();
    bytes
}

/// B13, for real: the process is gone in mid-upload without a word. No listing shows its backup, and the next attempt
/// puts only what is not there.
#[rstest]
fn killed_in_mid_upload_and_gone_on_with(#[values(false, true)] on_s3: bool) {
    let (world, server) = (World::new(), on_s3.then(S3Server::start));
    let shell = server.as_ref().map_or_else(Shell::local, Shell::s3);
    let data = random(1);
    let handle = world.snapshot("one", &data).handle.to_string();
    let (store, runtime) = (store(&shell, server.as_ref()), Runtime::new().unwrap());
    let chunks = || -> BTreeMap<String, ObjectInfo> {
        let found = runtime.block_on(store.list("volume_")).unwrap_or_default();
        found.into_iter().map(|object| (object.key.clone(), object)).collect()
    };
    let mut killed = Command::new(env!("CARGO_BIN_EXE_strata"));
    killed.args(["backup", "create"]).args(&shell.repository).envs(shell.variables.iter().copied());
    killed.args(world.create(&handle, &["--resume=auto", "--limit-rate=4M"]));
    let mut killed = killed.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while chunks().len() < 3 {
        assert!(Instant::now() < deadline && killed.try_wait().unwrap().is_none(), "{:?}", chunks());
        std::thread::sleep(Duration::from_millis(20));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let mut left = chunks();
    assert!(left.len() < 256 && left.keys().all(|key| !key.ends_with("_metadata")), "{left:?}");
    assert_eq!(shell.json("list", &[]), serde_json::json!([]));
    let made = shell.json("create", &world.create(&handle, &["--resume=auto"]));
    let backup = made["backup_id"].as_str().unwrap();
    assert!(left.keys().all(|key| key.contains(backup)), "another backup was begun: {made}");
    // The first one alone is put again, so that a backup that is worked on never looks old.
    left.retain(|key, _| !key.ends_with("-00001"));
    assert_eq!(
        made["bytes_resumed"],
        left.values().map(|object| object.size).sum::<u64>(),
        "{made} {left:?}"
    );
    let now = chunks();
    assert!(left.iter().all(|(key, object)| now[key] == *object), "put again: {left:?} {now:?}");
    assert_eq!(shell.json("list", &[]).as_array().unwrap().len(), 1);
    assert_eq!(shell.json("verify", &["--all", "--data"])["good"], true);
    assert!(restored(&shell, backup) == data);
    // Complete: the next attempt is another backup.
    let other = shell.json("create", &world.create(&handle, &["--resume=auto"]));
    assert_ne!(other["backup_id"], made["backup_id"]);
}

/// K12: lost chunks come back from the snapshot, also from a later one as far as it still has the blocks.
#[test]
fn repaired_from_a_snapshot() {
    let (world, shell) = (World::new(), Shell::local());
    let mut data = random(1);
    let first = world.snapshot("one", &data).handle.to_string();
    let made = shell.json("create", &world.create(&first, &[]));
    let (backup, prefix) = (made["backup_id"].as_str().unwrap(), made["prefix"].as_str().unwrap());
    let before = data.clone();
    // In the third chunk.
    data[(2 * CHUNK) as usize + 5000] ^= 1;
    let second = world.snapshot("two", &data).handle.to_string();
    let chunk = |number: u32| shell.path("repo").join(format!("{prefix}-{number:05}"));
    let (lost, changed) = (chunk(2), chunk(3));
    let repair = |snapshot: &str| {
        let output =
            shell.run("repair", &["--backup", backup, "--snapshot", snapshot, &world.share, "-o", "json"]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        (output.status.code(), report)
    };
    std::fs::remove_file(&lost).unwrap();
    std::fs::remove_file(&changed).unwrap();
    let (code, report) = repair(&second);
    assert_eq!((code, &report["good"]), (Some(5), &false.into()), "{report}");
    assert_eq!(report["repaired"].as_array().unwrap().len(), 1, "{report}");
    assert!(lost.exists() && !changed.exists());
    let (code, report) = repair(&first);
    assert_eq!((code, &report["good"]), (Some(0), &true.into()), "{report}");
    assert!(report["repaired"][0]["from"][0].is_string(), "{report}");
    assert_eq!(shell.json("verify", &["--all", "--data"])["good"], true);
    assert!(restored(&shell, backup) == before);
    // Nothing stays pinned.
    let record = std::fs::read(world.domain.volumes.layout().record(world.volume)).unwrap();
    assert!(!String::from_utf8_lossy(&record).contains("strata backup"), "a pin is left");
}
