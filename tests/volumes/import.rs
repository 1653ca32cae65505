//! Import: a file becomes a volume that is used like any other (K8).

use crate::support::disk::LIMIT;
use crate::support::domain::{Domain, read_start, write_at};
use crate::support::small_share::SmallShare;
use crate::support::{qemu_img, run};
use crate::{answer, command, said, strata};
use rstest::rstest;
use serde_json::json;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use strata::image::lock::ImageLock;
use strata::image::{Format, QemuImg};
use strata::volume::{Access, CreateVolume, Error, Policy, VolumeHandle, VolumeKind};

fn img(arguments: &[&str]) {
    run(qemu_img().to_str().unwrap(), arguments);
}

/// An image of 100 MiB and a bit that begins with these bytes.
fn image(domain: &Domain, name: &str, format: &str, bytes: &[u8]) -> String {
    let raw = domain.dir.path().join(format!("{name}.raw"));
    std::fs::File::create(&raw).unwrap().set_len((100 << 20) + 512).unwrap();
    write_at(&raw, 0, bytes);
    let raw = raw.to_str().unwrap();
    let options: &[&str] = match format {
        "raw" => return raw.to_owned(),
        "old" => &["-O", "qcow2", "-o", "compat=0.10"],
        "small" => &["-c", "-O", "qcow2", "-o", "compression_type=zstd"],
        _ => &["-O", "qcow2"],
    };
    let path = domain.dir.path().join(format!("{name}.qcow2"));
    let path = path.to_str().unwrap().to_owned();
    img(&[&["convert", "-f", "raw"], options, &[raw, &path]].concat());
    path
}

#[rstest]
fn a_file_becomes_a_volume(
    #[values("raw", "qcow2", "old", "small")] from: &str,
    #[values("raw", "qcow2")] kind: &str,
) {
    let domain = Domain::new();
    let volumes = &domain.volumes;
    let bytes = [vec![7; 100 << 10], vec![0; 50 << 10], vec![9; 1 << 10]].concat();
    let file = image(&domain, "disk", from, &bytes);
    let before = std::fs::read(&file).unwrap();
    let format = if from == "raw" { "raw" } else { "qcow2" };
    let arguments = [file.as_str(), "--name", "vm-1", "--format", format, "--kind", kind];
    let imported = answer(volumes, "import", &arguments);
    assert_eq!((&imported["name"], &imported["capacity"]), (&json!("vm-1"), &json!(1 << 30)));
    assert_eq!(std::fs::read(&file).unwrap(), before);
    let handle: VolumeHandle = imported["handle"].as_str().unwrap().parse().unwrap();
    let volume = handle.volume;
    // A frozen base and an overlay, so that a first delta is known.
    let shown = answer(volumes, "show", &[&handle.to_string()]);
    let formats: Vec<_> =
        shown["chains"][0].as_array().unwrap().iter().map(|layer| &layer["format"]).collect();
    assert_eq!(formats, [&json!("qcow2"), &json!(kind)]);
    assert_eq!(shown["new"], false);
    domain.check(volume);
    assert!(volumes.inspect(volume).unwrap().problems.is_empty());

    let device = domain.attach(volume, Access::Block);
    assert!(read_start(&device, bytes.len()) == bytes);
    let end = (100u64 << 20) + 512;
    write_at(&device, end - 512, &[5; 1024]);
    domain.detach(volume);
    let snapshot = volumes.snapshot(volume, "s1").unwrap();
    assert!(domain.read_snapshot(&snapshot, bytes.len()) == bytes);
    // The same again finds it, though it was written to.
    assert_eq!(answer(volumes, "import", &arguments), imported);
}

#[test]
fn a_name_that_is_taken_stays_what_it_is() {
    let domain = Domain::new();
    let volumes = &domain.volumes;
    let (one, two) = (image(&domain, "one", "raw", &[1; 512]), image(&domain, "two", "raw", &[2; 512]));
    let import =
        |file: &str, name: &str| strata(volumes, "import", &[file, "--name", name, "--format", "raw"]);
    assert_eq!(import(&one, "vm").status.code(), Some(0));
    let other = import(&two, "vm");
    assert!(other.status.code() == Some(4) && said(&other).contains("another file"), "{}", said(&other));
    domain.create("pvc-1", VolumeKind::Qcow2);
    let made = import(&one, "pvc-1");
    assert!(made.status.code() == Some(4) && said(&made).contains("not imported"), "{}", said(&made));
    // Nor does CreateVolume take an imported volume for its own.
    let request = CreateVolume {
        name: "vm".into(),
        required: None,
        limit: None,
        kind: VolumeKind::Qcow2,
        source: None,
        parameters: Default::default(),
    };
    assert!(matches!(volumes.create(&request), Err(Error::NameTaken { .. })));
    // Deleted, its name is free for either.
    let volume = strata::volume::VolumeId::from_name("vm");
    volumes.delete(volume).unwrap();
    volumes.create(&request).unwrap();
    volumes.delete(volume).unwrap();
    assert_eq!(import(&two, "vm").status.code(), Some(0));
    assert!(domain.read(volume, 512) == [2; 512]);
}

