//! Snapshots, clones, deletions and merges, on real images and storage daemons: whatever happens to one point,
//! every other one reads back byte for byte as before (invariants 1 and 2).

mod support;

use rstest::rstest;
use std::collections::BTreeMap;
use strata::volume::*;
use support::domain::{Domain, write_at};

/// What the tests write lies in here: 64 blocks of 64 KiB, one qcow2 cluster each.
const BLOCK: usize = 64 << 10;
const LENGTH: usize = 64 * BLOCK;

/// A volume whose points are known: `expected` has the bytes of each snapshot.
struct History {
    domain: Domain,
    volume: VolumeId,
    now: Vec<u8>,
    expected: BTreeMap<String, (SnapshotView, Vec<u8>)>,
}

impl History {
    fn new(kind: VolumeKind) -> History {
        let domain = Domain::new();
        let volume = domain.create("pvc-history", kind);
        History { domain, volume, now: vec![0; LENGTH], expected: BTreeMap::new() }
    }

    /// Writes `value` to some blocks of the attached volume, and zeros to one of them.
    fn write(&mut self, blocks: std::ops::Range<usize>, value: u8) {
        let device = self.domain.attach(self.volume, Access::Block);
        let length = blocks.len() * BLOCK;
        let start = blocks.start * BLOCK;
        self.now[start..start + length].fill(value);
        self.now[start..start + BLOCK / 2].fill(0);
        write_at(&device, start as u64, &self.now[start..start + length]);
        self.domain.detach(self.volume);
    }

    fn snapshot(&mut self, name: &str) {
        let view = self.domain.volumes.snapshot(self.volume, name).unwrap();
        self.expected.insert(name.to_owned(), (view, self.now.clone()));
    }

    fn delete(&mut self, name: &str) {
        let (view, _) = self.expected.remove(name).unwrap();
        self.domain.volumes.delete_snapshot(self.volume, view.handle.snapshot).unwrap();
        self.domain.volumes.tidy(self.volume).unwrap();
    }

    fn verify(&self, when: &str) {
        for (name, (view, bytes)) in &self.expected {
            let found = self.domain.read_snapshot(view, LENGTH);
            assert!(found == *bytes, "snapshot {name} changed {when}");
        }
        assert!(self.domain.read(self.volume, LENGTH) == self.now, "the volume changed {when}");
        self.domain.check(self.volume);
        let record = self.record();
        let table = std::fs::read(self.domain.volumes.layout().info(self.volume)).unwrap();
        let table: BTreeMap<String, String> = serde_json::from_slice(&table).unwrap();
        assert_eq!(table, record.info_table(), "volume.info disagrees with the record {when}");
    }

    fn record(&self) -> record::Record {
        let path = self.domain.volumes.layout().record(self.volume);
        record::decode(&std::fs::read(path).unwrap()).unwrap()
    }
}

/// G8: newest, middle and oldest, in every order, of every kind of image.
#[rstest]
fn deleting_any_snapshot_leaves_every_other_point_as_it_was(
    #[values(VolumeKind::Qcow2, VolumeKind::RawSparse, VolumeKind::RawFull)] kind: VolumeKind,
    #[values(["s3", "s2", "s1"], ["s2", "s1", "s3"], ["s1", "s3", "s2"])] order: [&str; 3],
) {
    let mut history = History::new(kind);
    history.write(0..40, 1);
    history.snapshot("s1");
    history.write(10..50, 2);
    history.snapshot("s2");
    history.write(30..60, 3);
    history.snapshot("s3");
    history.write(0..5, 4);
    history.verify("before anything was deleted");
    let blocks = |history: &History| {
        use std::os::unix::fs::MetadataExt;
        let base = history.domain.volumes.layout().volume(history.volume);
        std::fs::metadata(base.join(format!("volume-{}", history.volume))).unwrap().blocks()
    };
    let allocated = blocks(&history);
    for name in order {
        history.delete(name);
        history.verify(&format!("when {name} was deleted"));
    }
    // The boundary under the active image stays; all else is merged.
    assert_eq!(history.record().layers.len(), 2, "{:#?}", history.record().layers);
    assert_eq!(history.domain.files(history.volume).len(), 2);
    if kind == VolumeKind::RawFull {
        assert!(blocks(&history) >= allocated, "a merge punched holes into a fully allocated base");
    }
    // The next cut sets the boundary free.
    history.write(1..3, 5);
    history.snapshot("s4");
    history.domain.volumes.tidy(history.volume).unwrap();
    history.verify("after another round");
    assert_eq!(history.record().layers.len(), 2, "{:#?}", history.record().layers);
}

