//! What an operator, and a backup, can count on.

use crate::support::domain::Domain;
use crate::world::*;
use rstest::rstest;
use std::fs;
use strata::volume::*;

/// The everyday round: snapshot, backup, the old snapshot goes. The next backup still knows what changed since the
/// one before, although its snapshot is gone and its layer merged away; and since all others.
#[rstest]
#[case::qcow2(VolumeKind::Qcow2)]
#[case::raw(VolumeKind::RawSparse)]
fn a_deleted_snapshot_is_still_a_point_to_go_on_from(#[case] kind: VolumeKind) {
    let domain = Domain::new();
    let volume = domain.create("pvc", kind);
    let mut states = Vec::new();
    let mut before = None;
    for round in 0..5u64 {
        write(&domain, volume, (round * 10) * CLUSTER, CLUSTER, round as u8 + 1);
        let (handle, state) = snapshot(&domain, volume, &format!("s{round}"));
        for (earlier, since_then) in states.iter().enumerate() {
            let wanted: Vec<_> = (earlier as u64 + 1..=round).map(|n| clusters(n * 10..n * 10 + 1)).collect();
            assert_eq!(only(since(&domain, &handle, *since_then)), wanted, "round {round} since {earlier}");
        }
        assert_eq!(only(since(&domain, &handle, state)), []);
        states.push(state);
        if let Some(before) = before.replace(handle) {
            delete(&domain, &before);
        }
    }
    // The base's and the newest one's layer, and the active one on it.
    assert!(record(&domain, volume).layers.len() <= 3);
    let report = domain.volumes.inspect(volume).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    let detail = domain.volumes.detail(volume).unwrap();
    let point = serde_json::to_value(&detail.points[0]).unwrap();
    assert_eq!(point["delta"], serde_json::json!({"changed": CLUSTER}));
    domain.volumes.delete_snapshot(volume, before.unwrap().snapshot).unwrap();
    domain.volumes.delete(volume).unwrap();
    tidy(&domain, volume);
    assert!(!domain.volumes.layout().volume(volume).exists(), "its deltas keep its folder");
}

/// A name that is used again names another state: who remembers the first one is not told what changed since the
/// second.
#[test]
fn a_snapshots_name_that_is_used_again_is_another_point() {
    let domain = Domain::new();
    let volume = domain.create("pvc", VolumeKind::Qcow2);
    let (first, first_state) = snapshot(&domain, volume, "nightly");
    write(&domain, volume, 0, CLUSTER, 1);
    delete(&domain, &first);
    let (second, second_state) = snapshot(&domain, volume, "nightly");
    assert_eq!(first, second);
    write(&domain, volume, 5 * CLUSTER, CLUSTER, 2);
    let (third, _) = snapshot(&domain, volume, "third");
    assert_eq!(only(since(&domain, &third, second_state)), [clusters(5..6)]);
    assert_eq!(only(since(&domain, &third, first_state)), [clusters(0..1), clusters(5..6)]);
    // From the later to the earlier there is no way.
    assert!(
        unknown(since(&domain, &second, StateId { layer: uuid::Uuid::new_v4(), ..first_state }))
            .contains("older")
    );
}

/// A volume made from a snapshot knows what it has changed since, also when the snapshot is gone, when it stands on its
/// own feet, and when it is larger than its source.
#[test]
fn a_clone_knows_what_it_changed_since_its_source() {
    let domain = Domain::with(Policy { soft_depth: 3, ..Policy::default() });
    let source = domain.create("pvc-source", VolumeKind::Qcow2);
    write(&domain, source, 0, 100 * CLUSTER, 1);
    let (first, first_state) = snapshot(&domain, source, "s1");
    write(&domain, source, 7 * CLUSTER, CLUSTER, 2);
    let (second, second_state) = snapshot(&domain, source, "s2");
    let request = CreateVolume {
        name: "pvc-clone".into(),
        required: Some(2 * GIB),
        limit: None,
        kind: VolumeKind::Qcow2,
        source: Some(VolumeSource::Snapshot(second.clone())),
        parameters: Default::default(),
    };
    let clone = domain.volumes.create(&request).unwrap().handle.volume;
    write(&domain, clone, 9 * CLUSTER, CLUSTER, 3);
    let (of_clone, clone_state) = snapshot(&domain, clone, "s-of-clone");
    let grown = GIB..2 * GIB;
    let since_second = [clusters(9..10), grown.clone()];
    let since_first = [clusters(7..8), clusters(9..10), grown];
    assert_eq!(only(since(&domain, &of_clone, second_state)), since_second);
    assert_eq!(only(since(&domain, &of_clone, first_state)), since_first);
    // Flattened: nothing of the source is under it any more.
    tidy(&domain, clone);
    let alone = record(&domain, clone).layers.iter().all(|l| l.parent.is_none_or(|p| p.volume == clone));
    assert!(alone, "the clone is not flattened");
    delete(&domain, &first);
    assert_eq!(only(since(&domain, &of_clone, second_state)), since_second);
    assert_eq!(only(since(&domain, &of_clone, first_state)), since_first);
    delete(&domain, &second);
    domain.volumes.delete(source).unwrap();
    tidy(&domain, source);
    assert_eq!(only(since(&domain, &of_clone, second_state)), since_second);
    // That way led through the source's folder.
    assert!(unknown(since(&domain, &of_clone, first_state)).contains("not kept"));
    assert_eq!(only(since(&domain, &of_clone, clone_state)), []);
}

