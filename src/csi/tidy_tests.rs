use super::*;
use crate::agent::{AgentClient, CUT_LIMIT};
use crate::csi::{OpenShare, ShareSpec};
use crate::gluster::{self, Share};
use crate::qsd::LocalDaemons;
use crate::volume::{Policy, Tools};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

struct Directories;

impl OpenShare for Directories {
    fn open(&self, spec: &ShareSpec) -> Result<Share, String> {
        let opened = gluster::open(&spec.source, &[], Path::new("/unused"));
        opened.map(|(share, _)| share).map_err(|error| error.to_string())
    }
}

/// A folder that a volume's making left without a record: work that a sweep has to find.
fn leftover(root: &Path, name: &str) -> std::path::PathBuf {
    let folder = root.join("volumes").join(VolumeId::from_name(name).to_string());
    std::fs::create_dir(&folder).unwrap();
    folder
}

fn gone_within(path: &Path, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while path.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    !path.exists()
}

/// G1: a share that hangs stops no sweep of another one, and is not read a second time beside the first.
#[test]
fn a_share_that_hangs_stops_no_sweep() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (hanging, live) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let spec = |dir: &tempfile::TempDir| ShareSpec {
        source: format!("dir:{}", dir.path().display()).parse().unwrap(),
        options: Vec::new(),
    };
    let tools = Tools {
        qemu_img: "/no/such/qemu-img".into(),
        daemons: Arc::new(LocalDaemons::new("none".into(), "/nowhere".into())),
        agents: Arc::new(AgentClient::new(runtime.handle().clone(), CUT_LIMIT)),
        policy: Policy::default(),
    };
    let shares = Shares::new(vec![spec(&hanging), spec(&live)], Arc::new(Directories), tools);
    shares.specs().iter().for_each(|spec| shares.look(spec));
    // Reading a pipe that nobody writes to hangs, as a share without its servers does.
    let pipe = leftover(hanging.path(), "stuck").join("volume.json");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let tidy = Tidy::new(runtime.handle().clone());
    for name in ["one", "two"] {
        let folder = leftover(live.path(), name);
        tidy.sweep(&shares);
        assert!(gone_within(&folder, Duration::from_secs(10)), "{name} waits for the share that hangs");
        assert_eq!(tidy.listing.lock().unwrap().len(), 1);
    }
    let mut writer = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    std::io::Write::write_all(&mut writer, b"no record").unwrap();
    drop(writer);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !tidy.listing.lock().unwrap().is_empty() {
        assert!(Instant::now() < deadline, "the share answers, and is still left out");
        std::thread::sleep(Duration::from_millis(10));
    }
}
