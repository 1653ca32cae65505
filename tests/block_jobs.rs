//! Merging layers inside a daemon: headers change only when told to, and only to what they were told;
//! no chain ever reads anything else.

mod support;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};
use strata::image::header::{self, Header};
use strata::image::qemu_img::Preallocation;
use strata::image::{Format, ImageRef};
use strata::qsd::command::{self, Commit, JobStatus, Open, Stream};
use strata::qsd::qmp::Client;
use strata::qsd::{Daemon, DaemonHost};
use support::disk::{LIMIT, Rig};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;

/// base ← mid ← top, each with data of its own over parts of the one below; and what the points read.
struct Chain {
    rig: Rig,
    base: ImageRef,
    mid: ImageRef,
    top: ImageRef,
}

fn chain(base: Format, preallocation: Preallocation) -> Chain {
    let rig = Rig::new(&support::qemu_storage_daemon());
    let base = rig.create("base", base, SIZE, preallocation);
    let mid = rig.overlay("mid", &base, SIZE);
    let top = rig.overlay("top", &mid, SIZE);
    let c = Chain { rig, base, mid, top };
    c.write(std::slice::from_ref(&c.base), &[(0, 24, 0x11)]);
    // Data over data, data over nothing, zeros over data.
    c.write(&[c.mid.clone(), c.base.clone()], &[(4, 8, 0x22), (40, 4, 0x23), (16, 4, 0)]);
    c.write(&c.all(), &[(6, 4, 0x33), (50, 2, 0x34)]);
    c
}

impl Chain {
    fn all(&self) -> [ImageRef; 3] {
        [self.top.clone(), self.mid.clone(), self.base.clone()]
    }

    /// Writes runs of MiB (start, length, byte; 0 writes zeros) through a daemon.
    fn write(&self, layers: &[ImageRef], runs: &[(u64, u64, u8)]) {
        use std::os::unix::fs::FileExt;
        let (_, device) = self.rig.attach(layers);
        let file = std::fs::File::options().write(true).open(device.path).unwrap();
        for &(start, length, byte) in runs {
            file.write_all_at(&vec![byte; (length * MIB) as usize], start * MIB).unwrap();
        }
        file.sync_all().unwrap();
        drop(file);
        self.rig.detach();
    }

    fn flatten(&self, layers: &[ImageRef], name: &str) -> ImageRef {
        let image = self.rig.image(name, Format::Raw);
        self.rig.img.convert(layers, &image.path, Format::Raw, LIMIT).unwrap();
        image
    }

    fn same(&self, layers: &[ImageRef], flat: &ImageRef) -> bool {
        self.rig.img.compare(layers, std::slice::from_ref(flat), LIMIT).unwrap()
    }

    fn open(&self) -> (Daemon, Client, [String; 3]) {
        let daemon = self.rig.daemons.start(&self.rig.name).unwrap();
        let mut client = self.rig.client(&daemon);
        command::add_chain(&mut client, "vol", &self.all(), Open::ReadWrite).unwrap();
        let nodes = self.all().map(|image| command::node_name("vol", &image.path).unwrap());
        (daemon, client, nodes)
    }
}

