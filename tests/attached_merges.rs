//! Layers are merged while the volume is in use, inside the daemon that has them open; whatever needs the volume
//! breaks a merge off; long chains of clones are shortened (G9, X1, invariants 1 and 2).

mod support;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};
use strata::attach::EXPORT;
use strata::qsd::qmp::Client;
use strata::qsd::{DaemonHost, command};
use strata::volume::*;
use support::domain::{Domain, On, read_start, write_at};

const BLOCK: usize = 64 << 10;
const LENGTH: usize = 256 * BLOCK;
const LIMIT: Duration = Duration::from_secs(30);

fn fast() -> Policy {
    Policy::default()
}

/// So slow that nothing of some MiB is ever done.
fn slow() -> Policy {
    Policy { merge_speed: 64 << 10, ..Policy::default() }
}

/// A volume in use with a snapshot after each of some writes.
struct InUse {
    domain: Domain,
    volume: VolumeId,
    device: PathBuf,
    points: Vec<(SnapshotView, Vec<u8>)>,
    now: Vec<u8>,
}

impl InUse {
    fn new(policy: Policy, kind: VolumeKind, rounds: &[std::ops::Range<usize>]) -> InUse {
        InUse::of(On::Folder, policy, kind, rounds)
    }

    fn of(on: On, policy: Policy, kind: VolumeKind, rounds: &[std::ops::Range<usize>]) -> InUse {
        let domain = Domain::of(on, policy);
        let volume = domain.create("pvc", kind);
        let device = domain.attach(volume, Access::Block);
        let mut this = InUse { domain, volume, device, points: Vec::new(), now: vec![0; LENGTH] };
        for (index, blocks) in rounds.iter().enumerate() {
            this.write(blocks.clone(), index as u8 + 1);
            let point =
                this.domain.volumes.snapshot(volume, &this.domain.name(&format!("s{index}"))).unwrap();
            this.points.push((point, this.now.clone()));
        }
        this
    }

    fn write(&mut self, blocks: std::ops::Range<usize>, value: u8) {
        let (start, end) = (blocks.start * BLOCK, blocks.end * BLOCK);
        self.now[start..end].fill(value);
        self.now[start..start + BLOCK / 2].fill(0);
        write_at(&self.device, start as u64, &self.now[start..end]);
    }

    fn delete(&mut self, index: usize) {
        let (point, _) = self.points.remove(index);
        self.domain.volumes.delete_snapshot(self.volume, point.handle.snapshot).unwrap();
    }

    fn files(&self) -> usize {
        self.domain.files(self.volume).len()
    }

    fn verify(&self) {
        for (point, bytes) in &self.points {
            assert!(self.domain.read_snapshot(point, LENGTH) == *bytes, "{} changed", point.name);
        }
        if self.device.exists() {
            assert!(read_start(&self.device, LENGTH) == self.now, "the volume changed");
        }
    }

    fn detach(&self) {
        self.domain.detach(self.volume);
        assert!(self.domain.read(self.volume, LENGTH) == self.now, "the volume changed");
        self.verify();
        self.domain.check(self.volume);
    }

    /// The image files that the volume's daemon has open.
    fn open_files(&self) -> usize {
        let daemons = self.domain.daemons.list().unwrap();
        let pid = daemons.iter().find(|daemon| daemon.name.as_str().starts_with("volume")).unwrap().pid;
        let folder = self.domain.volumes.layout().volumes();
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let mut files: Vec<PathBuf> = fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()).collect();
        files.retain(|file| file.starts_with(&folder));
        files.sort();
        files.dedup();
        files.len()
    }
}

/// Else each layer would keep a top's caches for as long as the volume is attached.
#[rstest::rstest]
#[case::qcow2(VolumeKind::Qcow2)]
#[case::raw(VolumeKind::RawSparse)]
fn what_a_cut_has_frozen_is_no_longer_open_for_writing(#[case] kind: VolumeKind) {
    let used = InUse::new(fast(), kind, &[0..4, 2..6, 3..9]);
    let daemon = used.domain.daemons.list().unwrap().remove(0);
    let mut client = Client::connect(&daemon.qmp_socket, LIMIT).unwrap();
    let top = command::export_node(&mut client, EXPORT).unwrap();
    let mut images = command::nodes(&mut client).unwrap();
    images.retain(|node| !node.node_name.ends_with("-f"));
    assert_eq!(images.len(), 4, "{images:?}");
    assert!(images.iter().all(|node| node.read_only != (node.node_name == top)), "{images:?}");
    used.detach();
}