#[test]
fn what_is_no_whole_disk_is_refused_and_leaves_nothing() {
    let domain = Domain::new();
    let volumes = &domain.volumes;
    let path = |name: &str| domain.dir.path().join(name).to_str().unwrap().to_owned();
    let base = image(&domain, "base", "qcow2", &[1; 512]);
    img(&["create", "-q", "-f", "qcow2", "-b", &base, "-F", "qcow2", &path("overlay")]);
    img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        &format!("data_file={}", path("data")),
        &path("external"),
        "1M",
    ]);
    let secret = ["--object", "secret,id=s,data=abc"];
    let luks = ["-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"];
    img(&[&["create", "-q", "-f", "qcow2"], &secret[..], &luks[..], &[&path("secret"), "1M"]].concat());
    std::fs::write(path("empty"), "").unwrap();
    let import =
        |file: &str, format: &str| strata(volumes, "import", &[file, "--name", "vm", "--format", format]);
    for (file, format, reason) in [
        ("overlay", "qcow2", "stands on"),
        ("external", "qcow2", "another file"),
        ("secret", "qcow2", "encrypted"),
        ("base.raw", "qcow2", "magic"),
        ("empty", "raw", "empty"),
        ("missing", "raw", "No such file"),
        (".", "raw", "no file"),
    ] {
        let refused = import(&path(file), format);
        assert!(!refused.status.success() && said(&refused).contains(reason), "{file}: {}", said(&refused));
    }
    let held = ImageLock::write(&PathBuf::from(&base)).unwrap();
    let refused = import(&base, "qcow2");
    assert!(!refused.status.success() && said(&refused).contains("in use"), "{}", said(&refused));
    drop(held);
    assert_eq!(answer(volumes, "list", &["--all"]), json!([]));
    assert_eq!(volumes.list().unwrap(), []);
}

/// Said to be raw, a file with a qcow2 header is a disk that begins with one.
#[test]
fn the_format_is_what_is_said() {
    let domain = Domain::new();
    let file = image(&domain, "disk", "qcow2", &[1; 512]);
    let imported = answer(&domain.volumes, "import", &[&file, "--name", "vm", "--format", "raw"]);
    let handle: VolumeHandle = imported["handle"].as_str().unwrap().parse().unwrap();
    assert!(domain.read(handle.volume, 4) == *b"QFI\xfb");
    QemuImg::new(qemu_img()).check(&PathBuf::from(file), Format::Qcow2, LIMIT).unwrap();
}

#[test]
fn an_import_that_is_stopped_leaves_nothing() {
    let domain = Domain::new();
    let volumes = &domain.volumes;
    let file = domain.dir.path().join("large.raw");
    std::fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
    for at in 0..200 {
        write_at(&file, at << 20, &[at as u8 + 1; 1 << 20]);
    }
    let arguments = [file.to_str().unwrap(), "--name", "vm", "--format", "raw"];
    let mut child = command(volumes, "import", &arguments);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let folder = volumes.layout().volume(strata::volume::VolumeId::from_name("vm"));
    let copying = || {
        let names = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        names.filter(|entry| entry.file_name().to_string_lossy().ends_with(".tmp")).count() > 0
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while !copying() {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "it copied nothing");
        std::thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: kill(2) on our own child, which was not waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.code() == Some(1) && said(&output).contains("cancelled"), "{}", said(&output));
    assert_eq!(volumes.list().unwrap(), []);
    answer(volumes, "import", &arguments);
}

#[test]
fn a_manifest_is_what_static_provisioning_needs() {
    let domain = Domain::new();
    let file = image(&domain, "disk", "raw", &[1; 512]);
    let arguments = [file.as_str(), "--name", "vm", "--format", "raw", "--manifest", "--namespace", "apps"];
    let imported = answer(&domain.volumes, "import", &[&arguments[..], &["--claim", "data"]].concat());
    let (volume, claim) = (&imported["manifest"][0], &imported["manifest"][1]);
    assert_eq!(volume["kind"], "PersistentVolume");
    assert_eq!(volume["spec"]["csi"]["volumeHandle"], imported["handle"]);
    assert_eq!(volume["spec"]["csi"]["driver"], "csi.strata.dev");
    assert_eq!(volume["spec"]["capacity"]["storage"], "1Gi");
    assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Retain");
    let named = |object: &serde_json::Value| (object["namespace"].clone(), object["name"].clone());
    assert_eq!(named(&volume["spec"]["claimRef"]), (json!("apps"), json!("data")));
    assert_eq!(
        (&claim["kind"], named(&claim["metadata"])),
        (&json!("PersistentVolumeClaim"), (json!("apps"), json!("data")))
    );
    assert_eq!(claim["spec"]["volumeName"], volume["metadata"]["name"]);
    let text = strata(&domain.volumes, "import", &[&arguments[..], &["--volume-mode", "block"]].concat());
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.starts_with("---\n") && text.contains("  volumeMode: \"Block\"\n") && !text.contains("fsType"),
        "{text}"
    );
}

/// What an import takes and promises is held to the limits of CreateVolume before anything of it is on the share.
#[rstest]
#[case("raw", "raw")]
#[case("qcow2", "qcow2")]
fn an_import_without_room_is_refused_and_leaves_nothing(#[case] from: &str, #[case] kind: &str) {
    let domain = Domain::on(Policy::default(), |at| SmallShare::mount(at, 2));
    let volumes = &domain.volumes;
    let file = image(&domain, "disk", from, &vec![7; 90 << 20]);
    let import = |limits: &[&str]| {
        let arguments = [file.as_str(), "--name", "vm", "--format", from, "--kind", kind];
        strata(volumes, "import", &[&arguments[..], limits].concat())
    };
    // Beyond the reserve there is room for a new volume, but not for what is in this one.
    let total = volumes.room().unwrap().total;
    SmallShare::fill(&volumes.share().root, total / 10 + (75 << 20));
    // It comes to 1 GiB, and half of nearly 2 GiB may be promised.
    for limit in ["--reserve=10", "--oversubscription=0.5"] {
        let refused = import(&[limit]);
        let told = said(&refused);
        assert!(!refused.status.success() && told.contains("--oversubscription and --reserve"), "{told}");
        assert_eq!(volumes.list().unwrap(), []);
    }
    let done = import(&["--reserve=5"]);
    assert!(done.status.success(), "{}", said(&done));
}
