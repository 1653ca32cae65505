use super::*;
use crate::backup::format::{Compression, Prefix, ZoneName};
use crate::backup::store::ObjectInfo;
use jiff::Timestamp;
use proptest::prelude::*;
use uuid::Uuid;

const BLOCK: u64 = 512;

/// One backup of a chain: extents in blocks, `(first, count)`.
fn link(number: u128, parent: Option<u128>, extents: &[(u64, u64)]) -> (BackupSet, Manifest) {
    let prefix = Prefix::new(Uuid::nil(), "20261121194302", &ZoneName::default(), Uuid::from_u128(number));
    let extents: Vec<Extent> = extents
        .iter()
        .zip(1..)
        .map(|(&(first, count), n)| Extent {
            key: prefix.chunk(n),
            offset: first * BLOCK,
            length: count * BLOCK,
            compression: Compression::None,
            md5: String::new(),
        })
        .collect();
    let object =
        |e: &Extent| ObjectInfo { key: e.key.clone(), size: e.length, modified: Timestamp::UNIX_EPOCH };
    let set = BackupSet { prefix: prefix.clone(), objects: extents.iter().map(object).collect() };
    let manifest = Manifest {
        prefix,
        parent: parent.map(Uuid::from_u128),
        name: None,
        description: None,
        created_at: String::new(),
        volume_meta: None,
        extents,
    };
    (set, manifest)
}

/// The oldest first, as they are made; the newest first, as a chain is.
fn chain(layers: &[Vec<(u64, u64)>]) -> Chain {
    let numbers = 1u128..;
    let mut links: Vec<_> =
        layers.iter().zip(numbers).map(|(extents, n)| link(n, (n > 1).then(|| n - 1), extents)).collect();
    links.reverse();
    Chain { links }
}

proptest! {
    /// B11: newest wins, each byte once: the same as painting byte by byte.
    #[test]
    fn covering_is_painting(ranges in prop::collection::vec((0u64..200, 1u64..60), 1..30)) {
        let mut covered = Covered::default();
        let mut painted = vec![false; 300];
        for (start, length) in ranges {
            let mut fresh = vec![false; 300];
            for gap in covered.add(start..start + length) {
                prop_assert!(gap.start < gap.end);
                fresh[gap.start as usize..gap.end as usize].fill(true);
            }
            for at in 0..300u64 {
                let expected = (start..start + length).contains(&at) && !painted[at as usize];
                prop_assert_eq!(fresh[at as usize], expected, "at {}", at);
                painted[at as usize] |= fresh[at as usize];
            }
        }
    }

    /// B11: a chain of a hundred, whole and in part: each block comes from the newest backup that stores it,
    /// no object twice, none that is wholly overwritten, in the order of the volume.
    #[test]
    fn a_chain_of_a_hundred(
        layers in prop::collection::vec(prop::collection::btree_map(0u64..64, 1u64..9, 0..6), 100),
        from in 0u64..64 * BLOCK,
        bytes in 1u64..64 * BLOCK,
    ) {
        let mut all = vec![vec![(0, 32), (32, 32)]];
        for layer in layers {
            let mut end = 0;
            let mut extents = Vec::new();
            for (first, count) in layer {
                if first >= end {
                    end = (first + count).min(64);
                    extents.push((first, end - first));
                }
            }
            all.push(extents);
        }
        let mut owner = vec![String::new(); 64];
        for (_, manifest) in chain(&all).links.iter().rev() {
            for e in &manifest.extents {
                owner[(e.offset / BLOCK) as usize..(e.end() / BLOCK) as usize].fill(e.key.clone());
            }
        }
        let part = from..(from + bytes).min(64 * BLOCK);
        for wanted in [None, Some(part.clone())] {
            let plan = fold(chain(&all), BLOCK, wanted.clone()).unwrap();
            let range = wanted.unwrap_or(0..64 * BLOCK);
            let blocks = (range.start / BLOCK) as usize..range.end.div_ceil(BLOCK) as usize;
            let mut found = vec![String::new(); 64];
            let mut keys = std::collections::HashSet::new();
            let mut last = 0;
            for fetch in &plan.fetches {
                prop_assert!(keys.insert(&fetch.extent.key) && !fetch.parts.is_empty());
                prop_assert!(fetch.parts[0].start >= last && fetch.stored == Some(fetch.extent.length));
                last = fetch.parts[0].start;
                for p in &fetch.parts {
                    for block in p.start / BLOCK..p.end / BLOCK {
                        prop_assert_eq!(&found[block as usize], "");
                        found[block as usize] = fetch.extent.key.clone();
                    }
                }
            }
            for block in 0..64 {
                let expected = if blocks.contains(&block) { owner[block].as_str() } else { "" };
                prop_assert_eq!(found[block].as_str(), expected, "block {}", block);
            }
        }
    }
}

/// A hundred backups of thousands of extents: what it costs grows with the extents, not with extents times depth.
#[test]
fn many_extents() {
    // Of this thread, in nanoseconds: the machine may be busy with other things.
    let processor = || -> u64 {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        text.split_whitespace().next().unwrap().parse().unwrap()
    };
    let mut layers = vec![(0..1000).map(|n| (n * 400, 400)).collect::<Vec<_>>()];
    layers.extend(
        (0..100u64).map(|n| (0..2000u64).map(|at| (at * 200 + (at * 7 + n * 31) % 190, 3)).collect()),
    );
    let chain = chain(&layers);
    let started = processor();
    let plan = fold(chain, BLOCK, None).unwrap();
    let took = (processor() - started) / 1_000_000_000;
    let parts: usize = plan.fetches.iter().map(|fetch| fetch.parts.len()).sum();
    // Each extent adds one part, and may split one.
    assert!(parts <= 2 * 201_000, "{parts}");
    assert_eq!(plan.fetches.iter().flat_map(|f| &f.parts).map(|p| p.end - p.start).sum::<u64>(), plan.size);
    assert!(took < 20, "{took} s");
}

#[test]
fn missing_objects_and_gaps_are_seen() {
    let mut holey = chain(&[vec![(0, 4), (6, 2)]]);
    let error = fold(holey.clone(), BLOCK, None).unwrap_err().to_string();
    assert!(error.contains("no backup stores the bytes 2048..3072"), "{error}");
    assert!(fold(holey.clone(), BLOCK, Some(0..2048)).is_ok());
    holey.links[0].0.objects.remove(0);
    holey.links[0].0.objects[0].size += 1;
    for range in [0..5, 6 * BLOCK..7 * BLOCK] {
        assert_eq!(fold(holey.clone(), BLOCK, Some(range)).unwrap().fetches[0].stored, None);
    }
    let error = fold(chain(&[vec![(0, 3)], vec![(1, 1)]]), 2 * BLOCK, None).unwrap_err().to_string();
    assert!(error.contains("splits a hash block"), "{error}");
}