/// X1, G7: the cut of a volume that is in use.
#[test]
fn an_attached_volume_goes_on_writing_while_it_is_cut() {
    let domain = Domain::new();
    let volume = domain.create("pvc-attached", VolumeKind::Qcow2);
    let device = domain.attach(volume, Access::Block);
    let mut taken = Vec::new();
    for round in 1..=3u8 {
        write_at(&device, 0, &vec![round; LENGTH]);
        let snapshot = domain.volumes.snapshot(volume, &format!("round-{round}")).unwrap();
        assert_eq!(
            snapshot.consistency,
            record::Consistency::Crash,
            "block mode has no filesystem to freeze"
        );
        taken.push((snapshot, vec![round; LENGTH]));
    }
    write_at(&device, 0, &vec![9; BLOCK]);
    // Deleted while attached: answered at once, and the background gets the space back.
    let (second, _) = taken.remove(1);
    domain.volumes.delete_snapshot(volume, second.handle.snapshot).unwrap();
    assert_eq!(domain.files(volume).len(), 4);
    domain.volumes.tidy(volume).unwrap();
    assert_eq!(domain.files(volume).len(), 3);
    domain.detach(volume);
    for (snapshot, bytes) in &taken {
        assert!(domain.read_snapshot(snapshot, LENGTH) == *bytes, "{} changed", snapshot.name);
    }
    assert_eq!(domain.read(volume, BLOCK), vec![9; BLOCK]);
}

