//! The data path on its real parts: QEMU, FUSE, loop devices, filesystems.

mod support;

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use strata::attach::{Access, AttachError, Backend, EXPORT, selftest};
use strata::data::{DataClient, RemoteDaemons};
use strata::host::device::DevNumber;
use strata::host::freeze::{FreezeError, FrozenFs};
use strata::host::loopdev::{KernelLoops, LoopDevices};
use strata::host::mkfs::{Content, Formatter, LinuxFormatter};
use strata::host::mount::{FsType, LinuxMounter, MountError, Mounter};
use strata::image::Format;
use strata::image::lock::ImageLock;
use strata::image::qemu_img::Preallocation;
use strata::qsd::{DaemonHost, LocalDaemons, command};
use support::disk::Rig;

const MIB: u64 = 1 << 20;

fn rig() -> Rig {
    Rig::new(&support::qemu_storage_daemon())
}

#[test]
fn parallel_writes_through_export_and_loop_come_back() {
    let rig = rig();
    let image = rig.create("base", Format::Qcow2, 256 * MIB, Preallocation::Off);
    let (_, device) = rig.attach(std::slice::from_ref(&image));
    assert_eq!(selftest::write_and_verify(&device.path, 256 * MIB).unwrap(), 256 * MIB);
    rig.detach();
    assert!(rig.img.check(&image.path, image.format, support::disk::LIMIT).unwrap().ok);
}

#[test]
fn the_self_test_passes_on_a_sound_machine_and_leaves_nothing() {
    let rig = rig();
    let scratch = rig.dir.path().join("scratch");
    let report = selftest::run(&rig.daemons, &rig.backend, &rig.img, &scratch).unwrap();
    eprintln!("self-test: {report:?}");
    assert!(report.took < Duration::from_secs(20), "{report:?}");
    assert!(!scratch.exists());
    assert_eq!(rig.daemons.list().unwrap(), []);
    assert_eq!(KernelLoops.find_by_backing(&scratch.join("image")).unwrap(), []);
}

/// Attach refuses a QEMU that is not known to be sound.
#[test]
fn an_unsound_version_starts_no_daemon() {
    use std::os::unix::fs::PermissionsExt;
    let dir = support::scratch();
    let program = dir.path().join("qemu-storage-daemon");
    std::fs::write(&program, "#!/bin/sh\necho 'qemu-storage-daemon version 10.0.2 (Debian 1:10.0.2+ds-2)'\n")
        .unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let daemons = LocalDaemons::new(program, dir.path().join("qsd"));
    let error = daemons.start(&"volume".parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("10.0.2") && error.contains("10.0.13"), "{error}");
    assert!(!dir.path().join("qsd/volume").exists());
}

#[test]
fn a_daemon_is_adopted_after_its_starter_and_told_from_its_successor() {
    use std::os::unix::fs::PermissionsExt;
    let rig = rig();
    let first = rig.daemons.start(&rig.name).unwrap();
    assert_eq!(rig.daemons.start(&rig.name).unwrap(), first);
    let folder = first.qmp_socket.parent().unwrap();
    assert_eq!(std::fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);
    let other = LocalDaemons::new(support::qemu_storage_daemon(), rig.dir.path().join("qsd"));
    assert_eq!(other.find(&rig.name).unwrap(), Some(first.clone()));
    assert_eq!(other.list().unwrap(), std::slice::from_ref(&first));
    kill(first.pid);
    assert_eq!(other.find(&rig.name).unwrap(), None);
    let second = other.start(&rig.name).unwrap();
    assert_ne!(second.instance, first.instance);
    other.stop(&rig.name).unwrap();
    other.stop(&rig.name).unwrap();
    assert_eq!(rig.daemons.find(&rig.name).unwrap(), None);
    assert!(!folder.exists());
}

/// Kills a daemon of ours and waits until it is gone.
fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    for _ in 0..500 {
        if rustix::process::test_kill_process(pid).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{pid:?} does not end");
}

#[test]
fn attaching_twice_is_attaching_once_and_detaching_twice_is_fine() {
    let rig = rig();
    let image = rig.create("base", Format::Raw, 64 * MIB, Preallocation::Off);
    let (daemon, device) = rig.attach(&[image]);
    let node = command::export_node(&mut rig.client(&daemon), EXPORT).unwrap();
    let again = rig.backend.attach(&daemon, &node, &rig.work_dir(), Access { readonly: false }).unwrap();
    assert_eq!(again, device);
    assert_eq!(rig.backend.find(&rig.work_dir()).unwrap(), Some(device));
    rig.detach();
    rig.detach();
    assert_eq!(rig.backend.find(&rig.work_dir()).unwrap(), None);
}