/// A delta that cannot be used is said to be that, and everything is read; a repair makes room for a new one.
#[test]
fn a_damaged_delta_is_told_and_made_again() {
    let domain = Domain::new();
    let volume = domain.create("pvc", VolumeKind::Qcow2);
    let (_, first) = snapshot(&domain, volume, "s1");
    write(&domain, volume, 3 * CLUSTER, CLUSTER, 1);
    let (second, second_state) = snapshot(&domain, volume, "s2");
    let path = domain.volumes.layout().deltas(volume).join(second_state.layer.to_string());
    assert!(!path.exists(), "nothing has asked for it yet");
    assert_eq!(only(since(&domain, &second, first)), [clusters(3..4)]);
    assert!(path.exists(), "it is kept once it was made");
    let whole = fs::read(&path).unwrap();
    let mut broken = whole.clone();
    *broken.last_mut().unwrap() ^= 1;
    fs::write(&path, &broken).unwrap();
    // Its layer is still there.
    assert_eq!(only(since(&domain, &second, first)), [clusters(3..4)]);
    assert_eq!(domain.volumes.inspect(volume).unwrap().problems, Vec::<String>::new());
    fs::write(&path, &broken).unwrap();
    let problems = domain.volumes.inspect(volume).unwrap().problems;
    assert!(problems.len() == 1 && problems[0].contains("is damaged"), "{problems:?}");
    let detail = domain.volumes.detail(volume).unwrap();
    let said = detail.points[1].delta.unknown.clone().unwrap();
    assert!(said.contains("damaged"), "{said}");
    let repaired = domain.volumes.repair(volume, None).unwrap();
    assert!(repaired.done.iter().any(|line| line.contains("deltas/")), "{repaired:?}");
    assert_eq!(domain.volumes.inspect(volume).unwrap().problems, Vec::<String>::new());
    assert_eq!(only(since(&domain, &second, first)), [clusters(3..4)]);
    assert_eq!(fs::read(&path).unwrap().len(), whole.len());
}

/// Each try reads the map of a whole layer: after one that failed the next round of the background work makes none.
#[test]
fn a_delta_that_cannot_be_kept_is_not_made_again_at_once() {
    let domain = Domain::new();
    let volume = domain.create("pvc", VolumeKind::Qcow2);
    snapshot(&domain, volume, "s1");
    write(&domain, volume, 3 * CLUSTER, CLUSTER, 1);
    snapshot(&domain, volume, "s2");
    let folder = domain.volumes.layout().deltas(volume);
    fs::write(&folder, "in its way").unwrap();
    tidy(&domain, volume);
    fs::remove_file(&folder).unwrap();
    tidy(&domain, volume);
    assert!(!folder.exists(), "it was made again");
    // That was nobody else's.
    let other = domain.create("other", VolumeKind::Qcow2);
    snapshot(&domain, other, "o1");
    write(&domain, other, 3 * CLUSTER, CLUSTER, 1);
    snapshot(&domain, other, "o2");
    tidy(&domain, other);
    assert_eq!(fs::read_dir(domain.volumes.layout().deltas(other)).unwrap().count(), 1);
}

/// Before a layer goes, its delta is whole; afterwards nothing can make it again.
#[test]
fn a_merge_mends_a_damaged_delta_and_a_damaged_tombstone_is_unknown() {
    let domain = Domain::new();
    let volume = domain.create("pvc", VolumeKind::Qcow2);
    let (_, first) = snapshot(&domain, volume, "s1");
    write(&domain, volume, 3 * CLUSTER, CLUSTER, 1);
    let (second, second_state) = snapshot(&domain, volume, "s2");
    write(&domain, volume, 5 * CLUSTER, CLUSTER, 1);
    let (third, _) = snapshot(&domain, volume, "s3");
    assert_eq!(only(since(&domain, &third, first)), [clusters(3..4), clusters(5..6)]);
    let path = domain.volumes.layout().deltas(volume).join(second_state.layer.to_string());
    let damage = || {
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, &bytes).unwrap();
    };
    damage();
    delete(&domain, &second);
    let layers = record(&domain, volume).layers;
    assert!(layers.iter().all(|layer| layer.id.uuid() != second_state.layer), "s2's layer was merged");
    assert_eq!(only(since(&domain, &third, first)), [clusters(3..4), clusters(5..6)]);
    damage();
    assert!(unknown(since(&domain, &third, first)).contains("damaged: its checksum"));
}

/// A rebuilt record begins a new life: what was known of the old one is not taken for this one's.
#[test]
fn a_rebuilt_record_has_no_earlier_states() {
    let domain = Domain::new();
    let volume = domain.create("pvc", VolumeKind::Qcow2);
    let (_, first) = snapshot(&domain, volume, "s1");
    write(&domain, volume, 0, CLUSTER, 1);
    let (second, _) = snapshot(&domain, volume, "s2");
    assert_eq!(only(since(&domain, &second, first)), [clusters(0..1)]);
    let path = domain.volumes.layout().record(volume);
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
    domain.volumes.repair(volume, None).unwrap();
    assert!(fs::read_dir(domain.volumes.layout().deltas(volume)).unwrap().next().is_none());
    // The pins of the repair hold its layers for a while; reading goes on.
    unknown(since(&domain, &second, first));
    let now = record(&domain, volume);
    let layer = now.layer(now.snapshots[0].layer).unwrap();
    let first_now = StateId { incarnation: layer.incarnation, layer: layer.id.uuid() };
    assert_eq!(only(since(&domain, &second, first_now)), [clusters(0..1)]);
}