/// K5 in part: a clone keeps what it stands on, whoever is deleted first, and the last one frees it all.
#[test]
fn a_clone_outlives_its_snapshot_and_its_source() {
    let domain = Domain::new();
    let source = domain.create("pvc-source", VolumeKind::Qcow2);
    let device = domain.attach(source, Access::Block);
    write_at(&device, 0, &vec![7; LENGTH]);
    domain.detach(source);
    let snapshot = domain.volumes.snapshot(source, "snap").unwrap();
    let from = Some(VolumeSource::Snapshot(snapshot.handle.clone()));
    let clone = domain.create_from("pvc-clone", VolumeKind::Qcow2, from);
    domain.volumes.delete_snapshot(source, snapshot.handle.snapshot).unwrap();
    domain.volumes.tidy(source).unwrap();
    domain.volumes.delete(source).unwrap();
    domain.volumes.tidy(source).unwrap();
    assert_eq!(domain.read(clone, LENGTH), vec![7; LENGTH]);

    // The name of a deleted volume whose layers are still needed: a new life that gets nothing of theirs.
    let again = domain.create("pvc-source", VolumeKind::Qcow2);
    assert_eq!(again, source);
    assert_eq!(domain.read(again, LENGTH), vec![0; LENGTH]);
    assert_eq!(domain.read(clone, LENGTH), vec![7; LENGTH]);
    domain.volumes.delete(again).unwrap();
    assert_eq!(domain.read(clone, LENGTH), vec![7; LENGTH]);

    domain.volumes.delete(clone).unwrap();
    let left: Vec<_> = std::fs::read_dir(domain.volumes.layout().volumes()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A detached cut takes QEMU's write lock: an image that some process writes to is not cut under it.
#[test]
fn an_image_that_an_unknown_process_writes_to_is_not_cut() {
    let domain = Domain::new();
    let volume = domain.create("pvc-unknown-writer", VolumeKind::Qcow2);
    let file = domain.volumes.layout().volume(volume).join(format!("volume-{volume}"));
    let lock = strata::image::lock::ImageLock::write(&file).unwrap();
    let refused = domain.volumes.snapshot(volume, "snap").unwrap_err();
    assert!(refused.to_string().contains("in use"), "{refused}");
    drop(lock);
    domain.volumes.snapshot(volume, "snap").unwrap();
}

/// Invariant 3, G12: a guest that writes a qcow2 header into its raw disk gains nothing.
#[test]
fn a_raw_volume_whose_guest_wrote_a_qcow2_header_stays_raw() {
    let domain = Domain::new();
    let volume = domain.create("pvc-raw", VolumeKind::RawSparse);
    let img = strata::image::QemuImg::new(support::qemu_img());
    let forged = domain.dir.path().join("forged.qcow2");
    let create = strata::image::qemu_img::Create {
        format: strata::image::Format::Qcow2,
        size: 1 << 20,
        preallocation: strata::image::qemu_img::Preallocation::Off,
        backing: Some(("/etc/passwd".into(), strata::image::Format::Raw)),
    };
    img.create(&forged, &create, support::disk::LIMIT).unwrap();
    let header = std::fs::read(&forged).unwrap();
    let device = domain.attach(volume, Access::Block);
    write_at(&device, 0, &header[..4096]);
    domain.detach(volume);
    let snapshot = domain.volumes.snapshot(volume, "snap").unwrap();
    assert_eq!(domain.read(volume, 4096), header[..4096]);
    assert_eq!(domain.read_snapshot(&snapshot, 4096), header[..4096]);
}

/// Two names, one snapshot id: refused; the same call again: the same snapshot.
#[test]
fn a_snapshot_name_belongs_to_one_volume() {
    let domain = Domain::new();
    let (one, two) = (domain.create("one", VolumeKind::Qcow2), domain.create("two", VolumeKind::Qcow2));
    let first = domain.volumes.snapshot(one, "snap").unwrap();
    assert_eq!(domain.volumes.snapshot(one, "snap").unwrap(), first);
    assert!(matches!(domain.volumes.snapshot(two, "snap"), Err(Error::NameTaken { .. })));
    domain.volumes.delete_snapshot(one, first.handle.snapshot).unwrap();
    domain.volumes.snapshot(two, "snap").unwrap();
}

/// From the claim until the snapshot is in the record nothing but the volume's lock shows that the name is taken.
#[test]
fn a_name_is_taken_while_its_snapshot_is_being_made() {
    let domain = Domain::new();
    let (one, two) = (domain.create("one", VolumeKind::Qcow2), domain.create("two", VolumeKind::Qcow2));
    let volumes = domain.volumes.clone();
    steps::meanwhile(steps::Step::SnapshotNamed, move || {
        let early = std::thread::spawn(move || volumes.snapshot(two, "snap")).join().unwrap();
        assert!(matches!(early, Err(Error::Pending { .. })), "{early:?}");
    });
    domain.volumes.snapshot(one, "snap").unwrap();
    assert!(matches!(domain.volumes.snapshot(two, "snap"), Err(Error::NameTaken { .. })));
}

/// A claim that nothing came of, or that nobody can read, is taken over by one of those that want the name at one moment.
#[rstest]
#[case::forgotten(VolumeId::from_name("gone").to_string())]
#[case::unreadable("?".to_owned())]
fn of_several_that_find_a_name_of_nobody_one_gets_it(#[case] claimed: String) {
    let domain = Domain::new();
    let wanting: Vec<VolumeId> =
        (0..4).map(|index| domain.create(&format!("pvc-{index}"), VolumeKind::Qcow2)).collect();
    for round in 0..3 {
        let name = format!("snap-{round}");
        let claim = domain.volumes.layout().snapshot_owner(SnapshotId::from_name(&name));
        std::fs::create_dir_all(claim.parent().unwrap()).unwrap();
        std::fs::write(&claim, &claimed).unwrap();
        let start = std::sync::Barrier::new(wanting.len());
        let take = |volume: VolumeId| {
            start.wait();
            loop {
                match domain.volumes.snapshot(volume, &name) {
                    Err(Error::Pending { .. }) => std::thread::sleep(std::time::Duration::from_millis(5)),
                    taken => return taken,
                }
            }
        };
        let taken: Vec<_> = std::thread::scope(|scope| {
            let take = &take;
            let takers: Vec<_> = wanting.iter().map(|volume| scope.spawn(move || take(*volume))).collect();
            takers.into_iter().map(|taker| taker.join().unwrap()).collect()
        });
        let (got, refused): (Vec<_>, Vec<_>) = taken.into_iter().partition(Result::is_ok);
        assert!(refused.iter().all(|other| matches!(other, Err(Error::NameTaken { .. }))), "{refused:?}");
        let got: Vec<String> = got.into_iter().map(|one| one.unwrap().handle.volume.to_string()).collect();
        assert_eq!(got, [std::fs::read_to_string(&claim).unwrap()], "round {round}");
    }
}

/// What waits for the next cut, for a clone, or for the snapshot of a deleted volume is no work: to look into it again and again
/// would take the lock that all volumes of the share have in common.
#[test]
fn nothing_is_due_where_nothing_can_be_done() {
    let domain = Domain::new();
    let volumes = &domain.volumes;
    let due = || volumes.volumes_to_tidy().unwrap();
    let volume = domain.create("pvc", VolumeKind::Qcow2);
    let write = |value| {
        write_at(&domain.attach(volume, Access::Block), 0, &[value; BLOCK]);
        domain.detach(volume);
    };
    write(1);
    let first = volumes.snapshot(volume, "s1").unwrap();
    write(2);
    volumes.delete_snapshot(volume, first.handle.snapshot).unwrap();
    assert_eq!(due(), [], "the boundary waits for the next cut");
    let second = volumes.snapshot(volume, "s2").unwrap();
    assert_eq!(due(), [volume], "the cut has come");
    volumes.tidy(volume).unwrap();
    assert_eq!(due(), []);

    let of = VolumeSource::Snapshot(second.handle.clone());
    let clone = domain.create_from("clone", VolumeKind::Qcow2, Some(of));
    volumes.delete_snapshot(volume, second.handle.snapshot).unwrap();
    let third = volumes.snapshot(volume, "s3").unwrap();
    assert_eq!(due(), [], "it waits for the clone");
    volumes.delete(clone).unwrap();
    assert_eq!(due(), [volume], "the clone is gone");
    volumes.tidy(volume).unwrap();

    volumes.delete(volume).unwrap();
    assert_eq!(due(), [], "its snapshot stays");
    volumes.delete_snapshot(volume, third.handle.snapshot).unwrap();
    assert_eq!(due(), [volume], "nothing of it is to stay");
    volumes.tidy(volume).unwrap();
    assert_eq!(volumes.list().unwrap(), []);
}

/// The clock of the machine that reads is behind by more than a lease: nobody takes its pin for one that is over.
#[test]
fn a_pin_holds_whatever_the_clock_of_its_owner_says() {
    let domain = Domain::new();
    let volume = domain.create("pvc", VolumeKind::Qcow2);
    let mut taken = Vec::new();
    for value in [1, 2] {
        write_at(&domain.attach(volume, Access::Block), 0, &[value; BLOCK]);
        domain.detach(volume);
        taken.push(domain.volumes.snapshot(volume, &format!("s{value}")).unwrap().handle);
    }
    let pinned = domain.volumes.pin_snapshot(volume, taken[0].snapshot, "a backup").unwrap();
    let path = domain.volumes.layout().record(volume);
    let mut record = record::decode(&std::fs::read(&path).unwrap()).unwrap();
    record.pins[0].until -= jiff::SignedDuration::from_mins(20);
    std::fs::write(&path, record::encode(&record)).unwrap();

    let controller = Volumes::new(domain.volumes.share().clone(), domain.volumes.tools().clone());
    controller.delete_snapshot(volume, taken[0].snapshot).unwrap();
    controller.tidy(volume).unwrap();
    let flat = domain.dir.path().join("flat");
    let img = strata::image::QemuImg::new(support::qemu_img());
    img.convert(&pinned.chain, &flat, strata::image::Format::Raw, support::disk::LIMIT).unwrap();
    assert!(support::domain::read_start(&flat, BLOCK) == [1; BLOCK], "the layer was merged away");
    assert!(!pinned.is_lost());
    drop(pinned);
    controller.tidy(volume).unwrap();
    assert_eq!(domain.volumes.inspect(volume).unwrap().layers.len(), 2, "it is merged once nobody reads it");
}

/// G15: after a reboot the node's notes are there, the daemon and the mounts are not; the volume is staged anew.
#[test]
fn a_volume_whose_daemon_and_mounts_are_gone_is_staged_anew() {
    use strata::host::mount::{LinuxMounter, Mounter};
    use strata::qsd::DaemonHost;
    let domain = Domain::new();
    let volume = domain.create("pvc-reboot", VolumeKind::Qcow2);
    let device = domain.attach(volume, Access::Block);
    write_at(&device, 0, &vec![3; BLOCK]);
    for daemon in domain.daemons.list().unwrap() {
        domain.daemons.stop(&daemon.name).unwrap();
    }
    let refused = domain.try_attach(volume, Access::Block).unwrap_err();
    assert!(refused.to_string().contains("daemon died"), "{refused}");
    LinuxMounter.unmount(&device).unwrap();
    let device = domain.attach(volume, Access::Block);
    assert_eq!(support::domain::read_start(&device, BLOCK), vec![3; BLOCK]);
    domain.detach(volume);
}

/// A source with data in two layers, s1 under s2, big enough that merging them takes a while.
fn slow_source(domain: &Domain, name: &str) -> (VolumeId, SnapshotView, SnapshotView) {
    let volume = domain.create(name, VolumeKind::Qcow2);
    let mut points = Vec::new();
    for value in 1..=2u8 {
        let device = domain.attach(volume, Access::Block);
        write_at(&device, 0, &vec![value; 96 << 20]);
        domain.detach(volume);
        points.push(domain.volumes.snapshot(volume, &format!("{name}-s{value}")).unwrap());
    }
    let second = points.pop().unwrap();
    (volume, points.pop().unwrap(), second)
}

/// Invariant 2: a clone made while its snapshot's layer is being merged stands on the file that stays.
#[test]
fn a_clone_made_during_a_merge_opens_afterwards() {
    let domain = Domain::new();
    let (source, first, second) = slow_source(&domain, "merging");
    domain.volumes.delete_snapshot(source, first.handle.snapshot).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let tidied = domain.volumes.tidy(source);
            // Stopped for the clone: to be begun anew.
            assert!(matches!(tidied, Ok(()) | Err(Error::Pending { .. })), "{tidied:?}");
        });
        let record = domain.volumes.layout().record(source);
        while !std::fs::read_to_string(&record).unwrap().contains("\"started_at\"") {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let from = Some(VolumeSource::Snapshot(second.handle.clone()));
        let clone = domain.create_from("clone-in-between", VolumeKind::Qcow2, from);
        assert_eq!(domain.read(clone, LENGTH), vec![2; LENGTH]);
    });
    domain.volumes.tidy(source).unwrap();
    let clone = VolumeId::from_name("clone-in-between");
    assert_eq!(domain.read(clone, LENGTH), vec![2; LENGTH]);
    assert_eq!(domain.read(source, LENGTH), vec![2; LENGTH]);
}