fn wait_for(client: &mut Client, job: &str, status: JobStatus) -> command::JobInfo {
    let deadline = Instant::now() + LIMIT;
    loop {
        let info = command::jobs(client).unwrap().into_iter().find(|info| info.id == job).expect("the job");
        if info.status == status {
            return info;
        }
        assert!(Instant::now() < deadline && info.status != JobStatus::Concluded, "{info:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()[..4096].to_vec()
}

#[test]
fn a_commit_rewrites_the_header_above_only_when_finalized_and_as_told() {
    let c = chain(Format::Qcow2, Preallocation::Off);
    let live = c.flatten(&c.all(), "flat");
    let (_daemon, mut client, [top, mid, base]) = c.open();
    let before = bytes(&c.top.path);
    let commit =
        Commit { job: "merge", device: &top, top: &mid, base: &base, backing_file: Some("base"), speed: 0 };
    command::commit(&mut client, &commit).unwrap();
    wait_for(&mut client, "merge", JobStatus::Pending);
    assert_eq!(bytes(&c.top.path), before, "the header changed before the job was finalized");
    command::job_finalize(&mut client, "merge").unwrap();
    let done = wait_for(&mut client, "merge", JobStatus::Concluded);
    assert_eq!(done.error, None);
    command::job_dismiss(&mut client, "merge").unwrap();
    assert_eq!(command::jobs(&mut client).unwrap(), []);
    command::quit(&mut client).unwrap();
    drop(client);
    c.rig.daemons.stop(&c.rig.name).unwrap();
    header::verify(&c.top.path, Some(("base", Format::Qcow2))).unwrap();
    assert!(c.same(&[c.top.clone(), c.base.clone()], &live));
    assert!(c.rig.img.check(&c.base.path, Format::Qcow2, LIMIT).unwrap().ok);
}

#[test]
fn a_stream_rewrites_its_own_header_only_when_finalized_and_as_told() {
    let c = chain(Format::Raw, Preallocation::Off);
    let live = c.flatten(&c.all(), "flat");
    let (_daemon, mut client, [top, _, base]) = c.open();
    let backing = |path: &Path| Header::read(path).unwrap().backing_file;
    let stream = Stream { job: "merge", node: &top, base: Some(&base), backing_file: Some("base"), speed: 0 };
    command::stream(&mut client, &stream).unwrap();
    wait_for(&mut client, "merge", JobStatus::Pending);
    assert_eq!(backing(&c.top.path).as_deref(), Some("mid"));
    command::job_finalize(&mut client, "merge").unwrap();
    assert_eq!(wait_for(&mut client, "merge", JobStatus::Concluded).error, None);
    command::job_dismiss(&mut client, "merge").unwrap();
    drop(client);
    c.rig.daemons.stop(&c.rig.name).unwrap();
    // The raw base is named as raw: nothing will ever probe it.
    header::verify(&c.top.path, Some(("base", Format::Raw))).unwrap();
    assert!(c.same(&[c.top.clone(), c.base.clone()], &live));
}

#[test]
fn streaming_everything_leaves_no_backing_file() {
    let c = chain(Format::Qcow2, Preallocation::Off);
    let live = c.flatten(&c.all(), "flat");
    let (_daemon, mut client, [top, ..]) = c.open();
    command::stream(
        &mut client,
        &Stream { job: "flatten", node: &top, base: None, backing_file: None, speed: 0 },
    )
    .unwrap();
    wait_for(&mut client, "flatten", JobStatus::Pending);
    command::job_finalize(&mut client, "flatten").unwrap();
    assert_eq!(wait_for(&mut client, "flatten", JobStatus::Concluded).error, None);
    drop(client);
    c.rig.daemons.stop(&c.rig.name).unwrap();
    header::verify(&c.top.path, None).unwrap();
    assert!(c.same(std::slice::from_ref(&c.top), &live));
}

/// Fully allocated stays fully allocated, whatever is merged into it: zeros too.
#[test]
fn a_commit_into_a_fully_allocated_raw_base_punches_no_hole() {
    let c = chain(Format::Raw, Preallocation::Full);
    let live = c.flatten(&c.all(), "flat");
    let blocks = std::fs::metadata(&c.base.path).unwrap().blocks();
    assert!(blocks * 512 >= SIZE);
    let (_daemon, mut client, [top, mid, base]) = c.open();
    let commit =
        Commit { job: "merge", device: &top, top: &mid, base: &base, backing_file: Some("base"), speed: 0 };
    command::commit(&mut client, &commit).unwrap();
    wait_for(&mut client, "merge", JobStatus::Pending);
    command::job_finalize(&mut client, "merge").unwrap();
    assert_eq!(wait_for(&mut client, "merge", JobStatus::Concluded).error, None);
    drop(client);
    c.rig.daemons.stop(&c.rig.name).unwrap();
    assert!(std::fs::metadata(&c.base.path).unwrap().blocks() >= blocks);
    assert!(c.same(&[c.top.clone(), c.base.clone()], &live));
}

/// Killed, cancelled, or never finalized: every chain above reads as before.
#[test]
fn a_merge_that_is_killed_or_cancelled_changes_nothing_that_is_read() {
    let c = chain(Format::Qcow2, Preallocation::Off);
    let live = c.flatten(&c.all(), "flat-top");
    let point = c.flatten(&[c.mid.clone(), c.base.clone()], "flat-mid");
    let before = bytes(&c.top.path);
    let check = || {
        assert!(c.same(&c.all(), &live) && c.same(&[c.mid.clone(), c.base.clone()], &point));
        assert_eq!(bytes(&c.top.path), before);
    };
    for end in ["kill-running", "kill-pending", "cancel-running", "cancel-pending"] {
        let (daemon, mut client, [top, mid, base]) = c.open();
        let speed = if end.ends_with("running") { 2 * MIB } else { 0 };
        let commit =
            Commit { job: "merge", device: &top, top: &mid, base: &base, backing_file: Some("base"), speed };
        command::commit(&mut client, &commit).unwrap();
        match end.ends_with("pending") {
            true => drop(wait_for(&mut client, "merge", JobStatus::Pending)),
            false => std::thread::sleep(Duration::from_millis(600)),
        }
        if end.starts_with("kill") {
            let pid = rustix::process::Pid::from_raw(daemon.pid as i32).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        } else {
            command::job_cancel(&mut client, "merge").unwrap();
            wait_concluded(&mut client);
        }
        drop(client);
        c.rig.daemons.stop(&c.rig.name).unwrap();
        until_free(&c.top.path);
        check();
    }
}

/// What a killed daemon had submitted keeps its files open, and so locked, for some milliseconds after its end.
fn until_free(path: &Path) {
    let deadline = Instant::now() + LIMIT;
    while strata::image::lock::in_use(path).unwrap() {
        assert!(Instant::now() < deadline, "{} stays locked", path.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn wait_concluded(client: &mut Client) {
    let deadline = Instant::now() + LIMIT;
    while command::jobs(client).unwrap().iter().any(|info| info.status != JobStatus::Concluded) {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    command::job_dismiss(client, "merge").unwrap();
}

/// A broken chain leaves nothing open behind it.
#[test]
fn a_chain_that_cannot_be_opened_whole_is_not_open_at_all() {
    let c = chain(Format::Qcow2, Preallocation::Off);
    std::fs::write(&c.top.path, b"not an image").unwrap();
    let daemon = c.rig.daemons.start(&c.rig.name).unwrap();
    let mut client = c.rig.client(&daemon);
    let error = command::add_chain(&mut client, "vol", &c.all(), Open::ReadWrite).unwrap_err();
    assert!(error.refused() && error.to_string().contains("top"), "{error}");
    assert_eq!(command::nodes(&mut client).unwrap(), []);
}