/// An attach that was broken off after each of its steps is finished by the next one.
#[test]
fn a_half_done_attach_is_completed() {
    let rig = rig();
    let image = rig.create("base", Format::Qcow2, 64 * MIB, Preallocation::Off);
    let (daemon, _) = rig.attach(&[image]);
    let file = rig.work_dir().join("image");
    let node = command::export_node(&mut rig.client(&daemon), EXPORT).unwrap();
    let attach = || rig.backend.attach(&daemon, &node, &rig.work_dir(), Access { readonly: false }).unwrap();
    KernelLoops.detach(&file).unwrap();
    assert_eq!(std::fs::metadata(attach().export_file).unwrap().len(), 64 * MIB);
    KernelLoops.detach(&file).unwrap();
    command::export_del(&mut rig.client(&daemon), EXPORT).unwrap();
    let device = attach();
    selftest::write_and_verify(&device.path, 64 * MIB).unwrap();
    rig.detach();
}

struct Mounted {
    rig: Rig,
    daemon: strata::qsd::Daemon,
    mount: std::path::PathBuf,
    dev: DevNumber,
    base: strata::image::ImageRef,
    device: strata::attach::Device,
}

fn mounted(fs: FsType, size: u64) -> Mounted {
    let mut rig = rig();
    let mount = rig.mount_point();
    let base = rig.create("base", Format::Qcow2, size, Preallocation::Off);
    let (daemon, device) = rig.attach(std::slice::from_ref(&base));
    assert_eq!(LinuxFormatter.probe(&device.path).unwrap(), Content::Blank);
    LinuxFormatter.make(&device.path, fs, &[], false).unwrap();
    LinuxMounter.mount(&device.path, &mount, fs, &["noatime".to_owned()]).unwrap();
    rig.backend.release_with_mount(&device).unwrap();
    let info = LinuxMounter.find(&mount).unwrap().unwrap();
    assert_eq!((info.fs_type.as_str(), &info.source), (fs.name(), &device.path));
    let dev = DevNumber::of_node(&device.path).unwrap();
    assert_eq!(info.dev, dev);
    Mounted { rig, daemon, mount, dev, base, device }
}

/// G7, X1: while a writer runs that checks its own data, the image is switched to an overlay; the
/// writer sees a pause and no error, and the frozen layer holds a filesystem that needs no replay.
#[test]
fn an_online_switch_under_a_writer_loses_nothing() {
    let m = mounted(FsType::Ext4, 512 * MIB);
    let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = {
        let (stop, rounds, path) = (stop.clone(), rounds.clone(), m.mount.join("data"));
        std::thread::spawn(move || {
            let file =
                File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
            let mut round = 0u64;
            while !stop.load(Ordering::Relaxed) {
                let block = vec![round as u8; 256 << 10];
                let offset = round % 64 * (256 << 10);
                file.write_all_at(&block, offset).unwrap();
                file.sync_data().unwrap();
                let mut back = vec![0; block.len()];
                file.read_exact_at(&mut back, offset).unwrap();
                assert_eq!(back, block);
                round += 1;
                rounds.store(round, Ordering::Relaxed);
            }
        })
    };
    let mut below = m.base.clone();
    for number in 0..3 {
        let before = rounds.load(Ordering::Relaxed);
        while rounds.load(Ordering::Relaxed) < before + 5 {
            assert!(!writer.is_finished(), "the writer saw an error");
            std::thread::sleep(Duration::from_millis(5));
        }
        let overlay = m.rig.overlay(&format!("base.{number}"), &below, 512 * MIB);
        let mut client = m.rig.client(&m.daemon);
        let node = command::export_node(&mut client, EXPORT).unwrap();
        let new = command::add_overlay(&mut client, &overlay).unwrap();
        let frozen = FrozenFs::freeze(&m.mount, &m.device.path, Duration::from_secs(5)).unwrap();
        command::snapshot(&mut client, &node, &new).unwrap();
        let thawed = frozen.thaw();
        assert!(thawed.held, "{thawed:?}");
        eprintln!("switch {number}: writers paused for {:?}", thawed.pause);
        assert_eq!(command::active_file(&mut client, EXPORT).unwrap(), overlay.path);
        assert_eq!(command::node_of(&mut client, &overlay.path).unwrap(), Some(new));
        // From now on the frozen layer is open for reading only, for the daemon too.
        drop(ImageLock::read(&below.path).unwrap());
        below = overlay;
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    LinuxMounter.unmount(&m.mount).unwrap();
    m.rig.detach();
    let flat = m.rig.dir.path().join("flat");
    m.rig.img.convert(&[m.base], &flat, Format::Raw, support::disk::LIMIT).unwrap();
    let fsck = std::process::Command::new("e2fsck").args(["-fn"]).arg(&flat).output().unwrap();
    assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stdout));
}

