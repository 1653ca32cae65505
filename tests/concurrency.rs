//! Many volumes at once, and two calls on one (G14, invariant 4).

#[path = "support/driver.rs"]
#[allow(dead_code)]
mod driver;
mod support;

use driver::{Driver, Use, new_volume};
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use support::domain::{read_start, write_at};
use support::leftovers::leftovers;
use tonic::{Code, Status};

const BLOCK: usize = 64 << 10;
const GIB: u64 = 1 << 30;
const VOLUMES: usize = 50;

fn driver(dir: &Path) -> Driver {
    support::need_root();
    let share = dir.join("share");
    std::fs::create_dir(&share).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_strata"));
    let mut driver =
        Driver::prepare(program, &dir.join("d"), &[&format!("dir:{}", share.display())], "node-1");
    driver.set_environment(&[
        ("STRATA_QEMU_IMG", support::qemu_img().to_str().unwrap()),
        ("STRATA_QEMU_STORAGE_DAEMON", support::qemu_storage_daemon().to_str().unwrap()),
    ]);
    driver.launch();
    driver
}

/// As a sidecar: ABORTED and UNAVAILABLE are asked again, anything else is an error.
fn patiently<T>(mut call: impl FnMut() -> Result<T, Status>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        match call() {
            Ok(answer) => return answer,
            Err(status) => {
                let later = matches!(status.code(), Code::Aborted | Code::Unavailable);
                assert!(later && Instant::now() < deadline, "{status:?}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Each has its own bytes, its own snapshot while it is written to, and goes without a trace.
#[test]
fn fifty_volumes_are_worked_on_at_once() {
    let dir = support::scratch();
    let driver = driver(dir.path());
    std::thread::scope(|scope| {
        for index in 0..VOLUMES {
            let (driver, dir) = (&driver, dir.path());
            scope.spawn(move || {
                let name = format!("pvc-{index}");
                let place = dir.join("pods").join(&name);
                let id = patiently(|| driver.create(new_volume(&name, GIB, Use::Block, &[]))).volume_id;
                let device = patiently(|| driver.attach(&id, &place, Use::Block));
                let value = index as u8 + 1;
                write_at(&device, 0, &vec![value; 4 * BLOCK]);
                let snapshot = patiently(|| driver.snapshot(&id, &format!("snap-{index}")));
                write_at(&device, BLOCK as u64, &vec![255; BLOCK]);
                patiently(|| driver.detach(&id, &place));
                let clone = driver::from_snapshot(&format!("clone-{index}"), &snapshot, Use::Block);
                let clone = patiently(|| driver.create(clone.clone())).volume_id;
                let device = patiently(|| driver.attach(&clone, &place, Use::Block));
                assert!(read_start(&device, 4 * BLOCK) == vec![value; 4 * BLOCK], "{name}");
                patiently(|| driver.detach(&clone, &place));
                for id in [&id, &clone] {
                    patiently(|| driver.delete(id));
                }
                patiently(|| driver.delete_snapshot(&snapshot.snapshot_id));
            });
        }
    });
    let folder = dir.path().join("share/volumes");
    let deadline = Instant::now() + Duration::from_secs(120);
    let left = || std::fs::read_dir(&folder).unwrap().count();
    while left() > 0 {
        assert!(Instant::now() < deadline, "{} volumes are left", left());
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(driver);
    assert_eq!(leftovers(dir.path()), Vec::<String>::new());
}

/// Of two calls that meet one works, and the other hears ABORTED; asked again, it works too.
#[test]
fn two_calls_on_one_volume_do_not_mix() {
    let dir = support::scratch();
    let driver = driver(dir.path());
    let id = patiently(|| driver.create(new_volume("pvc", GIB, Use::Block, &[]))).volume_id;
    let place = dir.path().join("pod");
    patiently(|| driver.attach(&id, &place, Use::Block));
    let mut refused = 0;
    for round in 0..20 {
        let start = Barrier::new(2);
        let cut = |name: String| {
            start.wait();
            let answer = driver.snapshot_once(&id, &name);
            (name, answer)
        };
        let (one, other) = std::thread::scope(|scope| {
            let one = scope.spawn(|| cut(format!("a-{round}")));
            let other = scope.spawn(|| cut(format!("b-{round}")));
            (one.join().unwrap(), other.join().unwrap())
        });
        assert!(one.1.is_ok() || other.1.is_ok(), "{one:?} {other:?}");
        for (name, answer) in [one, other] {
            if let Err(status) = answer {
                assert_eq!(status.code(), Code::Aborted, "{status:?}");
                refused += 1;
                patiently(|| driver.snapshot(&id, &name));
            }
        }
        if refused > 2 {
            break;
        }
    }
    assert!(refused > 0, "no two calls ever met");
    patiently(|| driver.detach(&id, &place));
}
