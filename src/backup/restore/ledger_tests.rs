use super::*;
use proptest::prelude::*;

const BYTES: u64 = SEGMENT as u64;

fn ledger(segments: u64) -> Arc<Ledger> {
    Ledger::new(segments * BYTES, &Arc::default())
}

/// The second may take what the first does not need, and no more; what is given back is taken again.
#[test]
fn the_oldest_comes_to_its_end() {
    let ledger = ledger(5);
    let first = ledger.admit(BYTES, 3).unwrap();
    let second = ledger.admit(0, 4).unwrap();
    let own: Vec<Segment> = vec![second.segment().unwrap()];
    assert!(second.segment().is_none(), "the first could not have its three any more");
    let its: Vec<Segment> = (0..3).map(|_| first.segment().unwrap()).collect();
    assert!(second.segment().is_none(), "all is taken");
    let place = its[2].bytes().as_ptr();
    drop((its, first));
    let more: Vec<Segment> = (0..3).map(|_| second.segment().unwrap()).collect();
    assert_eq!(more[0].bytes().as_ptr(), place, "used again");
    assert_eq!(ledger.peak(), 5 * BYTES);
    drop((own, more, second));
    assert_eq!((ledger.accounts(), ledger.books().free), (0, 5 * BYTES as i64));
}

/// What needs more than there is waits until it is alone, and nothing begins beside it.
#[test]
fn more_than_there_is() {
    let ledger = ledger(3);
    let small = ledger.admit(0, 1).unwrap();
    assert!(ledger.admit(BYTES, 3).is_none());
    drop(small);
    let large = ledger.admit(BYTES, 3).unwrap();
    assert!(ledger.admit(0, 1).is_none());
    let all: Vec<Segment> = (0..3).map(|_| large.segment().unwrap()).collect();
    assert_eq!(ledger.peak(), 4 * BYTES);
    drop((all, large));
    assert!(ledger.admit(0, 1).is_some());
}

proptest! {
    /// Whatever chunks come, in whatever order they ask: all come to their end, within what there is.
    #[test]
    fn nobody_waits_for_ever(
        needs in prop::collection::vec((0u64..3, 1u64..6), 1..20),
        turns in prop::collection::vec(any::<prop::sample::Index>(), 1..50),
    ) {
        let ledger = ledger(8);
        let mut waiting = needs.into_iter();
        let mut next = waiting.next();
        let mut lanes: Vec<(Grant, Vec<Segment>, u64)> = Vec::new();
        let mut turn = turns.iter().cycle();
        while next.is_some() || !lanes.is_empty() {
            if let Some((grant, segments)) = next.and_then(|(fixed, s)| Some((ledger.admit(fixed * BYTES, s)?, s))) {
                lanes.push((grant, Vec::new(), segments));
                next = waiting.next();
            }
            let from = turn.next().unwrap().index(lanes.len());
            // Somebody always gets one.
            let got = (0..lanes.len()).map(|at| (from + at) % lanes.len())
                .find_map(|at| Some((at, lanes[at].0.segment()?)));
            let (at, segment) = got.expect("stuck");
            lanes[at].1.push(segment);
            if lanes[at].1.len() as u64 == lanes[at].2 {
                let (grant, segments, _) = lanes.remove(at);
                drop((segments, grant));
            }
        }
        prop_assert!(ledger.peak() <= 8 * BYTES, "{}", ledger.peak());
    }
}
