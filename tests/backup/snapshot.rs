//! Backups of snapshots on a share, and the chains that they are read from.

use crate::support::{qemu_img, qemu_io as qemu_io_program, qemu_storage_daemon};
use crate::util::noise;
use rstest::rstest;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use strata::gluster::{self, ShareKey, Source};
use strata::image::{ChainReader, Format, ImageRef, ReadError};
use strata::qsd::LocalDaemons;
use strata::volume::{
    AgentError, Agents, CreateVolume, CutOrder, CutReport, GrowOrder, GrowReport, MergeCall, MergeReport,
    NodeId, OpenImage, Policy, Tools, VolumeId, VolumeKind, Volumes,
};

fn run(program: &Path, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn qemu_io(image: &Path, format: &str, commands: &[&str]) {
    let mut args = vec!["-f", format];
    args.extend(commands.iter().flat_map(|command| ["-c", *command]));
    args.push(image.to_str().unwrap());
    run(&qemu_io_program(), &args);
}

/// Nothing is attached in these tests, so nobody is asked.
struct Nobody;

impl Agents for Nobody {
    fn merge(&self, node: &NodeId, _: &str, _: &MergeCall) -> Result<MergeReport, AgentError> {
        Err(AgentError::Unreachable { reason: node.to_string() })
    }
    fn cut(&self, node: &NodeId, _: &str, _: &CutOrder) -> Result<CutReport, AgentError> {
        Err(AgentError::Unreachable { reason: node.to_string() })
    }
    fn grow(&self, node: &NodeId, _: &str, _: &GrowOrder) -> Result<GrowReport, AgentError> {
        Err(AgentError::Unreachable { reason: node.to_string() })
    }
    fn status(
        &self,
        node: &NodeId,
        _: &str,
        _: &ShareKey,
        _: VolumeId,
        _: u64,
    ) -> Result<Option<OpenImage>, AgentError> {
        Err(AgentError::Unreachable { reason: node.to_string() })
    }
    fn release(&self, node: &NodeId, _: &str, _: &ShareKey, _: VolumeId) -> Result<(), AgentError> {
        Err(AgentError::Unreachable { reason: node.to_string() })
    }
}

/// G10, B6, B10: two snapshots of a volume, full and incremental, each restores to its own bytes; the
/// pins are gone afterwards.
#[rstest]
fn snapshots_of_a_share(#[values(VolumeKind::Qcow2, VolumeKind::RawSparse)] kind: VolumeKind) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("share");
    fs::create_dir(&root).unwrap();
    let text = format!("dir:{}", root.display());
    let source: Source = text.parse().unwrap();
    let (share, _) = gluster::open(&source, &[], &folder.path().join("mounts")).unwrap();
    let daemon = qemu_storage_daemon();
    let daemons = Arc::new(LocalDaemons::new(daemon, folder.path().join("daemons")));
    let volumes = Volumes::new(
        share,
        Tools { qemu_img: qemu_img(), daemons, agents: Arc::new(Nobody), policy: Policy::default() },
    );
    let request = CreateVolume {
        name: "pvc-1".to_owned(),
        required: Some(1 << 30),
        limit: None,
        kind,
        source: None,
        parameters: [("colour".to_owned(), "blue".to_owned())].into(),
    };
    let volume = volumes.create(&request).unwrap().handle.volume;
    let home = root.join("volumes").join(volume.uuid().to_string());
    let base = home.join(format!("volume-{volume}"));
    let format = if kind == VolumeKind::Qcow2 { "qcow2" } else { "raw" };
    qemu_io(&base, format, &["write -P 0x5a 1M 300k", "write -P 0x11 1023M 1M"]);
    let first = volumes.snapshot(volume, "one").unwrap();
    let info: Value = serde_json::from_slice(&fs::read(home.join("volume.info")).unwrap()).unwrap();
    let active = home.join(info["active"].as_str().unwrap());
    qemu_io(&active, "qcow2", &["write -P 0xa5 1M 4k", "write -z 1023M 64k"]);
    let second = volumes.snapshot(volume, "two").unwrap();

    let strata = Path::new(env!("CARGO_BIN_EXE_strata"));
    let repository = format!("--repository=file://{}", folder.path().join("repo").display());
    let backup = |handle: &str| -> Value {
        let args = ["backup", "create", &repository, "-o", "json", "--share", &text, "--snapshot", handle];
        let pinned = || {
            let record: Value = serde_json::from_slice(&fs::read(home.join("volume.json")).unwrap()).unwrap();
            record.to_string().contains("strata backup create")
        };
        let ended = std::sync::atomic::AtomicBool::new(false);
        let (made, seen) = std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut seen = false;
                while !ended.load(std::sync::atomic::Ordering::SeqCst) && !seen {
                    seen = pinned();
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                seen
            });
            let made = std::panic::catch_unwind(|| run(strata, &args));
            ended.store(true, std::sync::atomic::Ordering::SeqCst);
            (made, watch.join().unwrap())
        });
        let made = serde_json::from_str(&made.unwrap()).unwrap();
        assert!(seen, "nothing was pinned while it was read");
        assert!(!pinned(), "a pin is left");
        made
    };
    let full = backup(&first.handle.to_string());
    let incremental = backup(&second.handle.to_string());
    assert!(full["bytes_read"].as_u64().unwrap() < 2 << 20, "holes are not read: {full}");
    assert_eq!(incremental["parent_id"], full["backup_id"]);
    assert_eq!(incremental["bytes_changed"], 32768 + 65536);
    let expect = |backup: &Value, bytes: &[(u64, u8)]| {
        let id = backup["backup_id"].as_str().unwrap();
        let to = folder.path().join(id);
        run(strata, &["backup", "restore", &repository, "--backup", id, "--to", to.to_str().unwrap()]);
        let file = fs::File::open(&to).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 1 << 30);
        for (offset, byte) in bytes {
            let mut found = [0; 4096];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut found, *offset).unwrap();
            assert!(found == [*byte; 4096], "at {offset}");
        }
    };
    let (mib, kib) = (1 << 20, 1 << 10);
    expect(
        &full,
        &[(0, 0), (mib, 0x5a), (mib + 4 * kib, 0x5a), (1023 * mib, 0x11), (1024 * mib - 4096, 0x11)],
    );
    expect(
        &incremental,
        &[(0, 0), (mib, 0xa5), (mib + 4 * kib, 0x5a), (1023 * mib, 0), (1024 * mib - 4096, 0x11)],
    );
    let shown =
        run(strata, &["backup", "show", &repository, "--backup", full["backup_id"].as_str().unwrap()]);
    assert!(shown.contains("\"strata.parameter.colour\":\"blue\""), "{shown}");
    let unknown =
        first.handle.to_string().replace(&first.handle.snapshot.to_string(), &uuid::Uuid::nil().to_string());
    let args = ["backup", "create", &repository, "--share", &text, "--snapshot", &unknown];
    let output = Command::new(strata).args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

