use super::*;
use crate::volume::record::{Layer, ParentLayer, tests::sample};

/// A chain of `n` layers, bottom first; the last one is active.
fn chain(n: usize) -> (Record, Vec<LayerId>) {
    let mut record = sample();
    let ids: Vec<LayerId> = (0..n).map(|_| LayerId::random()).collect();
    let template = record.layers[0].clone();
    record.layers = (0..n)
        .map(|i| Layer {
            id: ids[i],
            file: format!("volume-{i}"),
            parent: (i > 0).then(|| ParentLayer { volume: record.id, layer: ids[i - 1] }),
            ..template.clone()
        })
        .collect();
    record.active = ids.last().copied();
    record.snapshots.clear();
    (record, ids)
}

fn keep(record: &mut Record, layer: LayerId) {
    let mut snapshot = sample().snapshots[0].clone();
    snapshot.layer = layer;
    record.snapshots.push(snapshot);
}

#[test]
fn the_active_image_is_never_merged() {
    let (record, _) = chain(2);
    assert_eq!(candidates(&record, &HashSet::new()).first().copied(), None);
}

#[test]
fn a_layer_that_a_snapshot_holds_stays() {
    let (mut record, ids) = chain(4);
    keep(&mut record, ids[0]);
    keep(&mut record, ids[1]);
    assert_eq!(candidates(&record, &HashSet::new()).first().copied(), None);
}

#[test]
fn the_oldest_is_merged_with_its_child() {
    let (mut record, ids) = chain(3);
    keep(&mut record, ids[1]);
    let pair = Pair { lower: ids[0], upper: ids[1], above: Some(ids[2]) };
    assert_eq!(candidates(&record, &HashSet::new()).first().copied(), Some(pair));
}

#[test]
fn a_layer_that_a_clone_stands_on_stays() {
    let (mut record, ids) = chain(3);
    keep(&mut record, ids[1]);
    assert_eq!(candidates(&record, &HashSet::from([ids[0]])).first().copied(), None);
}

/// A clone's header is in another volume: the file that it names must stay where it is.
#[test]
fn a_child_that_a_clone_stands_on_is_merged_upwards() {
    let (mut record, ids) = chain(3);
    keep(&mut record, ids[1]);
    let pair = Pair { lower: ids[0], upper: ids[1], above: None };
    assert_eq!(candidates(&record, &HashSet::from([ids[1]])).first().copied(), Some(pair));
}

/// What a clone reads waits for the clone; what lies above does not wait for it.
#[test]
fn pairs_that_a_clone_reads_come_last() {
    let (mut record, ids) = chain(7);
    keep(&mut record, ids[2]);
    let outside = HashSet::from([ids[1]]);
    let found: Vec<LayerId> = candidates(&record, &outside).into_iter().map(|pair| pair.lower).collect();
    assert_eq!(found, [ids[3], ids[4], ids[0]]);
}
