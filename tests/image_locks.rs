//! QEMU's image locks and ours exclude each other, both ways, whatever the format.

mod support;

use rstest::rstest;
use std::process::Command;
use std::time::{Duration, Instant};
use strata::attach::{Access, Backend};
use strata::image::lock::{ImageLock, LockError, in_use};
use strata::image::qemu_img::Preallocation;
use strata::image::{Format, ImageRef};
use strata::qsd::DaemonHost;
use strata::qsd::command::{self, Open};
use support::disk::{LIMIT, Rig};

/// What `qemu-img info`, a reader that tolerates no writer, says about an image.
fn info(image: &ImageRef) -> Result<(), String> {
    let mut command = Command::new(support::qemu_img());
    let output = command.args(["info", "-f", image.format.driver()]).arg(&image.path).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Opens an image for writing as a volume is: raw images are locked only once something writes to them.
fn open_for_writing(rig: &Rig, image: &ImageRef) -> Result<(), String> {
    let daemon = rig.daemons.start(&rig.name).unwrap();
    let chain = std::slice::from_ref(image);
    let node = command::add_chain(&mut rig.client(&daemon), "vol", chain, Open::ReadWrite);
    let node = node.map_err(|error| error.to_string())?;
    let attached = rig.backend.attach(&daemon, &node, &rig.work_dir(), Access { readonly: false });
    rig.detach();
    attached.map(drop).map_err(|error| error.to_string())
}

#[rstest]
#[case(Format::Qcow2)]
#[case(Format::Raw)]
fn while_we_hold_the_write_lock_no_qemu_writes_the_image(#[case] format: Format) {
    let rig = Rig::new(&support::qemu_storage_daemon());
    let image = rig.create("image", format, 1 << 20, Preallocation::Off);
    let lock = ImageLock::write(&image.path).unwrap();
    if format == Format::Qcow2 {
        // QEMU's readers of raw images tolerate writers.
        let refused = info(&image).unwrap_err();
        assert!(refused.contains("lock"), "{refused}");
    }
    let refused = open_for_writing(&rig, &image).unwrap_err();
    assert!(refused.contains("lock"), "{refused}");
    drop(lock);
    soon(|| info(&image));
    soon(|| open_for_writing(&rig, &image));
}

/// A lock lives as long as its descriptor, of which a child that another test starts just then has a copy until its exec.
fn soon(mut attempt: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + Duration::from_secs(2);
    while let Err(error) = attempt() {
        assert!(error.contains("lock") && Instant::now() < deadline, "{error}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[rstest]
#[case(Format::Qcow2)]
#[case(Format::Raw)]
fn while_a_daemon_writes_the_image_we_get_no_lock(#[case] format: Format) {
    let rig = Rig::new(&support::qemu_storage_daemon());
    let image = rig.create("image", format, 1 << 20, Preallocation::Off);
    assert!(!in_use(&image.path).unwrap());
    let (daemon, _) = rig.attach(std::slice::from_ref(&image));
    assert!(in_use(&image.path).unwrap());
    assert!(matches!(ImageLock::write(&image.path), Err(LockError::Held { .. })));
    assert!(matches!(ImageLock::read(&image.path), Err(LockError::Held { .. })));
    drop(daemon);
    rig.detach();
    ImageLock::write(&image.path).unwrap();
}

/// Several readers, of QEMU and of ours, get along; a writer waits for all of them.
#[rstest]
#[case(Format::Qcow2)]
#[case(Format::Raw)]
fn readers_get_along_and_keep_writers_out(#[case] format: Format) {
    let rig = Rig::new(&support::qemu_storage_daemon());
    let image = rig.create("image", format, 1 << 20, Preallocation::Off);
    let reader = ImageLock::read(&image.path).unwrap();
    info(&image).unwrap();
    let refused = open_for_writing(&rig, &image).unwrap_err();
    assert!(refused.contains("lock"), "{refused}");
    let chain = [image.clone()];
    let daemon = rig.daemons.start(&rig.name).unwrap();
    let node = command::add_chain(&mut rig.client(&daemon), "vol", &chain, Open::ReadOnly).unwrap();
    drop(reader);
    assert!(!in_use(&image.path).unwrap());
    command::del_node(&mut rig.client(&daemon), &node).unwrap();
    ImageLock::write(&image.path).unwrap();
    assert!(rig.img.check(&image.path, format, LIMIT).unwrap().ok);
}

/// A layer that backs a running image can be read, and nobody else can write to it.
#[test]
fn the_backing_file_of_a_running_image_is_open_for_readers_only() {
    let rig = Rig::new(&support::qemu_storage_daemon());
    let base = rig.create("base", Format::Qcow2, 1 << 20, Preallocation::Off);
    let top = rig.overlay("top", &base, 1 << 20);
    rig.attach(&[top, base.clone()]);
    ImageLock::read(&base.path).unwrap();
    info(&base).unwrap();
    assert!(matches!(ImageLock::write(&base.path), Err(LockError::Held { .. })));
}
