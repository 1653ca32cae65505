//! Deltas of deleted snapshots are forgotten past a limit; the way past them is not.

use crate::support::domain::Domain;
use crate::world::*;
use std::fs;
use strata::volume::*;

fn deltas(domain: &Domain, volume: VolumeId) -> usize {
    fs::read_dir(domain.volumes.layout().deltas(volume)).unwrap().count()
}

#[test]
fn old_points_are_forgotten_and_living_ones_are_not() {
    let domain = Domain::with(Policy { tombstones: 8, ..Policy::default() });
    let volume = domain.create("pvc", VolumeKind::Qcow2);
    let (_, kept) = snapshot(&domain, volume, "kept");
    let mut states = Vec::new();
    let mut last = None;
    for round in 0..12u64 {
        write(&domain, volume, round * 2 * CLUSTER, CLUSTER, 1);
        let (handle, state) = snapshot(&domain, volume, &format!("s{round}"));
        states.push(state);
        if let Some(before) = last.replace(handle) {
            delete(&domain, &before);
        }
    }
    let last = last.unwrap();
    // Eight at most, and that of the layer that is there.
    assert!((7..=9).contains(&deltas(&domain, volume)), "{} deltas", deltas(&domain, volume));
    let all: Vec<_> = (0..12).map(|n| clusters(n * 2..n * 2 + 1)).collect();
    assert_eq!(only(since(&domain, &last, kept)), all);
    // The way ends at the oldest living one without having passed it.
    unknown(since(&domain, &last, states[0]));
    assert_eq!(only(since(&domain, &last, states[10])), all[11..]);
    assert_eq!(only(since(&domain, &last, states[6])), all[7..]);
}

#[test]
fn a_point_that_is_too_old_is_forgotten() {
    let domain = Domain::with(Policy { tombstone_days: 0, ..Policy::default() });
    let volume = domain.create("pvc", VolumeKind::Qcow2);
    let (_, kept) = snapshot(&domain, volume, "kept");
    write(&domain, volume, 0, CLUSTER, 1);
    let (first, first_state) = snapshot(&domain, volume, "s1");
    write(&domain, volume, 2 * CLUSTER, CLUSTER, 1);
    let (second, _) = snapshot(&domain, volume, "s2");
    tidy(&domain, volume);
    // Older than no day at all: its second is over.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    delete(&domain, &first);
    assert_eq!(deltas(&domain, volume), 1);
    assert_eq!(only(since(&domain, &second, kept)), [clusters(0..1), clusters(2..3)]);
    unknown(since(&domain, &second, first_state));
}
