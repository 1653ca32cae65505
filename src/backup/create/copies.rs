//! What the store has of a volume's origin and the volume still has: objects that its first backup takes over as they are.
//! docs/decisions/0016-first-backup-of-a-clone.md tells why.

use super::plan::Wanted;
use crate::backup::catalog::BackupSet;
use crate::backup::format::{Extent, Manifest};
use crate::backup::restore::plan::Covered;
use std::collections::HashMap;

/// An object that is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Whole {
    /// As its own backup has it.
    pub extent: Extent,
    /// Its bytes in the store.
    pub stored: u64,
}

/// The objects of a chain, newest backup first, all of whose bytes are still those of the volume: in the volume's order.
/// And all else, which is read: whole blocks.
pub(super) fn plan(
    links: &[(BackupSet, Manifest)],
    changed: &Wanted,
    block: u64,
    size: u64,
) -> (Vec<Whole>, Wanted) {
    let mut covered = Covered::default();
    let mut whole = Vec::new();
    for (set, manifest) in links {
        let sizes: HashMap<&str, u64> = set.objects.iter().map(|o| (o.key.as_str(), o.size)).collect();
        for extent in &manifest.extents {
            let range = extent.offset..extent.end();
            // A hash is of a whole block.
            let is_even = range.start.is_multiple_of(block)
                && (range.end.is_multiple_of(block) || range.end == size)
                && range.end <= size;
            let is_live = covered.add(range.clone()) == std::slice::from_ref(&range);
            let stored = sizes.get(extent.key.as_str()).filter(|_| is_even && is_live);
            if let Some(stored) = stored.filter(|_| !changed.touches(&range)) {
                whole.push(Whole { extent: extent.clone(), stored: *stored });
            }
        }
    }
    whole.sort_unstable_by_key(|whole| whole.extent.offset);
    let wanted = Wanted::around(whole.iter().map(|w| w.extent.offset..w.extent.end()), size);
    (whole, wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::format::{Compression, Prefix};
    use crate::backup::store::ObjectInfo;
    use jiff::Timestamp;
    use std::ops::Range;
    use uuid::Uuid;

    /// A backup with these extents.
    fn link(number: u8, ranges: &[Range<u64>]) -> (BackupSet, Manifest) {
        let backup = Uuid::from_u128(u128::from(number));
        let prefix = Prefix::new(Uuid::nil(), "20260101000000", &"nova".parse().unwrap(), backup);
        let key = |at: usize| prefix.chunk(at as u64 + 1);
        let extents = ranges.iter().enumerate().map(|(at, range)| Extent {
            key: key(at),
            offset: range.start,
            length: range.end - range.start,
            compression: Compression::None,
            md5: String::new(),
        });
        let extents: Vec<Extent> = extents.collect();
        let modified = Timestamp::UNIX_EPOCH;
        let object = |e: &Extent| ObjectInfo { key: e.key.clone(), size: e.length / 2, modified };
        let objects = extents.iter().map(object).collect();
        let manifest = Manifest {
            prefix: prefix.clone(),
            parent: None,
            name: None,
            description: None,
            created_at: String::new(),
            volume_meta: None,
            extents,
        };
        (BackupSet { prefix, objects }, manifest)
    }

    #[test]
    fn only_what_is_whole_live_and_unchanged_is_copied() {
        let full = [0..100, 100..200, 200..300, 300..345];
        let links = [link(3, &[120..130, 200..300]), link(2, &[200..210]), link(1, &full)];
        let ranges = |found: &[Whole]| {
            let part = |w: &Whole| (w.extent.key.clone(), w.extent.offset..w.extent.end(), w.stored);
            found.iter().map(part).collect::<Vec<_>>()
        };
        let of = |number: usize, at: u64| links[number].1.prefix.chunk(at);
        let none = Wanted::of(vec![], 10, 0, 345).unwrap();
        let (whole, wanted) = plan(&links, &none, 10, 345);
        // The full one's second is partly overwritten; the whole of its third is.
        let mut expected = vec![
            (of(2, 1), 0..100, 50),
            (of(0, 1), 120..130, 5),
            (of(0, 2), 200..300, 50),
            (of(2, 4), 300..345, 22),
        ];
        assert_eq!(ranges(&whole), expected);
        assert_eq!(wanted, Wanted::of(vec![100..120, 130..200], 10, 0, 345).unwrap());
        // The volume has grown: the last block was a short one, and is another now.
        let changed = Wanted::of(vec![50..51, 340..400], 10, 0, 400).unwrap();
        let (whole, wanted) = plan(&links, &changed, 10, 400);
        expected.retain(|(_, range, _)| [120, 200].contains(&range.start));
        assert_eq!(ranges(&whole), expected);
        assert_eq!(wanted, Wanted::of(vec![0..120, 130..200, 300..400], 10, 0, 400).unwrap());
    }
}
