//! Records that are damaged, cut short or gone, of real chains with clones: rebuilt, or refused with nothing changed.

use crate::support::domain::{Domain, write_at};
use crate::support::{qemu_img, run};
use crate::{answer, said, strata};
use std::collections::BTreeMap;
use std::path::PathBuf;
use strata::image::Format;
use strata::image::lock::ImageLock;
use strata::volume::record::{Record, decode, encode};
use strata::volume::{Access, Error, SnapshotView, VolumeId, VolumeKind, VolumeSource, Volumes};

/// A volume with three snapshots, one of them deleted, and a clone of the first.
struct Family {
    domain: Domain,
    volume: VolumeId,
    clone: VolumeId,
    points: Vec<(SnapshotView, Vec<u8>)>,
    now: Vec<u8>,
    of_clone: Vec<u8>,
    record: Vec<u8>,
}

const LENGTH: usize = 256 << 10;

fn write(domain: &Domain, volume: VolumeId, bytes: &mut [u8], at: usize, value: u8) {
    let device = domain.attach(volume, Access::Block);
    bytes[at..at + (100 << 10)].fill(value);
    write_at(&device, at as u64, &bytes[at..at + (100 << 10)]);
    domain.detach(volume);
}

impl Family {
    fn new(kind: VolumeKind) -> Family {
        let domain = Domain::new();
        let volumes = domain.volumes.clone();
        let volume = domain.create("pvc-source", kind);
        let (mut now, mut points) = (vec![0; LENGTH], Vec::new());
        for round in 1..=3u8 {
            write(&domain, volume, &mut now, usize::from(round) * (30 << 10), round);
            points.push((volumes.snapshot(volume, &format!("s{round}")).unwrap(), now.clone()));
        }
        let (middle, _) = points.remove(1);
        volumes.delete_snapshot(volume, middle.handle.snapshot).unwrap();
        write(&domain, volume, &mut now, 0, 9);
        let source = VolumeSource::Snapshot(points[0].0.handle.clone());
        let clone = domain.create_from("pvc-clone", VolumeKind::Qcow2, Some(source));
        let mut of_clone = points[0].1.clone();
        write(&domain, clone, &mut of_clone, 120 << 10, 7);
        let record = std::fs::read(volumes.layout().record(volume)).unwrap();
        Family { domain, volume, clone, points, now, of_clone, record }
    }

    fn volumes(&self) -> &Volumes {
        &self.domain.volumes
    }

    fn path(&self) -> PathBuf {
        self.volumes().layout().record(self.volume)
    }

    fn rebuilt(&self) -> Record {
        decode(&std::fs::read(self.path()).unwrap()).unwrap()
    }

    /// The same files on each other, the same snapshots, the same ids for the clone; a new life.
    fn same_shape(&self) {
        let (before, after) = (decode(&self.record).unwrap(), self.rebuilt());
        assert_eq!(shape(&after), shape(&before));
        assert!(
            after.generation > before.generation && !after.new && after.incarnation != before.incarnation
        );
        for volume in [self.volume, self.clone] {
            assert_eq!(self.volumes().inspect(volume).unwrap().problems, Vec::<String>::new());
        }
        let layer = |record: &Record, snapshot| record.snapshot(snapshot).unwrap().layer;
        let first = self.points[0].0.handle.snapshot;
        assert_eq!(layer(&after, first), layer(&before, first), "the clone stands on it by that id");
    }

    /// Every byte is there.
    fn same_bytes(&self) {
        assert!(self.domain.read(self.volume, LENGTH) == self.now);
        assert!(self.domain.read(self.clone, LENGTH) == self.of_clone);
        for (snapshot, bytes) in &self.points {
            assert!(self.domain.read_snapshot(snapshot, LENGTH) == *bytes, "{}", snapshot.name);
        }
        self.domain.check(self.volume);
    }
}

