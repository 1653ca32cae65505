//! Export: any volume and any snapshot, flat, in a file or an object; nothing half is ever left (G13).

use crate::driver::{Driver, Use, new_volume};
use crate::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
use crate::support::disk::LIMIT;
use crate::support::domain::{Domain, read_start, write_at};
use crate::{answer, command, said, strata};
use rstest::rstest;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use strata::backup::store::{ObjectBacked, S3Options, Store};
use strata::image::{Format, ImageRef, QemuImg};
use strata::volume::{Access, VolumeId, VolumeKind, VolumeSource};

const KIB: usize = 1024;

fn sha256(path: &Path) -> String {
    let mut hash = Sha256::new();
    std::io::copy(&mut std::fs::File::open(path).unwrap(), &mut HashWriter(&mut hash)).unwrap();
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A volume with a snapshot and something written after it; answers what both read back.
fn volume_with_history(domain: &Domain, kind: VolumeKind) -> (VolumeId, String, Vec<u8>, Vec<u8>) {
    let volume = domain.create("pvc-exported", kind);
    let device = domain.attach(volume, Access::Block);
    let mut bytes = vec![0; 512 * KIB];
    bytes[64 * KIB..200 * KIB].fill(1);
    write_at(&device, 0, &bytes);
    domain.detach(volume);
    let snapshot = domain.volumes.snapshot(volume, "then").unwrap().handle.to_string();
    let then = bytes.clone();
    let device = domain.attach(volume, Access::Block);
    bytes[128 * KIB..300 * KIB].fill(2);
    write_at(&device, 0, &bytes);
    domain.detach(volume);
    (volume, snapshot, then, bytes)
}

#[rstest]
fn a_volume_and_its_snapshot_become_flat_files(
    #[values(VolumeKind::Qcow2, VolumeKind::RawSparse)] kind: VolumeKind,
) {
    let domain = Domain::new();
    let (volume, snapshot, then, now) = volume_with_history(&domain, kind);
    let handle = domain.volumes.handle(volume).to_string();
    let img = QemuImg::new(crate::support::qemu_img());
    for (what, expected) in [(&handle, &now), (&snapshot, &then)] {
        for (format, compress) in [("raw", false), ("qcow2", false), ("qcow2", true)] {
            let to = domain.dir.path().join(format!("{}-{format}-{compress}", expected[150 * KIB]));
            let mut arguments = vec![what.as_str(), "--to", to.to_str().unwrap(), "--format", format];
            arguments.extend(compress.then_some("--compress"));
            let exported = answer(&domain.volumes, "export", &arguments);
            assert_eq!(exported["sha256"], sha256(&to), "{exported}");
            let meta = std::fs::metadata(&to).unwrap();
            assert_eq!((&exported["bytes"], &exported["size"]), (&json!(meta.len()), &json!(1 << 30)));
            assert!(meta.blocks() * 512 < 1 << 20, "{} takes {}", to.display(), meta.blocks() * 512);
            assert_eq!(meta.mode() & 0o777, 0o600);
            let format = if format == "raw" { Format::Raw } else { Format::Qcow2 };
            let flat = domain.dir.path().join("flat");
            img.convert(&[ImageRef { path: to.clone(), format }], &flat, Format::Raw, LIMIT).unwrap();
            assert!(read_start(&flat, expected.len()) == *expected, "{arguments:?}");
            assert_eq!(std::fs::metadata(&flat).unwrap().len(), 1 << 30);
            std::fs::remove_file(flat).unwrap();
            if format == Format::Qcow2 {
                assert!(img.check(&to, format, LIMIT).unwrap().ok);
            }
        }
    }
    let record = std::fs::read_to_string(domain.volumes.layout().record(volume)).unwrap();
    assert!(!record.contains("strata volume export"), "a pin is left: {record}");
    // The boundary that the export made goes like any other, and nothing changes with it.
    domain.volumes.tidy(volume).unwrap();
    assert!(domain.read(volume, now.len()) == now);
}

#[test]
fn a_clone_whose_chain_goes_through_two_volumes_is_one_file() {
    let domain = Domain::new();
    let (volume, snapshot, then, _) = volume_with_history(&domain, VolumeKind::RawSparse);
    let source = Some(VolumeSource::Snapshot(snapshot.parse().unwrap()));
    let clone = domain.create_from("pvc-clone", VolumeKind::Qcow2, source);
    let to = domain.dir.path().join("clone.raw");
    let handle = domain.volumes.handle(clone).to_string();
    answer(&domain.volumes, "export", &[&handle, "--to", &format!("file://{}", to.display())]);
    assert!(read_start(&to, then.len()) == then);
    for volume in [volume, clone] {
        let record = std::fs::read_to_string(domain.volumes.layout().record(volume)).unwrap();
        assert!(!record.contains("strata volume export"), "a pin is left: {record}");
    }
}

#[test]
fn what_is_there_is_replaced_only_when_asked() {
    let domain = Domain::new();
    let volume = domain.create("pvc-exported", VolumeKind::Qcow2);
    let handle = domain.volumes.handle(volume).to_string();
    let to = domain.dir.path().join("precious");
    std::fs::write(&to, "mine").unwrap();
    let refused = strata(&domain.volumes, "export", &[&handle, "--to", to.to_str().unwrap()]);
    assert!(refused.status.code() == Some(4) && said(&refused).contains("--force"), "{}", said(&refused));
    assert_eq!(std::fs::read(&to).unwrap(), b"mine");
    answer(&domain.volumes, "export", &[&handle, "--to", to.to_str().unwrap(), "--force"]);
    assert_eq!(std::fs::metadata(&to).unwrap().len(), 1 << 30);

    let beside = domain.volumes.layout().volume(volume).join("volume-copy");
    let refused = strata(&domain.volumes, "export", &[&handle, "--to", beside.to_str().unwrap()]);
    assert!(refused.status.code() == Some(4) && said(&refused).contains("share"), "{}", said(&refused));
    let usage = strata(&domain.volumes, "export", &[&handle, "--to", "x", "--compress"]);
    assert_eq!(usage.status.code(), Some(2));
    let unknown = handle.replace(&volume.to_string(), "6f1d3c52-8b7a-4d0e-9a41-52c71e0b7a01");
    let missing = strata(&domain.volumes, "export", &[&unknown, "--to", "/tmp/never"]);
    assert_eq!(missing.status.code(), Some(3), "{}", said(&missing));
}

#[test]
fn an_export_that_is_stopped_leaves_nothing() {
    let domain = Domain::new();
    let volume = domain.create("pvc-large", VolumeKind::RawSparse);
    let image = domain.volumes.layout().image(volume, &domain.files(volume)[0]);
    // Enough to be stopped in the middle of, however fast the machine is.
    std::fs::File::options().write(true).open(&image).unwrap().set_len(1 << 30).unwrap();
    for at in 0..200 {
        write_at(&image, at << 20, &[at as u8 + 1; 1 << 20]);
    }
    let handle = domain.volumes.handle(volume).to_string();
    let folder = domain.dir.path().join("exports");
    std::fs::create_dir(&folder).unwrap();
    let names = || std::fs::read_dir(&folder).unwrap().count();
    for (signal, format) in [(libc::SIGINT, "raw"), (libc::SIGTERM, "qcow2")] {
        let to = folder.join("large");
        let mut child = command(&domain.volumes, "export", &[&handle, "--to", to.to_str().unwrap()])
            .args(["--format", format])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while names() == 0 {
            assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "it made no file");
            std::thread::sleep(Duration::from_millis(1));
        }
        // SAFETY: kill(2) on our own child, which was not waited for.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
        let output = child.wait_with_output().unwrap();
        let expected = (Some(128 + signal), None);
        assert_eq!((output.status.code(), output.status.signal()), expected, "{}", said(&output));
        assert!(said(&output).contains("cancelled"), "{}", said(&output));
        assert_eq!(names(), 0, "a file is left");
        let record = std::fs::read_to_string(domain.volumes.layout().record(volume)).unwrap();
        assert!(!record.contains("strata volume export"), "a pin is left: {record}");
    }
}