#[test]
fn only_the_volumes_own_filesystem_is_frozen() {
    let m = mounted(FsType::Xfs, 400 * MIB);
    let error = FrozenFs::freeze(Path::new("/var/tmp"), &m.device.path, Duration::from_secs(1)).unwrap_err();
    assert!(matches!(error, FreezeError::WrongFilesystem { .. }), "{error}");
    LinuxMounter.unmount(&m.mount).unwrap();
    let error = FrozenFs::freeze(&m.mount, &m.device.path, Duration::from_secs(1)).unwrap_err();
    assert!(matches!(error, FreezeError::WrongFilesystem { .. }), "{error}");
}

#[test]
fn the_watchdog_thaws_and_says_so() {
    let m = mounted(FsType::Ext4, 64 * MIB);
    let frozen = FrozenFs::freeze(&m.mount, &m.device.path, Duration::from_millis(300)).unwrap();
    // Blocks until somebody thaws; nobody but the watchdog will.
    std::fs::write(m.mount.join("file"), "x").unwrap();
    let thawed = frozen.thaw();
    assert!(!thawed.held && thawed.pause >= Duration::from_millis(300), "{thawed:?}");
    let twice = FrozenFs::freeze(&m.mount, &m.device.path, Duration::from_secs(5)).unwrap();
    let error = FrozenFs::freeze(&m.mount, &m.device.path, Duration::from_secs(5)).unwrap_err();
    assert!(matches!(error, FreezeError::Kernel { .. }), "{error}");
    drop(twice);
    std::fs::write(m.mount.join("file"), "y").unwrap();
}

/// A dead daemon stays dead to its mount, and unstaging works without it.
#[test]
fn a_dead_daemon_gives_errors_and_is_cleaned_up() {
    let m = mounted(FsType::Ext4, 64 * MIB);
    kill(m.daemon.pid);
    let write = File::create(m.mount.join("file")).and_then(|file| {
        file.write_all_at(b"lost", 0)?;
        file.sync_all()
    });
    assert!(write.is_err());
    let successor = m.rig.daemons.start(&m.rig.name).unwrap();
    let stale = m.rig.backend.attach(&successor, "none", &m.rig.work_dir(), Access { readonly: false });
    assert!(matches!(stale, Err(AttachError::Stale { .. })), "{stale:?}");
    LinuxMounter.unmount(&m.mount).unwrap();
    m.rig.detach();
    assert_eq!(m.rig.backend.find(&m.rig.work_dir()).unwrap(), None);
    assert!(LinuxMounter.find(&m.rig.work_dir().join("image")).unwrap().is_none());
    // What was flushed is there: the image opens again.
    let (_, device) = m.rig.attach(&[m.base]);
    LinuxMounter.mount(&device.path, &m.mount, FsType::Ext4, &[]).unwrap();
    LinuxMounter.unmount(&m.mount).unwrap();
    m.rig.detach();
}