/// What stands on what, by file names.
fn shape(record: &Record) -> BTreeMap<String, String> {
    let file = |id| record.layer(id).unwrap().file.clone();
    let layers = record.layers.iter().map(|layer| {
        let below = layer.parent.map(|parent| file(parent.layer));
        (layer.file.clone(), format!("{} {} on {below:?}", layer.format, layer.size))
    });
    let points = record.snapshots.iter().map(|snapshot| (snapshot.id.to_string(), file(snapshot.layer)));
    let active = ("active".to_owned(), record.active.map(file).unwrap_or_default());
    layers.chain(points).chain([active]).collect()
}

#[rstest::rstest]
fn a_record_that_is_gone_is_rebuilt_from_what_lies_beside_it(
    #[values(VolumeKind::Qcow2, VolumeKind::RawSparse)] kind: VolumeKind,
) {
    let family = Family::new(kind);
    std::fs::remove_file(family.path()).unwrap();
    let listed = answer(family.volumes(), "list", &[]);
    assert!(listed.to_string().contains("damaged"));
    let id = family.volume.to_string();
    let repaired = answer(family.volumes(), "check", &[&id, "--repair"]);
    let text = repaired.to_string();
    assert!(text.contains("the record was rebuilt") && text.contains("its name"), "{text}");
    family.same_shape();
    family.same_bytes();
    // Once is enough.
    let again = answer(family.volumes(), "check", &[&id, "--repair"]);
    assert_eq!(again[0]["repair"]["done"], serde_json::json!([]), "{again}");
    // It is a volume like any other: it can be cut, and what nobody needs is merged, when no reader can be left.
    let snapshot = family.volumes().snapshot(family.volume, "later").unwrap();
    assert!(family.domain.read_snapshot(&snapshot, LENGTH) == family.now);
}