#[test]
fn a_volume_becomes_one_object() {
    let domain = Domain::new();
    let (volume, _, _, now) = volume_with_history(&domain, VolumeKind::Qcow2);
    let handle = domain.volumes.handle(volume).to_string();
    let server = S3Server::start();
    let options = S3Options {
        endpoint: Some(server.endpoint.clone()),
        credentials: Some((ACCESS_KEY.to_owned(), SECRET_KEY.to_owned())),
        ..S3Options::default()
    };
    let store = ObjectBacked::s3("disks", "", &options).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let upload = |to: &str, more: &[&str]| {
        let mut command = command(&domain.volumes, "export", &[&handle, "--to", to, "-o", "json"]);
        command.args(["--endpoint", &server.endpoint]).args(more);
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command.output().unwrap()
    };
    let no_bucket = upload("s3://disks/one", &[]);
    assert!(
        no_bucket.status.code() == Some(3) && said(&no_bucket).contains("does not exist"),
        "{}",
        said(&no_bucket)
    );
    runtime.block_on(store.ensure()).unwrap();

    runtime.block_on(store.put("a/one", "mine".into())).unwrap();
    let taken = upload("s3://disks/a/one", &["--format", "qcow2"]);
    assert!(taken.status.code() == Some(4) && said(&taken).contains("--force"), "{}", said(&taken));
    let done = upload("s3://disks/a/one", &["--format", "qcow2", "--force"]);
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    let exported: Value = serde_json::from_slice(&done.stdout).unwrap();
    let object = runtime.block_on(store.get("a/one", 2 << 20)).unwrap();
    assert_eq!(exported["bytes"], object.len());
    let to = domain.dir.path().join("one.qcow2");
    std::fs::write(&to, object).unwrap();
    assert_eq!(exported["sha256"], sha256(&to));
    let (flat, img) = (domain.dir.path().join("flat"), QemuImg::new(crate::support::qemu_img()));
    img.convert(&[ImageRef { path: to, format: Format::Qcow2 }], &flat, Format::Raw, LIMIT).unwrap();
    assert!(read_start(&flat, now.len()) == now);
    let listed = runtime.block_on(store.list("")).unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
}