/// Nobody can ask such a device what it stands on: at once, and when the kernel has forgotten what the export told of itself.
#[rstest::rstest]
fn a_device_whose_daemon_died_is_found_and_released(#[values(0, 5, 1500)] ago: u64) {
    let rig = rig();
    let image = rig.create("base", Format::Raw, 64 * MIB, Preallocation::Off);
    let (daemon, device) = rig.attach(std::slice::from_ref(&image));
    // The kernel has forgotten it already, and asks the daemon that dies.
    std::thread::sleep(Duration::from_millis(1100));
    let pid = rustix::process::Pid::from_raw(i32::try_from(daemon.pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    std::thread::sleep(Duration::from_millis(ago));
    assert_eq!(KernelLoops.find_by_backing(&device.export_file).unwrap().len(), 1);
    rig.detach();
    let (_, again) = rig.attach(&[image]);
    assert_eq!(KernelLoops.find_by_backing(&again.export_file).unwrap().len(), 1);
    rig.detach();
}

/// The device goes with its mount once that holds it, and not before.
#[test]
fn a_device_is_found_until_its_mount_takes_it_along() {
    let m = mounted(FsType::Ext4, 64 * MIB);
    let found = KernelLoops.find_by_backing(&m.device.export_file).unwrap();
    assert_eq!(found.len(), 1);
    LinuxMounter.unmount(&m.mount).unwrap();
    for _ in 0..100 {
        if KernelLoops.find_by_backing(&m.device.export_file).unwrap().is_empty() {
            return m.rig.detach();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the device outlived its mount");
}

#[test]
fn a_mount_in_use_is_not_torn_away_and_binds_can_refuse_writes() {
    let mut m = mounted(FsType::Ext4, 64 * MIB);
    let (bound, file_target) = (m.rig.mount_point(), m.rig.dir.path().join("device"));
    LinuxMounter.bind(&m.mount, &bound, true).unwrap();
    let info = LinuxMounter.find(&bound).unwrap().unwrap();
    assert!(info.read_only() && info.dev == m.dev, "{info:?}");
    assert!(std::fs::write(bound.join("file"), "x").is_err());
    std::fs::write(m.mount.join("file"), "x").unwrap();
    let open = File::open(m.mount.join("file")).unwrap();
    let error = LinuxMounter.unmount(&m.mount).unwrap_err();
    assert!(matches!(error, MountError::Unmount { .. }), "{error}");
    drop(open);
    LinuxMounter.unmount(&bound).unwrap();
    File::create(&file_target).unwrap();
    LinuxMounter.bind(&m.device.path, &file_target, false).unwrap();
    assert_eq!(DevNumber::of_node(&file_target).unwrap(), m.dev);
    LinuxMounter.unmount(&file_target).unwrap();
    assert_eq!(std::fs::metadata(&file_target).unwrap().size(), 0);
}

/// A child that is being started holds every open file for a moment: an unmount waits for that, not for ever.
#[test]
fn a_mount_that_is_busy_for_a_moment_is_unmounted() {
    support::need_root();
    let dir = support::scratch();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    std::fs::create_dir_all(&source).unwrap();
    std::fs::create_dir_all(&target).unwrap();
    std::fs::write(source.join("file"), "x").unwrap();
    LinuxMounter.bind(&source, &target, false).unwrap();
    let held = std::fs::File::open(target.join("file")).unwrap();
    let busy = LinuxMounter.unmount(&target).unwrap_err();
    assert!(busy.to_string().contains("busy"), "{busy}");
    let release = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        drop(held);
    });
    LinuxMounter.unmount(&target).unwrap();
    release.join().unwrap();
    assert!(LinuxMounter.find(&target).unwrap().is_none());
}

/// A daemon that hangs (its share does) holds up nobody who looks for another volume's device.
#[rstest::rstest]
fn a_device_that_hangs_keeps_nobody_from_another_one(#[values(false, true)] nameless: bool) {
    use rustix::process::{Pid, Signal, kill_process};
    let rig = rig();
    let image = rig.create("base", Format::Raw, 64 * MIB, Preallocation::Off);
    let (daemon, device) = rig.attach(std::slice::from_ref(&image));
    if nameless {
        // What a killed container leaves: its mount is gone, and nothing tells whose the device is.
        rustix::mount::unmount(&device.export_file, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
    let pid = Pid::from_raw(i32::try_from(daemon.pid).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    // Longer than the kernel keeps what the export told of itself.
    std::thread::sleep(Duration::from_millis(1500));
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let found = KernelLoops.find_by_backing(Path::new("/nowhere/another-volume/image"));
        let _ = tell.send(found.map(|found| found.len()));
    });
    let found = told.recv_timeout(Duration::from_secs(5));
    kill_process(pid, Signal::CONT).unwrap();
    assert_eq!(found.expect("the look hangs").unwrap(), 0);
    // It answers again, and is found as before, also by many at once.
    let found = || KernelLoops.find_by_backing(&device.export_file).unwrap().len();
    let begun = std::time::Instant::now();
    while found() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "it is not found any more");
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::scope(|scope| {
        let looks: Vec<_> = (0..8).map(|_| scope.spawn(|| (0..50).all(|_| found() == 1))).collect();
        assert!(looks.into_iter().all(|look| look.join().unwrap()));
    });
    rig.detach();
}

/// `strata data` on the rig's daemons, told to stop with that much time for them.
fn stopping_data_plane(rig: &Rig, drain: &str) -> std::process::Child {
    let dir = rig.dir.path().join("data");
    std::fs::create_dir(&dir).unwrap();
    std::os::unix::fs::symlink(rig.dir.path().join("qsd"), dir.join("daemons")).unwrap();
    let socket = dir.join("data.sock");
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_strata"))
        .arg("data")
        .args([format!("--dir={}", dir.display()), format!("--socket={}", socket.display())])
        .arg(format!("--qemu-storage-daemon={}", support::qemu_storage_daemon().display()))
        .arg(format!("--drain={drain}"))
        .spawn()
        .unwrap();
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    // Its signals are listened for from then on, or a moment later.
    std::thread::sleep(Duration::from_millis(300));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .unwrap();
    child
}

/// In a container the daemons end with the data plane: it goes on until their volumes are let go of.
#[test]
fn a_data_plane_that_drains_waits_for_its_daemons() {
    let rig = rig();
    let image = rig.create("base", Format::Qcow2, 64 * MIB, Preallocation::Off);
    let (daemon, _) = rig.attach(std::slice::from_ref(&image));
    let mut data = stopping_data_plane(&rig, "60");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(data.try_wait().unwrap(), None);
    assert_eq!(rig.daemons.find(&rig.name).unwrap(), Some(daemon));
    rig.detach();
    assert!(data.wait().unwrap().success());
}

/// Those that are not let go of in time are ended in order: what they had taken is in the image.
#[test]
fn a_data_plane_that_drained_for_long_enough_flushes_its_daemons() {
    let rig = rig();
    let image = rig.create("base", Format::Qcow2, 64 * MIB, Preallocation::Off);
    let (_, device) = rig.attach(std::slice::from_ref(&image));
    assert_eq!(selftest::write_and_verify(&device.path, 64 * MIB).unwrap(), 64 * MIB);
    let mut data = stopping_data_plane(&rig, "1");
    assert!(data.wait().unwrap().success());
    assert_eq!(rig.daemons.list().unwrap(), []);
    let log = rig.dir.path().join("qsd").join(rig.name.as_str());
    assert!(!log.exists(), "it was ended, and what it left is gone");
    assert!(rig.img.check(&image.path, image.format, support::disk::LIMIT).unwrap().ok);
    drop(ImageLock::write(&image.path).unwrap());
}

/// Else it would be left behind: a merge may begin at the moment of a teardown.
#[test]
fn who_ends_the_data_plane_sees_a_daemon_that_is_being_started() {
    let dir = support::scratch();
    let program = dir.path().join("slow");
    let real = support::qemu_storage_daemon();
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *--version*) ;; *) sleep 1 ;; esac\nexec {} \"$@\"\n",
        real.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let daemons = LocalDaemons::new(program, dir.path().join("qsd"));
    daemons.version().unwrap();
    let [first, second] = ["first", "second"].map(|name| name.parse().unwrap());
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| daemons.start(&first));
        while !dir.path().join("qsd/first").exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        daemons.start_no_more();
        assert_eq!(daemons.list().unwrap().len(), 1);
        starting.join().unwrap().unwrap();
    });
    let refused = daemons.start(&second).unwrap_err();
    assert!(refused.to_string().contains("about to end"), "{refused}");
    daemons.start_again();
    daemons.start(&second).unwrap();
    for name in [&first, &second] {
        daemons.stop(name).unwrap();
    }
    assert_eq!(daemons.list().unwrap(), []);
}