/// An attached clone reads its source's layers: the source's merges wait, and nothing else does.
#[test]
fn an_attached_clone_keeps_its_source_usable() {
    let domain = Domain::new();
    let (source, first, second) = slow_source(&domain, "read-by-a-clone");
    let from = Some(VolumeSource::Snapshot(second.handle.clone()));
    let clone = domain.create_from("reader", VolumeKind::Qcow2, from);
    let device = domain.attach(clone, Access::Block);
    domain.volumes.delete_snapshot(source, first.handle.snapshot).unwrap();
    assert!(matches!(domain.volumes.tidy(source), Err(Error::Pending { .. })));
    domain.volumes.snapshot(source, "while-read").unwrap();
    assert_eq!(domain.read(source, LENGTH), vec![2; LENGTH]);
    assert_eq!(support::domain::read_start(&device, LENGTH), vec![2; LENGTH]);
    domain.detach(clone);
    domain.volumes.tidy(source).unwrap();
    let report = domain.volumes.inspect(source).unwrap();
    assert_eq!((report.problems, report.pending), (vec![], vec![]));
    assert_eq!(report.layers.len(), 3, "s1's layer is merged upwards: {:#?}", report.layers);
    assert_eq!(domain.read(clone, LENGTH), vec![2; LENGTH]);
}