/// The cut of a volume that a pod writes to goes through its node.
#[test]
fn a_volume_in_use_is_exported_as_it_was_at_one_instant() {
    crate::support::need_root();
    let dir = crate::support::scratch();
    let root = dir.path().join("share");
    std::fs::create_dir(&root).unwrap();
    let share = format!("dir:{}", root.display());
    let program = Path::new(env!("CARGO_BIN_EXE_strata"));
    let mut driver = Driver::prepare(program, &dir.path().join("d"), &[&share], "node-1");
    let (img, daemon) = (crate::support::qemu_img(), crate::support::qemu_storage_daemon());
    let environment = [
        ("STRATA_QEMU_IMG", img.to_str().unwrap()),
        ("STRATA_QEMU_STORAGE_DAEMON", daemon.to_str().unwrap()),
    ];
    driver.set_environment(&environment);
    driver.launch();
    let volume = driver.create(new_volume("pvc-used", 1 << 30, Use::Ext4, &[])).unwrap().volume_id;
    let target = driver.attach(&volume, &dir.path().join("pod"), Use::Ext4).unwrap();
    std::fs::write(target.join("file"), "written, and never synced").unwrap();
    let to = dir.path().join("used.raw");
    let mut export = Command::new(program);
    export.args(["volume", "export", &volume, "--share", &share, "--to", to.to_str().unwrap()]);
    let output = export.envs(environment).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    std::fs::write(target.join("file"), "later").unwrap();

    let mounted = dir.path().join("look");
    std::fs::create_dir(&mounted).unwrap();
    crate::support::run("mount", &["-o", "loop,ro,noload", to.to_str().unwrap(), mounted.to_str().unwrap()]);
    let found = std::fs::read_to_string(mounted.join("file"));
    crate::support::run("umount", &[mounted.to_str().unwrap()]);
    assert_eq!(found.unwrap(), "written, and never synced");
    driver.detach(&volume, &dir.path().join("pod")).unwrap();
    assert!(driver.teardown());
}