/// Whoever asked for a teardown may be gone before it is done: the process ends all the same, rather than go on for good without
/// shares and starting nothing.
#[test]
fn a_data_plane_that_was_asked_to_end_ends_also_when_nobody_waits() {
    let dir = support::scratch();
    let (program, socket) = (dir.path().join("broken"), dir.path().join("data.sock"));
    let real = support::qemu_storage_daemon();
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *--version*) exec {} \"$@\" ;; esac\nsleep 2\nexit 1\n",
        real.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut data = std::process::Command::new(env!("CARGO_BIN_EXE_strata"))
        .arg("data")
        .args([format!("--dir={}", dir.path().display()), format!("--socket={}", socket.display())])
        .arg(format!("--qemu-storage-daemon={}", program.display()))
        .spawn()
        .unwrap();
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = runtime.block_on(async { DataClient::new(&socket).unwrap() });
    let daemons = RemoteDaemons::new(client.clone(), runtime.handle().clone());
    let starting = std::thread::spawn(move || daemons.start(&"slow".parse().unwrap()));
    while !dir.path().join("daemons/slow").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    // It waits for the start, which comes to nothing; nobody waits for it.
    let asked = async { tokio::time::timeout(Duration::from_millis(300), client.shutdown(true)).await };
    assert!(runtime.block_on(asked).is_err(), "it did not wait");
    assert!(starting.join().unwrap().is_err());
    let begun = std::time::Instant::now();
    let ended = loop {
        if let Some(ended) = data.try_wait().unwrap() {
            break ended;
        }
        if begun.elapsed() > Duration::from_secs(60) {
            data.kill().unwrap();
            panic!("it goes on");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(ended.success());
}