/// One byte, anywhere: what is still there is kept.
#[test]
fn a_record_with_a_wrong_byte_is_rebuilt() {
    let family = Family::new(VolumeKind::RawSparse);
    let kept = || {
        let names = std::fs::read_dir(family.volumes().layout().volume(family.volume)).unwrap();
        names
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains(".damaged-"))
            .count()
    };
    let mut rebuilt = 0;
    for at in (0..family.record.len()).step_by(43) {
        let mut damaged = family.record.clone();
        damaged[at] ^= 1;
        std::fs::write(family.path(), &damaged).unwrap();
        match family.volumes().repair(family.volume, None) {
            Ok(_) => {
                family.same_shape();
                rebuilt += 1;
                assert_eq!(kept(), rebuilt);
            }
            Err(Error::Precondition { reason, .. }) => {
                assert_eq!(std::fs::read(family.path()).unwrap(), damaged, "{reason}");
            }
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
    assert!(rebuilt > family.record.len() / 43 * 9 / 10, "{rebuilt} of {}", family.record.len() / 43);
    std::fs::write(family.path(), &family.record[..family.record.len() / 2]).unwrap();
    family.volumes().repair(family.volume, None).unwrap();
    family.same_bytes();
}

#[test]
fn a_record_that_is_cut_short_is_rebuilt() {
    let family = Family::new(VolumeKind::Qcow2);
    for length in (0..family.record.len()).step_by(211) {
        std::fs::write(family.path(), &family.record[..length]).unwrap();
        family
            .volumes()
            .repair(family.volume, None)
            .unwrap_or_else(|error| panic!("{length} bytes: {error}"));
        family.same_shape();
    }
    // Without the table, too, as long as the record shows its snapshots.
    let text = String::from_utf8(family.record.clone()).unwrap();
    std::fs::write(family.path(), text.replacen("\"epoch\"", "\"epocH\"", 1)).unwrap();
    std::fs::remove_file(family.volumes().layout().info(family.volume)).unwrap();
    family.volumes().repair(family.volume, None).unwrap();
    family.same_shape();
    family.same_bytes();
}

#[test]
fn the_record_of_a_clone_is_rebuilt_too() {
    let family = Family::new(VolumeKind::Qcow2);
    let path = family.volumes().layout().record(family.clone);
    let before = decode(&std::fs::read(&path).unwrap()).unwrap();
    std::fs::remove_file(&path).unwrap();
    // Its only image is not known to be an overlay: a raw disk may begin with any bytes.
    let refused = strata(family.volumes(), "check", &[&family.clone.to_string(), "--repair"]);
    assert!(refused.status.code() == Some(1) && said(&refused).contains("--format"), "{}", said(&refused));
    answer(family.volumes(), "check", &[&family.clone.to_string(), "--repair", "--format", "qcow2"]);
    let after = decode(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(after.layers[0].parent, before.layers[0].parent);
    family.same_bytes();
}

#[test]
fn a_lone_base_has_the_format_that_is_said() {
    let domain = Domain::new();
    let volumes = &domain.volumes;
    let raw = domain.create("pvc-raw", VolumeKind::RawSparse);
    let device = domain.attach(raw, Access::Block);
    // What a pod might write.
    let fake = domain.dir.path().join("fake.qcow2");
    run(qemu_img().to_str().unwrap(), &["create", "-q", "-f", "qcow2", fake.to_str().unwrap(), "1M"]);
    let bytes = std::fs::read(fake).unwrap();
    write_at(&device, 0, &bytes);
    domain.detach(raw);
    std::fs::remove_file(volumes.layout().record(raw)).unwrap();
    assert!(matches!(volumes.repair(raw, None), Err(Error::Precondition { .. })));
    assert!(!volumes.layout().record(raw).exists());
    volumes.repair(raw, Some(Format::Raw)).unwrap();
    assert!(domain.read(raw, bytes.len()) == bytes);
}

#[test]
fn what_contradicts_itself_is_refused_and_left_as_it_is() {
    let family = Family::new(VolumeKind::Qcow2);
    let folder = family.volumes().layout().volume(family.volume);
    let before = decode(&family.record).unwrap();
    let active = before.active_layer().unwrap().file.clone();
    std::fs::remove_file(family.path()).unwrap();
    let refused = |why: &str| {
        let names = || {
            let entries = std::fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.file_name());
            let mut names: Vec<_> = entries.collect();
            names.sort();
            names
        };
        let before = names();
        let error = family.volumes().repair(family.volume, None).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert_eq!(names(), before);
    };
    // Somebody writes to it.
    let held = ImageLock::write(&folder.join(&active)).unwrap();
    refused("open for writing");
    drop(held);
    // An overlay may have taken the writes already.
    let stranger = folder.join(format!("volume-{}.stranger", family.volume));
    let arguments =
        ["create", "-q", "-f", "qcow2", "-u", "-F", "qcow2", "-b", &active, stranger.to_str().unwrap(), "1G"];
    run(qemu_img().to_str().unwrap(), &arguments);
    refused("stands on it");
    std::fs::remove_file(stranger).unwrap();
    // A table that names what is not there, or leaves the folder.
    let info = family.volumes().layout().info(family.volume);
    let table = std::fs::read_to_string(&info).unwrap();
    std::fs::write(&info, table.replace(&active, "volume-gone")).unwrap();
    refused("volume-gone");
    std::fs::write(&info, table.replace(&active, "../volume-x")).unwrap();
    refused("no plain name");
    std::fs::write(&info, &table).unwrap();
    // A layer of the chain is gone.
    let base = folder.join(&before.layers[0].file);
    let aside = family.domain.dir.path().join("aside");
    std::fs::rename(&base, &aside).unwrap();
    refused("is not there");
    std::fs::rename(&aside, &base).unwrap();
    family.volumes().repair(family.volume, None).unwrap();
    family.same_shape();
    family.same_bytes();
}

#[test]
fn a_whole_volume_is_put_in_order_and_nothing_is_lost() {
    let family = Family::new(VolumeKind::Qcow2);
    let folder = family.volumes().layout().volume(family.volume);
    std::fs::write(folder.join("volume-stranger"), "somebody's").unwrap();
    std::fs::write(folder.join(".volume-x.tmp"), "half").unwrap();
    std::fs::remove_file(folder.join("volume.info")).unwrap();
    let id = family.volume.to_string();
    let in_use = family.domain.attach(family.volume, Access::Block);
    let refused = strata(family.volumes(), "check", &[&id, "--repair"]);
    assert!(refused.status.code() == Some(1) && said(&refused).contains("detach it"), "{}", said(&refused));
    assert!(in_use.exists());
    family.domain.detach(family.volume);
    let repaired = strata(family.volumes(), "check", &[&id, "--repair"]);
    assert_eq!(repaired.status.code(), Some(0), "{}", said(&repaired));
    assert_eq!(std::fs::read(folder.join("lost+found/volume-stranger")).unwrap(), b"somebody's");
    assert!(!folder.join(".volume-x.tmp").exists() && folder.join("volume.info").exists());
    family.same_bytes();
}

/// What a clone without a record stands on is unknown: until it is repaired, nothing of its source goes.
#[test]
fn what_a_clone_without_a_record_stands_on_stays_until_it_is_repaired() {
    let family = Family::new(VolumeKind::Qcow2);
    let (volumes, Family { volume, clone, .. }) = (family.volumes(), &family);
    for (snapshot, _) in &family.points {
        volumes.delete_snapshot(*volume, snapshot.handle.snapshot).unwrap();
    }
    volumes.delete(*volume).unwrap();
    // Announced and never made, or gone: such a clone keeps nothing.
    let children = volumes.layout().children(*volume);
    let (never, gone) = (VolumeId::from_name("never"), VolumeId::from_name("gone"));
    std::fs::create_dir(volumes.layout().volume(gone)).unwrap();
    for id in [never, gone] {
        std::fs::write(children.join(id.to_string()), "").unwrap();
    }
    volumes.tidy(*volume).unwrap();
    assert!(!children.join(never.to_string()).exists() && !children.join(gone.to_string()).exists());
    std::fs::remove_dir(volumes.layout().volume(gone)).unwrap();

    let files = family.domain.files(*volume);
    assert!(!files.is_empty());
    std::fs::remove_file(volumes.layout().record(*clone)).unwrap();
    for refused in [volumes.tidy(*volume), volumes.delete(*volume)] {
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::DamagedRecord { volume, .. } if volume == *clone), "{error}");
        assert!(error.to_string().contains("strata volume check --repair"), "{error}");
    }
    assert_eq!(family.domain.files(*volume), files);
    assert!(children.join(clone.to_string()).exists());
    volumes.repair(*clone, Some(Format::Qcow2)).unwrap();
    assert!(family.domain.read(*clone, LENGTH) == family.of_clone);
    volumes.tidy(*volume).unwrap();
    assert!(family.domain.read(*clone, LENGTH) == family.of_clone);
}