/// A chain of raw and qcow2 reads as QEMU reads it; what no layer stores is no data.
#[test]
fn a_chain_reads_as_qemu_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut base = vec![0; 2 << 20];
    base[100_000..500_000].copy_from_slice(&noise(1, 400_000));
    fs::write(path("base"), &base).unwrap();
    fs::File::options().write(true).open(path("base")).unwrap().set_len(4 << 20).unwrap();
    let overlay = |name: &str, below: &str, format: &str, size: &str| {
        let file = path(name);
        let args = ["create", "-q", "-f", "qcow2", "-b", below, "-F", format, file.to_str().unwrap(), size];
        run(&qemu_img(), &args);
    };
    overlay("middle", "base", "raw", "4M");
    qemu_io(&path("middle"), "qcow2", &["write -P 7 256k 64k", "write -z 320k 64k"]);
    overlay("top", "middle", "qcow2", "6M");
    qemu_io(&path("top"), "qcow2", &["write -P 9 5M 10k", "write -z 256k 4k"]);
    let image = |name: &str, format| ImageRef { path: path(name), format };
    let chain = [image("top", Format::Qcow2), image("middle", Format::Qcow2), image("base", Format::Raw)];
    let reader = ChainReader::open(&chain).unwrap();
    let flat = path("flat");
    let (top, flat_text) = (path("top"), flat.to_str().unwrap().to_owned());
    run(&qemu_img(), &["convert", "-f", "qcow2", "-O", "raw", top.to_str().unwrap(), &flat_text]);
    let expected = fs::read(&flat).unwrap();
    assert_eq!(reader.size(), 6 << 20);
    let mut found = vec![1; 6 << 20];
    reader.read_at(&mut found, 0).unwrap();
    assert!(found == expected);
    let extents = reader.extents(0..6 << 20).unwrap();
    assert_eq!((extents[0].range.start, extents.last().unwrap().range.end), (0, 6 << 20));
    assert!(
        extents
            .windows(2)
            .all(|pair| pair[0].range.end == pair[1].range.start && pair[0].data != pair[1].data)
    );
    for hole in extents.iter().filter(|extent| !extent.data) {
        assert!(expected[hole.range.start as usize..hole.range.end as usize].iter().all(|b| *b == 0));
    }
    let stored: u64 = extents.iter().filter(|e| e.data).map(|e| e.range.end - e.range.start).sum();
    assert!(stored < 3 << 20, "{extents:?}");
    assert!(reader.read_at(&mut [0; 2], (6 << 20) - 1).is_err());
    // The header and the chain must agree; the raw base is never taken for anything else.
    for wrong in [&chain[..1], &chain[..2]] {
        assert!(matches!(ChainReader::open(wrong), Err(ReadError::ChainMismatch { .. })));
    }
    assert!(matches!(ChainReader::open(&[]), Err(ReadError::EmptyChain)));
    assert!(matches!(ChainReader::open(&[image("base", Format::Qcow2)]), Err(ReadError::OpenImage { .. })));
}

/// A guest that wrote a qcow2 header into its raw disk gains nothing; an external data file is refused.
#[test]
fn formats_are_never_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (disk, data) = (path("disk"), path("data"));
    run(&qemu_img(), &["create", "-q", "-f", "qcow2", disk.to_str().unwrap(), "1M"]);
    let bytes = fs::read(&disk).unwrap();
    let reader = ChainReader::open(&[ImageRef { path: disk.clone(), format: Format::Raw }]).unwrap();
    let mut found = vec![0; bytes.len()];
    reader.read_at(&mut found, 0).unwrap();
    assert!(reader.size() == bytes.len() as u64 && found == bytes);
    let option = format!("data_file={}", data.display());
    run(&qemu_img(), &["create", "-q", "-f", "qcow2", "-o", &option, path("ext").to_str().unwrap(), "1M"]);
    let external = ChainReader::open(&[ImageRef { path: path("ext"), format: Format::Qcow2 }]);
    assert!(matches!(external, Err(ReadError::ExternalData { .. })), "{:?}", external.err());
}