/// Writes and reads back until dropped.
fn under_load<T>(device: &Path, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut round = 0u64;
            while round == 0 || !stop.load(Ordering::Relaxed) {
                round += 1;
                let block = vec![round as u8 | 1; BLOCK];
                let at = LENGTH as u64 + (round * 7 % 32) * BLOCK as u64;
                write_at(device, at, &block);
                let mut found = vec![0; BLOCK];
                let file = std::fs::File::open(device).unwrap();
                std::os::unix::fs::FileExt::read_exact_at(&file, &mut found, at).unwrap();
                assert!(found == block, "round {round}");
            }
            round
        });
        let done = work();
        stop.store(true, Ordering::Relaxed);
        assert!(writer.join().unwrap() > 0);
        done
    })
}

#[rstest::rstest]
#[case::qcow2(On::Folder, VolumeKind::Qcow2, &[0..40, 4..10, 8..12])]
#[case::upwards(On::Folder, VolumeKind::Qcow2, &[0..3, 2..40, 8..12])]
#[case::raw(On::Folder, VolumeKind::RawSparse, &[0..8, 4..20, 8..12])]
#[case::raw_on_glusterfs(On::Gluster, VolumeKind::RawSparse, &[0..40, 4..10, 8..12])]
#[case::upwards_on_glusterfs(On::Gluster, VolumeKind::Qcow2, &[0..3, 2..40, 8..12])]
fn layers_are_merged_while_the_volume_is_written_to(
    #[case] on: On,
    #[case] kind: VolumeKind,
    #[case] rounds: &[std::ops::Range<usize>],
) {
    let mut used = InUse::of(on, fast(), kind, rounds);
    used.delete(0);
    let device = used.device.clone();
    under_load(&device, || used.domain.volumes.tidy(used.volume)).unwrap();
    assert_eq!(used.files(), 3);
    // The unlinked file is closed: its space is free.
    assert_eq!(used.open_files(), 3);
    used.verify();
    used.delete(1);
    under_load(&device, || used.domain.volumes.tidy(used.volume)).unwrap();
    // The boundary under the active image stays.
    assert_eq!((used.files(), used.open_files()), (3, 3));
    used.write(1..5, 99);
    let last = used.domain.volumes.snapshot(used.volume, &used.domain.name("last")).unwrap();
    used.points.push((last, used.now.clone()));
    used.domain.volumes.tidy(used.volume).unwrap();
    assert_eq!((used.files(), used.open_files()), (3, 3));
    used.verify();
    assert_eq!(used.domain.volumes.background(used.volume).unwrap(), None);
    used.detach();
}

/// Waits until a merge of that volume is copying.
fn until_merging(domain: &Domain, volume: VolumeId) {
    let deadline = Instant::now() + LIMIT;
    while domain.volumes.background(volume).unwrap().is_none() {
        assert!(Instant::now() < deadline, "no merge has begun");
        sleep(Duration::from_millis(20));
    }
    sleep(Duration::from_millis(500));
}