/// A folder that cannot be listed is not an empty one, whose leftovers could go.
#[test]
fn a_folder_that_cannot_be_listed_does_not_look_empty() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    use std::os::unix::fs::PermissionsExt;
    let domain = Domain::new();
    let id = domain.create("pvc", VolumeKind::Qcow2);
    let (volumes, folder) = (domain.volumes.clone(), domain.volumes.layout().volume(id));
    std::fs::remove_file(volumes.layout().record(id)).unwrap();
    let mode = |mode| std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o300);
    // Of this thread alone: root without the right to look past modes.
    let looked = std::thread::spawn(move || {
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
        set_capabilities(None, sets).unwrap();
        (volumes.repair(id, Some(Format::Qcow2)), volumes.inspect(id).unwrap(), volumes.summaries().unwrap())
    });
    let (repaired, report, listed) = looked.join().unwrap();
    mode(0o700);
    assert!(matches!(repaired, Err(Error::Io { .. })), "{repaired:?}");
    assert!(report.problems[0].contains("cannot list"), "{report:?}");
    assert!(listed[0].problem.as_ref().unwrap().contains("cannot list"), "{listed:?}");
    domain.volumes.repair(id, Some(Format::Qcow2)).unwrap();
}

/// A snapshot that nothing tells of would be merged away: who repairs has to say which there are.
#[test]
fn frozen_layers_without_a_table_are_not_taken_for_nobodys() {
    let family = Family::new(VolumeKind::Qcow2);
    let info = family.volumes().layout().info(family.volume);
    let table = std::fs::read(&info).unwrap();
    std::fs::remove_file(&info).unwrap();
    let snapshots = family.record.windows(11).position(|bytes| bytes == b"\"snapshots\"").unwrap();
    for record in [None, Some(&family.record[..snapshots + 300])] {
        std::fs::remove_file(family.path()).unwrap();
        record.into_iter().for_each(|record| std::fs::write(family.path(), record).unwrap());
        let refused = family.volumes().repair(family.volume, Some(Format::Qcow2)).unwrap_err();
        assert!(matches!(refused, Error::Precondition { .. }), "{refused}");
        let said = refused.to_string();
        assert!(
            said.contains("volume.info") && said.contains("active") && said.contains("by hand"),
            "{said}"
        );
        assert_eq!(std::fs::read(family.path()).ok().as_deref(), record);
        std::fs::write(family.path(), "").unwrap();
    }
    std::fs::write(&info, table).unwrap();
    family.volumes().repair(family.volume, None).unwrap();
    family.same_shape();
    family.same_bytes();
}

