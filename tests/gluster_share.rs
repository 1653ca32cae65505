//! Shares on a real GlusterFS: mounting, identity, preflight, coherence (G1, G2).

mod support;

use rustix::process::{Pid, Signal};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use strata::data::DataClient;
use strata::gluster::{self, Finding, MountOption, Severity, Source, coherence, establish};
use strata::volume::{Access, Policy, VolumeKind};
use support::domain::{Domain, read_start, write_at};
use support::small_share::SmallShare;
use support::{OpenShare, OwnVolume, PlainMount, run};

fn mounts_under(dir: &Path) -> usize {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    table.lines().filter(|line| line.split(' ').nth(1).unwrap().starts_with(dir.to_str().unwrap())).count()
}

/// Other tests open shares of the same volume, and their self-tests come and go.
fn only_its_identity_stays(dir: &Path) {
    let begun = Instant::now();
    loop {
        let names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        if names == ["share.json"] {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "more than share.json stays: {names:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// G1: mounted already is success; two nodes find one key; nothing of the self-test stays.
#[test]
fn a_share_is_opened_again_and_from_another_node_with_one_key() {
    let (source, dir) = (support::gluster_share(), support::scratch());
    let first = OpenShare::new(&source, &dir.path().join("node1"));
    let (again, _) = gluster::open(&source, &[], &dir.path().join("node1")).unwrap();
    assert_eq!((&again.key, &again.root), (&first.0.key, &first.0.root));
    assert_eq!(mounts_under(dir.path()), 1);

    let other = OpenShare::new(&source, &dir.path().join("node2"));
    assert_eq!(other.0.key, first.0.key);
    assert_ne!(other.0.root, first.0.root);
    fs::write(first.0.root.join("volumes/seen"), b"at once").unwrap();
    assert_eq!(fs::read(other.0.root.join("volumes/seen")).unwrap(), b"at once");
    fs::remove_file(first.0.root.join("volumes/seen")).unwrap();
    only_its_identity_stays(&other.0.root.join(".strata"));
    gluster::prove_writable(&first.0).unwrap();
    drop((first, other));
    assert_eq!(mounts_under(dir.path()), 0);
}

/// Nodes that meet on an empty share end with one key.
#[test]
fn racing_nodes_agree_on_one_identity() {
    let (source, dir) = (support::gluster_share(), support::scratch());
    let one = OpenShare::new(&source, &dir.path().join("node1"));
    let other = OpenShare::new(&source, &dir.path().join("node2"));
    for round in 0..5 {
        let name = format!(".race-{round}-{}", std::process::id());
        fs::create_dir(one.0.root.join(&name)).unwrap();
        let keys: Vec<_> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..6)
                .map(|n| {
                    let root = if n % 2 == 0 { &one.0.root } else { &other.0.root }.join(&name);
                    scope.spawn(move || establish(&root).unwrap())
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        assert!(keys.windows(2).all(|pair| pair[0] == pair[1]), "{keys:?}");
        fs::remove_dir_all(one.0.root.join(&name)).unwrap();
    }
}

/// The self-test passes with the driver's options, and catches GlusterFS's own defaults.
#[test]
fn the_self_test_tells_coherent_mounts_from_default_ones() {
    let (source, dir) = (support::gluster_share(), support::scratch());
    let one = OpenShare::new(&source, &dir.path().join("node1"));
    let other = OpenShare::new(&source, &dir.path().join("node2"));
    for _ in 0..10 {
        coherence::prove(&one.0.root, &other.0.root, Path::new("")).unwrap();
    }
    let plain_one = PlainMount::new(&source, dir.path().join("plain1"));
    let plain_other = PlainMount::new(&source, dir.path().join("plain2"));
    let error = coherence::prove(&plain_one.0, &plain_other.0, Path::new("")).unwrap_err();
    assert!(error.to_string().contains("disagree"), "{error}");
}

/// G1: an operator's options reach the client; one that would undo coherence does not get so far.
#[test]
fn an_operators_options_reach_the_client() {
    let (source, dir) = (support::gluster_share(), support::scratch());
    let options: Vec<MountOption> =
        ["log-level=DEBUG", "reader-thread-count=2"].map(|option| option.parse().unwrap()).to_vec();
    let (share, _) = gluster::open(&source, &options, dir.path()).unwrap();
    let share = OpenShare(share);
    let client = fs::read_to_string(share.0.root.join(".meta/cmdline")).unwrap();
    for word in ["--log-level=DEBUG", "--reader-thread-count=2", "--attribute-timeout=0", "--entry-timeout=0"]
    {
        assert!(client.contains(word), "{word} in {client}");
    }
}

/// A client that died leaves a mount that answers nothing: it is replaced.
#[test]
fn a_dead_mount_is_mounted_again() {
    let (source, dir) = (support::gluster_share(), support::scratch());
    let share = OpenShare::new(&source, dir.path());
    let root = share.0.root.to_str().unwrap();
    let client = procfs::process::all_processes()
        .unwrap()
        .flatten()
        .find(|process| process.cmdline().is_ok_and(|words| words.last().is_some_and(|last| last == root)))
        .expect("the client of this mount");
    let pid = rustix::process::Pid::from_raw(client.pid()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while fs::metadata(&share.0.root).is_ok() {
        assert!(Instant::now() < deadline, "the mount outlives its client");
        std::thread::sleep(Duration::from_millis(20));
    }
    // As the data plane does it: a share that was not there at once is opened again. (Seen once under load: a folder of the
    // share was not found by a client that had just been started.)
    let again = loop {
        match gluster::open(&source, &[], dir.path()) {
            Ok((again, _)) => break again,
            Err(error) if Instant::now() < deadline + Duration::from_secs(30) => {
                eprintln!("not at once: {error}")
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(again.key, share.0.key);
    assert!(again.root.join("volumes").is_dir());
    assert_eq!(mounts_under(dir.path()), 1);
}

/// The error says what GlusterFS's own log says.
#[test]
fn a_volume_that_is_not_there_is_reported_with_the_cause() {
    let Source::Gluster { host, .. } = support::gluster_share() else { panic!("a GlusterFS volume") };
    let dir = support::scratch();
    let source = Source::Gluster { host, volume: "no-such-volume".into() };
    let error = gluster::open(&source, &[], dir.path()).unwrap_err().to_string();
    assert!(error.contains("no-such-volume") && error.contains("volume file"), "{error}");
    assert_eq!(mounts_under(dir.path()), 0);
}

fn unsafe_findings(source: &Source, mount_dir: &Path) -> Vec<Finding> {
    match gluster::open(source, &[], mount_dir) {
        Err(gluster::ShareError::Unsafe { findings, .. }) => findings,
        other => panic!("opened, or another error: {other:?}"),
    }
}

/// The preflight reads what is in force, refuses what loses data, and its remedies are remedies. A share
/// that cannot be written is a clear error (G2).
#[test]
fn a_volume_with_unsafe_options_is_refused_until_they_are_mended() {
    let Source::Gluster { host, .. } = support::gluster_share() else { panic!("a GlusterFS volume") };
    let dir = support::scratch();
    let volume = OwnVolume::new("weak", &host, dir.path());
    let source = Source::Gluster { host, volume: volume.0.into() };
    volume.set("features.shard", "on");
    run("gluster", &["--mode=script", "volume", "start", volume.0]);

    let found = unsafe_findings(&source, &dir.path().join("mounts"));
    let causes: Vec<_> = found.iter().map(|finding| finding.cause.split(' ').next().unwrap()).collect();
    assert_eq!(causes, ["client.strict-locks", "features.shard"], "{found:?}");
    assert_eq!(mounts_under(dir.path()), 0, "a refused share is not left mounted");

    volume.set("client.strict-locks", "on");
    volume.set("features.shard", "off");
    let (share, warnings) = gluster::open(&source, &[], &dir.path().join("mounts")).unwrap();
    let share = OpenShare(share);
    assert!(warnings.iter().all(|finding| finding.severity == Severity::Warn), "{warnings:?}");
    assert!(warnings.iter().any(|finding| finding.remedy.contains("network.ping-timeout")), "{warnings:?}");

    volume.set("features.read-only", "on");
    let deadline = Instant::now() + Duration::from_secs(20);
    let error = loop {
        match gluster::prove_writable(&share.0) {
            Err(error) => break error,
            Ok(()) => assert!(Instant::now() < deadline, "the volume stays writable"),
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    assert!(error.to_string().contains("not writable"), "{error}");
}

/// `strata data` as a container runs it.
fn data_plane(dir: &Path) -> Child {
    data_plane_that(dir, true, &[])
}

fn data_plane_that(dir: &Path, drains: bool, environment: &[(&str, &str)]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
    command.arg("data").arg("--dir").arg(dir).arg("--socket").arg(dir.join("data.sock"));
    command.arg("--qemu-storage-daemon").arg(support::qemu_storage_daemon());
    if drains {
        command.args(["--drain", "5"]);
    }
    command.envs(environment.iter().copied()).stdin(Stdio::null()).spawn().unwrap()
}

fn eventually(what: &str, mut look: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !look() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn ends_well(mut data: Child) {
    rustix::process::kill_process(Pid::from_child(&data), Signal::TERM).unwrap();
    assert!(data.wait().unwrap().success());
}

/// In a container a mount's process ends with the data plane, and what stays on the node is dead: it is unmounted before,
/// and comes back with the next data plane without being asked for.
#[test]
fn a_data_plane_that_drains_leaves_no_mount_behind() {
    let (source, dir) = (support::gluster_share(), support::scratch());
    let data = data_plane(dir.path());
    let socket = dir.path().join("data.sock");
    eventually("the data plane serves", || UnixStream::connect(&socket).is_ok());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { DataClient::new(&socket).unwrap().mount_share(&source, &[]).await }).unwrap();
    assert_eq!(mounts_under(dir.path()), 1);
    ends_well(data);
    assert_eq!(mounts_under(dir.path()), 0);

    let next = data_plane(dir.path());
    // Mounted is one thing, proved and taken up another.
    eventually("the share is there again", || {
        let shares = runtime.block_on(async { DataClient::new(&socket)?.shares().await });
        shares.is_ok_and(|shares| shares.len() == 1)
    });
    assert_eq!(mounts_under(dir.path()), 1);
    ends_well(next);
    assert_eq!(mounts_under(dir.path()), 0);
}

/// How many processes of GlusterFS's serve a mount below `dir`, or are about to.
fn clients_below(dir: &Path) -> usize {
    let serves = |words: &Vec<String>| {
        words.first().is_some_and(|program| program.ends_with("glusterfs"))
            && words.last().is_some_and(|at| Path::new(at).starts_with(dir))
    };
    let processes = procfs::process::all_processes().unwrap().flatten();
    processes.filter_map(|process| process.cmdline().ok()).filter(serves).count()
}

/// It takes up again what it had: nobody waits for that.
#[test]
fn a_data_plane_that_drains_while_it_mounts_leaves_no_mount_behind() {
    let (source, dir) = (support::gluster_share(), support::scratch());
    let list = serde_json::json!({"schema": 1, "shares": [{"source": source.to_string(), "options": []}]});
    fs::write(dir.path().join("shares.json"), list.to_string()).unwrap();
    let data = data_plane(dir.path());
    eventually("it mounts", || clients_below(dir.path()) > 0);
    ends_well(data);
    assert_eq!(mounts_under(dir.path()), 0);
    eventually("no client is left", || clients_below(dir.path()) == 0);
}

/// What mount(8) becomes when servers are silent: it hangs, and its client is a daemon already, which would mount later.
const HANGS: &str = r#"#!/bin/bash
echo $$ > "$0.pid"
[ -p "$0.never" ] || mkfifo "$0.never"
setsid "${0%/*}/glusterfs" -c 'exec 3<>"$0"; read -u 3' "$0.never" "${@: -1}" &
exec sleep 600
"#;

#[test]
fn a_mount_that_hangs_ends_with_the_data_plane() {
    let dir = support::scratch();
    let programs = dir.path().join("bin");
    let mount = programs.join("mount");
    fs::create_dir(&programs).unwrap();
    fs::write(&mount, HANGS).unwrap();
    fs::set_permissions(&mount, fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("/bin/bash", programs.join("glusterfs")).unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    for drains in [true, false] {
        let data = data_plane_that(dir.path(), drains, &[("PATH", &path)]);
        let socket = dir.path().join("data.sock");
        eventually("the data plane serves", || UnixStream::connect(&socket).is_ok());
        let mounting = std::thread::spawn(move || {
            let source = Source::Gluster { host: "silent.example".into(), volume: "images".into() };
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async { DataClient::new(&socket).unwrap().mount_share(&source, &[]).await })
        });
        eventually("it mounts", || clients_below(dir.path()) > 0);
        let pid = fs::read_to_string(programs.join("mount.pid")).unwrap();
        ends_well(data);
        let error = mounting.join().unwrap().unwrap_err().to_string();
        assert!(error.contains("mount was stopped"), "{error}");
        // Told to end, they do so in a moment.
        eventually("no client is left", || clients_below(dir.path()) == 0);
        eventually("mount(8) ends", || !Path::new("/proc").join(pid.trim()).exists());
    }
}

/// Where the servers have not one byte left, a volume can still be deleted, and so makes room. GlusterFS itself takes writes
/// again some seconds after there is room.
#[test]
fn a_volume_is_deleted_from_servers_that_are_full() {
    let Source::Gluster { host, .. } = support::gluster_share() else { panic!("a GlusterFS volume") };
    let dir = support::scratch();
    let bricks = dir.path().join("bricks");
    fs::create_dir(&bricks).unwrap();
    let _disk = SmallShare::mount(&bricks, 1);
    let volume = OwnVolume::new("full", &host, &bricks);
    volume.set("client.strict-locks", "on");
    // A brick whose own look at its disk fails would end itself.
    volume.set("storage.health-check-interval", "0");
    run("gluster", &["--mode=script", "volume", "start", volume.0]);
    let source = Source::Gluster { host, volume: volume.0.into() };
    let (share, _) = gluster::open(&source, &[], &dir.path().join("mounts")).unwrap();
    let open = OpenShare(share.clone());
    let domain = Domain::on_share(Policy::default(), support::scratch(), share, Box::new(open));

    let bytes = vec![7; 16 << 20];
    let disks = ["gone", "stays"].map(|name| {
        let disk = domain.create(name, VolumeKind::Qcow2);
        write_at(&domain.attach(disk, Access::Block), 0, &bytes);
        domain.detach(disk);
        disk
    });
    let free = || rustix::fs::statvfs(&bricks).map(|found| found.f_bfree * found.f_frsize).unwrap();
    SmallShare::fill_up(&bricks);
    // What is left is what ext4 keeps for its own growth.
    let full = free();
    assert!(full < 32 << 20, "{full} bytes are free");
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(error) = domain.volumes.delete(disks[0]) {
        // A call waits for some seconds only; the sidecar asks again.
        assert!(Instant::now() < deadline, "{error}");
    }
    // Each server gives the blocks back when it gets to it.
    while free() < full + (45 << 20) {
        assert!(Instant::now() < deadline, "{} bytes are free", free());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(domain.volumes.get(disks[0]).is_err());
    let device = domain.attach(disks[1], Access::Block);
    assert!(read_start(&device, bytes.len()) == bytes);
    domain.detach(disks[1]);
    domain.check(disks[1]);
}