/// A cut, a clone and a pin each break a merge off and are done at once; it is begun anew later.
#[rstest::rstest]
#[case::downwards(&[0..64, 0..48, 8..12])]
#[case::upwards(&[0..120, 120..250, 8..12])]
fn a_merge_gives_way_to_whatever_needs_the_volume(#[case] rounds: &[std::ops::Range<usize>]) {
    let mut used = InUse::new(slow(), VolumeKind::Qcow2, rounds);
    used.delete(0);
    let (volumes, volume) = (used.domain.volumes.clone(), used.volume);
    let tidy = || {
        let volumes = volumes.clone();
        std::thread::spawn(move || volumes.tidy(volume))
    };
    for round in 0..3 {
        let merging = tidy();
        until_merging(&used.domain, volume);
        let note = volumes.background(volume).unwrap().expect("it is told what is merged");
        assert!(note.error.is_none() && note.direction != record::Direction::Flatten, "{note:?}");
        let begun = Instant::now();
        match round {
            0 => {
                used.write(20..22, 50);
                let point = volumes.snapshot(volume, "meanwhile").unwrap();
                used.points.push((point, used.now.clone()));
            }
            1 => {
                let source = Some(VolumeSource::Volume(volumes.handle(volume)));
                let clone = used.domain.create_from("clone", VolumeKind::Qcow2, source);
                assert!(used.domain.read(clone, LENGTH) == used.now);
            }
            _ => used.verify(),
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it waited for the merge");
        let stopped = merging.join().unwrap().unwrap_err();
        assert!(matches!(stopped, Error::Pending { .. }), "{stopped}");
        assert_eq!(volumes.background(volume).unwrap(), None);
    }
    // The node lets go in the middle of one.
    let merging = tidy();
    until_merging(&used.domain, volume);
    used.detach();
    merging.join().unwrap().unwrap_err();
}

/// A commit that was broken off has written into the lower layer: a backup that was reading it, and comes back after its pin has
/// ended, is refused, rather than given a mixture of two points.
#[rstest::rstest]
#[case::attached(true)]
#[case::detached(false)]
fn what_a_stopped_commit_has_written_to_is_no_point_any_more(#[case] attached: bool) {
    let mut used = InUse::new(slow(), VolumeKind::Qcow2, &[0..64, 0..48, 8..12]);
    if !attached {
        used.domain.detach(used.volume);
    }
    let (volumes, volume) = (used.domain.volumes.clone(), used.volume);
    let snapshot = used.points[0].0.handle.snapshot;
    let layer = layer_of(&used, 0);
    used.delete(0);
    let merging = std::thread::spawn({
        let volumes = volumes.clone();
        move || volumes.tidy(volume)
    });
    until_merging(&used.domain, volume);
    let refused = volumes.pin_layer(volume, snapshot, layer, "a backup").map(drop).unwrap_err();
    assert!(matches!(refused, Error::SnapshotNotFound { .. }), "{refused}");
    merging.join().unwrap().unwrap_err();
    used.verify();
}

/// A clone is made of a volume whose layers a node merges that does not answer: it is asked to stop, and meanwhile the other volumes
/// of the share go on.
#[test]
fn a_merge_on_a_node_that_hangs_keeps_no_other_volume_waiting() {
    let mut used = InUse::new(slow(), VolumeKind::Qcow2, &[0..64, 0..48, 8..12]);
    let other = used.domain.create("other", VolumeKind::Qcow2);
    used.delete(0);
    let (volumes, volume) = (used.domain.volumes.clone(), used.volume);
    let merging = std::thread::spawn(move || volumes.tidy(volume));
    until_merging(&used.domain, volume);
    used.domain.hang_agent(true);
    let of = Some(VolumeSource::Snapshot(used.points[1].0.handle.clone()));
    let (clone, beside) = std::thread::scope(|scope| {
        let clone = scope.spawn(|| used.domain.create_from("clone", VolumeKind::Qcow2, of));
        let path = used.domain.volumes.layout().record(volume);
        let stopping =
            || record::decode(&std::fs::read(&path).unwrap()).unwrap().merge.is_none_or(|m| m.cancelled);
        let deadline = Instant::now() + LIMIT;
        while !stopping() && Instant::now() < deadline {
            sleep(Duration::from_millis(10));
        }
        let beside = used.domain.volumes.tidy(other);
        used.domain.hang_agent(false);
        (clone.join().unwrap(), beside)
    });
    beside.unwrap();
    merging.join().unwrap().unwrap_err();
    assert!(used.domain.read(clone, LENGTH) == used.points[1].1);
    used.verify();
}

fn layer_of(used: &InUse, index: usize) -> LayerId {
    let bytes = std::fs::read(used.domain.volumes.layout().record(used.volume)).unwrap();
    let record = record::decode(&bytes).unwrap();
    record.snapshot(used.points[index].0.handle.snapshot).unwrap().layer
}

/// Whoever stops a merge before it runs is told that nothing of it does, and goes on: it does not begin after that.
#[rstest::rstest]
#[case::attached(true)]
#[case::detached(false)]
fn a_merge_that_was_stopped_before_it_ran_never_runs(#[case] attached: bool) {
    let mut used = InUse::new(fast(), VolumeKind::Qcow2, &[0..64, 0..48, 8..12]);
    if !attached {
        used.domain.detach(used.volume);
    }
    let lower = used.domain.volumes.layout().volume(used.volume).join(format!("volume-{}", used.volume));
    used.delete(0);
    let before = std::fs::read(&lower).unwrap();
    let (volumes, volume) = (used.domain.volumes.clone(), used.volume);
    steps::meanwhile(steps::Step::MergeUnlocked, move || {
        volumes.snapshot(volume, "meanwhile").unwrap();
    });
    let stopped = used.domain.volumes.tidy(used.volume).unwrap_err();
    assert!(matches!(stopped, Error::Pending { .. }), "{stopped}");
    assert!(std::fs::read(&lower).unwrap() == before, "it was written to");
    used.domain.volumes.tidy(used.volume).unwrap();
    used.verify();
}

/// The daemon of a merge has the active image open, as a pod's would: letting go of the volume waits for no merge.
#[test]
fn a_volume_is_let_go_while_its_layers_are_merged() {
    let mut used = InUse::new(slow(), VolumeKind::Qcow2, &[0..64, 0..48]);
    used.domain.detach(used.volume);
    used.delete(0);
    let (volumes, volume) = (used.domain.volumes.clone(), used.volume);
    let merging = std::thread::spawn(move || volumes.tidy(volume));
    until_merging(&used.domain, volume);
    let volumes = &used.domain.volumes;
    volumes.publish(volume, &used.domain.node, Purpose::Write).unwrap();
    volumes.unpublish(volume, Some(&used.domain.node)).unwrap();
    merging.join().unwrap().unwrap_err();
    used.verify();
}

/// Clones of snapshots of clones: each level adds layers, until the chain is longer than it should be.
fn grown(domain: &Domain) -> (VolumeId, Vec<u8>, Vec<VolumeId>) {
    let mut now = vec![0; LENGTH];
    let mut from = None;
    let mut volumes = Vec::new();
    for level in 1..=4u8 {
        let volume = domain.create_from(&format!("level-{level}"), VolumeKind::Qcow2, from);
        let start = usize::from(level) * 3 * BLOCK;
        now[start..start + 4 * BLOCK].fill(level);
        write_at(&domain.attach(volume, Access::Block), start as u64, &now[start..start + 4 * BLOCK]);
        domain.detach(volume);
        from = Some(VolumeSource::Volume(domain.volumes.handle(volume)));
        volumes.push(volume);
    }
    (*volumes.last().unwrap(), now, volumes)
}

#[rstest::rstest]
#[case::detached(false)]
#[case::attached(true)]
fn a_long_chain_is_shortened_from_the_clones_side(#[case] attached: bool) {
    let domain = Domain::with(Policy { soft_depth: 3, ..Policy::default() });
    let (clone, now, volumes) = grown(&domain);
    let depth = || domain.volumes.inspect(clone).unwrap().layers.len();
    assert_eq!(depth(), 4);
    assert!(domain.volumes.volumes_to_tidy().unwrap().contains(&clone), "nobody would look at it");
    let device = attached.then(|| domain.attach(clone, Access::Block));
    match &device {
        Some(device) => under_load(device, || domain.volumes.tidy(clone)).unwrap(),
        None => domain.volumes.tidy(clone).unwrap(),
    }
    assert_eq!(depth(), 2);
    if let Some(device) = device {
        assert!(read_start(&device, LENGTH) == now);
        domain.detach(clone);
    }
    assert!(domain.read(clone, LENGTH) == now);
    domain.check(clone);
    // It stands on its own feet: everything else may go, and goes whole.
    for volume in volumes.iter().filter(|volume| **volume != clone) {
        domain.volumes.delete(*volume).unwrap();
        domain.volumes.tidy(*volume).unwrap();
    }
    assert_eq!(std::fs::read_dir(domain.volumes.layout().volumes()).unwrap().count(), 1);
    assert!(domain.read(clone, LENGTH) == now);
}

/// A daemon that died makes nothing wrong, and after the detach the merge is done.
#[test]
fn a_daemon_that_died_is_no_failure_of_the_merge() {
    let mut used = InUse::new(fast(), VolumeKind::Qcow2, &[0..20, 4..10, 8..12]);
    used.delete(0);
    // Its daemon dies: no node has it open any more, though the record says so.
    let daemon = used.domain.daemons.list().unwrap().remove(0);
    used.domain.daemons.stop(&daemon.name).unwrap();
    let error = used.domain.volumes.tidy(used.volume).unwrap_err();
    assert!(matches!(error, Error::Pending { .. }), "{error}");
    used.domain.detach(used.volume);
    used.domain.volumes.tidy(used.volume).unwrap();
    assert_eq!(used.files(), 3);
    used.verify();
}

/// A merge's daemon whose runner died on another machine is ended by the data plane that runs it; those of volumes
/// have no lease and stay.
#[test]
fn a_daemon_that_nobody_asks_for_is_ended() {
    let used = InUse::new(fast(), VolumeKind::Qcow2, &[]);
    let daemons = &used.domain.daemons;
    let name: strata::qsd::DaemonName = "merge-of-somebody".parse().unwrap();
    assert!(daemons.keep(&name, LIMIT).is_err(), "there is no such daemon");
    daemons.start(&name).unwrap();
    daemons.keep(&name, LIMIT).unwrap();
    daemons.end_expired().unwrap();
    assert_eq!(daemons.list().unwrap().len(), 2);
    daemons.keep(&name, Duration::ZERO).unwrap();
    sleep(Duration::from_millis(20));
    daemons.end_expired().unwrap();
    assert!(daemons.find(&name).unwrap().is_none());
    assert_eq!(daemons.list().unwrap().len(), 1, "the volume's own stays");
    used.verify();
}

/// Two controllers that look after one share do not break each other's merges off.
#[test]
fn a_second_controller_leaves_a_running_merge_alone() {
    let mut used = InUse::new(slow(), VolumeKind::Qcow2, &[0..64, 0..48, 8..12]);
    used.delete(0);
    let (volumes, volume) = (used.domain.volumes.clone(), used.volume);
    let merging = std::thread::spawn(move || volumes.tidy(volume));
    until_merging(&used.domain, volume);
    let run = used.domain.volumes.background(volume).unwrap().unwrap().run;
    for _ in 0..3 {
        let other = used.domain.volumes.tidy(volume).unwrap_err();
        assert!(matches!(other, Error::Pending { .. }), "{other}");
    }
    assert_eq!(used.domain.volumes.background(volume).unwrap().unwrap().run, run);
    used.detach();
    merging.join().unwrap().unwrap_err();
}

/// A source that keeps many snapshots because they are wanted would not get shorter without its clones: those stay
/// what they are, made by reference.
#[test]
fn wanted_snapshots_make_no_clone_a_copy() {
    let domain = Domain::with(Policy { soft_depth: 3, ..Policy::default() });
    let source = domain.create("pvc-source", VolumeKind::Qcow2);
    let first = domain.volumes.snapshot(source, "s0").unwrap();
    for index in 1..6 {
        domain.volumes.snapshot(source, &format!("s{index}")).unwrap();
    }
    let of = Some(VolumeSource::Snapshot(first.handle));
    let clone = domain.create_from("clone", VolumeKind::Qcow2, of);
    assert!(!domain.volumes.volumes_to_tidy().unwrap().contains(&clone));
    domain.volumes.tidy(clone).unwrap();
    assert_eq!(domain.volumes.inspect(clone).unwrap().layers.len(), 2);
}