/// A volume that exists is not "not found" because another one's record is missing.
#[test]
fn a_clone_whose_source_lost_its_record_says_which_one() {
    let family = Family::new(VolumeKind::Qcow2);
    std::fs::remove_file(family.path()).unwrap();
    let (volumes, clone) = (family.volumes(), family.clone);
    let refused = [
        volumes.expand(clone, Some(2 << 30), None).map(drop),
        volumes.snapshot(clone, "s").map(drop),
        volumes.pin_volume(clone, "a test").map(drop),
        family.domain.try_attach(clone, Access::Block).map(drop),
    ];
    for error in refused.map(Result::unwrap_err) {
        assert!(matches!(error, Error::DamagedRecord { volume, .. } if volume == clone), "{error}");
        assert!(error.to_string().contains(&format!("volume {}", family.volume)), "{error}");
    }
    volumes.repair(family.volume, None).unwrap();
    family.domain.detach(clone);
    family.same_bytes();
}

/// As when the leases that a repair gives to unknown readers are over.
fn no_readers_left(volumes: &Volumes, volume: VolumeId) {
    let path = volumes.layout().record(volume);
    let record = decode(&std::fs::read(&path).unwrap()).unwrap();
    std::fs::write(&path, encode(&Record { pins: Vec::new(), ..record })).unwrap();
}

/// A damaged record that was kept goes with its volume; what a repair has moved aside stays, and is no work for anybody.
#[test]
fn a_repaired_volume_can_be_deleted() {
    let domain = Domain::new();
    let volumes = &domain.volumes;
    let volume = domain.create("pvc", VolumeKind::Qcow2);
    let (folder, record) = (volumes.layout().volume(volume), volumes.layout().record(volume));
    let repaired = |stranger: Option<&str>| {
        let bytes = std::fs::read(&record).unwrap();
        std::fs::write(&record, &bytes[..bytes.len() - 40]).unwrap();
        stranger.into_iter().for_each(|name| std::fs::write(folder.join(name), "somebody's").unwrap());
        volumes.repair(volume, None).unwrap();
    };
    repaired(None);
    std::fs::create_dir(folder.join("lost+found")).unwrap();
    volumes.delete(volume).unwrap();
    no_readers_left(volumes, volume);
    volumes.tidy(volume).unwrap();
    assert!(!folder.exists());

    domain.create("pvc", VolumeKind::Qcow2);
    repaired(Some("volume-stranger"));
    volumes.delete(volume).unwrap();
    no_readers_left(volumes, volume);
    volumes.tidy(volume).unwrap();
    assert!(!record.exists());
    assert_eq!(std::fs::read(folder.join("lost+found/volume-stranger")).unwrap(), b"somebody's");
    assert_eq!(volumes.volumes_to_tidy().unwrap(), []);
    let report = volumes.inspect(volume).unwrap();
    assert!(report.problems.is_empty() && report.pending[0].contains("lost+found"), "{report:?}");
    let told = volumes.repair(volume, None).unwrap();
    assert!(told.done.is_empty() && told.unknown[0].contains("lost+found"), "{told:?}");
    std::fs::remove_file(folder.join("lost+found/volume-stranger")).unwrap();
    assert_eq!(volumes.volumes_to_tidy().unwrap(), [volume]);
    volumes.tidy(volume).unwrap();
    assert_eq!(volumes.list().unwrap(), []);
}