/// A snapshot of a deleted volume is not handed out as one of the next volume of that name.
#[test]
fn a_snapshot_of_a_former_life_is_not_of_this_one() {
    let domain = Domain::new();
    let volume = domain.create("v", VolumeKind::Qcow2);
    let daily = domain.volumes.snapshot(volume, "daily").unwrap();
    domain.volumes.delete(volume).unwrap();
    assert_eq!(domain.volumes.list_snapshots(None).unwrap(), [daily]);
    domain.create("v", VolumeKind::Qcow2);
    assert!(matches!(domain.volumes.snapshot(volume, "daily"), Err(Error::NameTaken { .. })));
    domain.volumes.snapshot(volume, "other").unwrap();
}

/// Ids come from names: two shares can hold the same one, and one node can have both.
#[test]
fn two_shares_with_one_volume_name_do_not_meet_on_a_node() {
    let domain = Domain::new();
    let other = domain.second_share();
    let id = domain.create("data", VolumeKind::Qcow2);
    let device = domain.attach(id, Access::Block);
    write_at(&device, 0, &vec![1; BLOCK]);
    let request = CreateVolume {
        name: "data".into(),
        required: None,
        limit: None,
        kind: VolumeKind::Qcow2,
        source: None,
        parameters: Default::default(),
    };
    other.create(&request).unwrap();
    other.publish(id, &domain.node, Purpose::Write).unwrap();
    let staging_path = domain.dir.path().join("other");
    std::fs::create_dir(&staging_path).unwrap();
    let stage = StageVolume { volume: id, staging_path: staging_path.clone(), access: Access::Block };
    domain.staging.stage(&other, &stage).unwrap();
    domain.staging.unstage(&other.handle(id), &staging_path).unwrap();
    write_at(&device, 0, &vec![2; BLOCK]);
    domain.detach(id);
    assert_eq!(domain.read(id, BLOCK), vec![2; BLOCK]);
}

