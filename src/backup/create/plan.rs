//! Which blocks are looked at, window by window.

use std::ops::Range;

/// What is to be read of a volume: whole hash blocks, ascending, disjoint, not touching.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted(Vec<Range<u64>>);

impl Wanted {
    /// Everything.
    pub fn all(size: u64) -> Self {
        Wanted(std::iter::once(0..size).collect())
    }

    /// The blocks that these ranges touch, and gaps of at most `join` bytes between them. Why not, if they
    /// cannot be right.
    pub fn of(changed: Vec<Range<u64>>, block: u64, join: u64, size: u64) -> Result<Self, String> {
        let mut wanted: Vec<Range<u64>> = Vec::new();
        let mut end = 0;
        for range in changed {
            if range.start < end || range.end < range.start || range.end > size {
                return Err(format!(
                    "what changed is told wrongly: {}..{} after {end}, of {size} bytes",
                    range.start, range.end
                ));
            }
            end = range.end;
            if range.is_empty() {
                continue;
            }
            let blocks = range.start / block * block..range.end.next_multiple_of(block).min(size);
            match wanted.last_mut().filter(|last| last.end.saturating_add(join) >= blocks.start) {
                Some(last) => last.end = last.end.max(blocks.end),
                None => wanted.push(blocks),
            }
        }
        Ok(Wanted(wanted))
    }

    /// All but these, which are ascending and disjoint.
    pub fn around(taken: impl Iterator<Item = Range<u64>>, size: u64) -> Self {
        let (mut wanted, mut at) = (Vec::new(), 0);
        for range in taken {
            if at < range.start {
                wanted.push(at..range.start);
            }
            at = range.end;
        }
        if at < size {
            wanted.push(at..size);
        }
        Wanted(wanted)
    }

    /// Whether any of it lies in that range.
    pub fn touches(&self, range: &Range<u64>) -> bool {
        let after = self.0.partition_point(|wanted| wanted.end <= range.start);
        self.0.get(after).is_some_and(|wanted| wanted.start < range.end)
    }

    /// Cut at the chunk windows; those without any of it do not appear. `together`: all parts of a window at once.
    pub fn windows(&self, chunk: u64, together: bool) -> impl Iterator<Item = Vec<Range<u64>>> {
        let cut = move |range: &Range<u64>| {
            let range = range.clone();
            let first = range.start / chunk;
            (first..range.end.div_ceil(chunk))
                .map(move |n| range.start.max(n * chunk)..range.end.min((n + 1) * chunk))
        };
        let mut parts = self.0.iter().flat_map(cut).peekable();
        std::iter::from_fn(move || {
            let first = parts.next()?;
            let window = first.start / chunk;
            let mut of_window = vec![first];
            while let Some(part) = parts.next_if(|part| together && part.start / chunk == window) {
                of_window.push(part);
            }
            Some(of_window)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole blocks, cut at windows of four.
    #[test]
    fn windows_of_changes() {
        let changed = vec![5..15, 15..16, 30..31, 70..130];
        let wanted = Wanted::of(changed.clone(), 10, 0, 125 + 5).unwrap();
        assert_eq!(wanted, Wanted(vec![0..20, 30..40, 70..130]));
        let windows: Vec<_> = wanted.windows(40, true).collect();
        assert_eq!(windows, vec![vec![0..20, 30..40], vec![70..80], vec![80..120], vec![120..130]]);
        let apart: Vec<_> = wanted.windows(40, false).flatten().collect();
        assert_eq!(apart, [0..20, 30..40, 70..80, 80..120, 120..130]);
        assert_eq!(Wanted::of(changed.clone(), 10, 10, 130).unwrap(), Wanted(vec![0..40, 70..130]));
        assert_eq!(Wanted::of(changed.clone(), 10, 30, 130).unwrap(), Wanted::all(130));
        assert!(Wanted::of(changed, 10, 0, 129).unwrap_err().contains("70..130"));
        assert!(Wanted::of(vec![5..9, 8..10], 10, 0, 99).is_err());
        assert_eq!(Wanted::of(vec![], 10, 0, 99).unwrap().windows(40, true).count(), 0);
        // The last block is short.
        assert_eq!(Wanted::of(vec![3..3, 98..99], 10, 0, 99).unwrap(), Wanted(vec![90..99]));
        assert_eq!(Wanted::around([0..20, 40..70].into_iter(), 130), Wanted(vec![20..40, 70..130]));
        assert_eq!(Wanted::around([40..130].into_iter(), 130), Wanted(vec![0..40]));
        for (range, touched) in [(20..30, false), (19..30, true), (20..31, true), (130..140, false)] {
            assert_eq!(wanted.touches(&range), touched, "{range:?}");
        }
        // A huge volume costs nothing.
        let far = 1 << 60;
        assert_eq!(
            Wanted::of(vec![far..far + 1], 1 << 15, 0, far + 1).unwrap().windows(1 << 20, true).count(),
            1
        );
    }
}