/// G10, invariant 6: what is wrong with a volume is told, and a damaged record is never replaced by itself.
#[test]
fn what_is_wrong_with_a_volume_is_told_and_nothing_is_changed() {
    let domain = Domain::new();
    let volume = domain.create("pvc-damaged", VolumeKind::Qcow2);
    let snapshot = domain.volumes.snapshot(volume, "snap").unwrap();
    let report = domain.volumes.inspect(volume).unwrap();
    assert_eq!((report.layers.len(), report.problems), (2, vec![]));

    let path = domain.volumes.layout().record(volume);
    let good = std::fs::read(&path).unwrap();
    let mut damaged = good.clone();
    damaged[good.len() / 2] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    let told = |error: Error| assert!(matches!(error, Error::DamagedRecord { .. }), "{error}");
    told(domain.volumes.snapshot(volume, "other").unwrap_err());
    told(domain.volumes.delete_snapshot(volume, snapshot.handle.snapshot).unwrap_err());
    told(domain.volumes.publish(volume, &domain.node, Purpose::Write).unwrap_err());
    told(domain.volumes.delete(volume).unwrap_err());
    assert_eq!(domain.volumes.inspect(volume).unwrap().problems.len(), 1);
    assert_eq!(std::fs::read(&path).unwrap(), damaged, "a damaged record was written over");

    std::fs::write(&path, &good).unwrap();
    let overlay =
        domain.files(volume).into_iter().find(|file| file.contains(&snapshot.handle.snapshot.to_string()));
    let overlay = domain.volumes.layout().volume(volume).join(overlay.unwrap());
    let img = strata::image::QemuImg::new(support::qemu_img());
    let raw = strata::image::Format::Raw;
    img.rebase_unsafe(&overlay, strata::image::Format::Qcow2, "/etc/passwd", raw).unwrap();
    assert!(domain.volumes.inspect(volume).unwrap().problems[0].contains("/etc/passwd"));
    assert!(domain.try_attach(volume, Access::Block).is_err(), "a chain of its own choosing was opened");
}

/// A share that was unmounted shows an empty folder: nothing of it is taken for gone.
#[test]
fn what_lies_on_a_share_that_is_not_mounted_any_more_is_not_gone() {
    let domain = Domain::new();
    let volume = domain.create("v", VolumeKind::Qcow2);
    let root = domain.volumes.share().root.clone();
    let aside = root.with_extension("aside");
    std::fs::rename(&root, &aside).unwrap();
    std::fs::create_dir(&root).unwrap();
    let away = |error: Error| assert!(matches!(error, Error::ShareAway { .. }), "{error}");
    away(domain.volumes.delete(volume).unwrap_err());
    away(domain.volumes.unpublish(volume, None).unwrap_err());
    away(domain.volumes.get(volume).map(drop).unwrap_err());
    away(domain.volumes.knows(volume).map(drop).unwrap_err());
    away(domain.volumes.list_snapshots(None).map(drop).unwrap_err());
    away(domain.volumes.node(&domain.node).map(drop).unwrap_err());
    let request = CreateVolume {
        name: "other".into(),
        required: None,
        limit: None,
        kind: VolumeKind::Qcow2,
        source: None,
        parameters: Default::default(),
    };
    away(domain.volumes.create(&request).map(drop).unwrap_err());
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
    std::fs::remove_dir(&root).unwrap();
    std::fs::rename(&aside, &root).unwrap();
    domain.volumes.get(volume).unwrap();
}
