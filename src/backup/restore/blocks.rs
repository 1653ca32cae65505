//! Compares the blocks of a chunk with their hashes, as its bytes come.

use super::check::{Job, push_range};
use crate::backup::format::{Digest, digest_of};
use crate::backup::window::is_zero;
use sha2::{Digest as _, Sha256};
use sha256_pairs::sha256_pair;
use std::ops::Range;

/// How far the blocks of one chunk were compared.
#[derive(Default)]
pub(super) struct Blocks {
    /// The part of the job.
    part: usize,
    /// The digest of the job.
    digest: usize,
    /// Of a block that is not whole yet.
    open: Open,
    /// Blocks of the volume whose hash is another one.
    pub wrong: Vec<Range<u64>>,
}

/// A block that lies in memory in one piece.
struct Whole<'a> {
    block: Range<u64>,
    bytes: &'a [u8],
    expected: &'a Digest,
}

#[derive(Default)]
struct Open {
    hasher: Sha256,
    is_other: bool,
}

impl Blocks {
    /// Takes the chunk's next bytes, which lie at `start` of the volume.
    pub fn take(&mut self, job: &Job, start: u64, bytes: &[u8]) {
        let Some(digests) = &job.digests else { return };
        let (mut at, end) = (start, start + bytes.len() as u64);
        // By pairs: two take little longer than one.
        let mut waiting: Option<Whole<'_>> = None;
        while let Some(part) = job.parts.get(self.part).filter(|part| part.start < end) {
            at = at.max(part.start);
            let first = part.start + (at - part.start) / job.block * job.block;
            let block = first..(first + job.block).min(part.end);
            let to = block.end.min(end);
            let piece = &bytes[(at - start) as usize..(to - start) as usize];
            let digest = digests.get(self.digest);
            let is_whole = at == block.start && to == block.end;
            match digest.filter(|digest| is_whole && !is_of_zeros(job, &block, digest)) {
                Some(expected) => {
                    let whole = Whole { block: block.clone(), bytes: piece, expected };
                    match waiting.take() {
                        Some(earlier) => self.two(earlier, whole),
                        None => waiting = Some(whole),
                    }
                }
                None => {
                    self.one(waiting.take());
                    self.piece(job, digest, &block, at, piece);
                }
            }
            if to < block.end {
                return;
            }
            at = to;
            self.digest += 1;
            self.part += usize::from(at == part.end);
        }
        self.one(waiting);
    }

    fn two(&mut self, one: Whole<'_>, other: Whole<'_>) {
        let found = sha256_pair(one.bytes, other.bytes);
        for (whole, digest) in [one, other].into_iter().zip(found) {
            if digest != *whole.expected {
                push_range(&mut self.wrong, whole.block);
            }
        }
    }

    fn one(&mut self, whole: Option<Whole<'_>>) {
        if let Some(whole) = whole.filter(|whole| digest_of(whole.bytes) != *whole.expected) {
            push_range(&mut self.wrong, whole.block);
        }
    }

    /// Bytes of one block, which lie at `at`.
    fn piece(&mut self, job: &Job, digest: Option<&Digest>, block: &Range<u64>, at: u64, bytes: &[u8]) {
        let to = at + bytes.len() as u64;
        let is_other = match digest {
            // Looking for zeros is ten times as fast as hashing them.
            Some(expected) if is_of_zeros(job, block, expected) => !is_zero(bytes),
            Some(expected) => {
                self.open.hasher.update(bytes);
                to == block.end && self.open.hasher.finalize_reset()[..] != expected[..]
            }
            None => true,
        };
        self.open.is_other |= is_other;
        if to == block.end && std::mem::take(&mut self.open.is_other) {
            push_range(&mut self.wrong, block.clone());
        }
    }
}

fn is_of_zeros(job: &Job, block: &Range<u64>, digest: &Digest) -> bool {
    *digest == job.zeros && block.end - block.start == job.block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::format::{Compression, Extent, zero_digest};
    use proptest::prelude::*;

    const BLOCK: u64 = 512;

    fn job(parts: Vec<Range<u64>>, data: &[u8]) -> Job {
        let extent = Extent {
            key: "a".to_owned(),
            offset: 4 * BLOCK,
            length: data.len() as u64,
            compression: Compression::None,
            md5: String::new(),
        };
        let bytes =
            |part: &Range<u64>| &data[(part.start - 4 * BLOCK) as usize..(part.end - 4 * BLOCK) as usize];
        let digests =
            parts.iter().flat_map(|part| bytes(part).chunks(BLOCK as usize).map(digest_of)).collect();
        Job { extent, stored: 0, parts, digests: Some(digests), block: BLOCK, zeros: zero_digest(BLOCK) }
    }

    proptest! {
        /// However the bytes come, exactly the blocks that were changed and are looked at are found.
        #[test]
        fn in_whatever_pieces(step in 1usize..3000, changed in prop::collection::btree_set(0usize..9000, 0..4)) {
            // Block 2 and 9 are zeros; the last one is short.
            let mut data: Vec<u8> = (0..9000u32).map(|n| (n / 7 + 1) as u8).collect();
            data[1024..1536].fill(0);
            data[4608..5120].fill(0);
            let parts = vec![5 * BLOCK..8 * BLOCK, 10 * BLOCK..14 * BLOCK, 20 * BLOCK..4 * BLOCK + 9000];
            let job = job(parts, &data);
            for at in &changed {
                data[*at] ^= 0x55;
            }
            let mut blocks = Blocks::default();
            for (at, piece) in data.chunks(step).enumerate() {
                blocks.take(&job, 4 * BLOCK + (at * step) as u64, piece);
            }
            let mut expected = Vec::new();
            for at in changed {
                let first = 4 * BLOCK + at as u64 / BLOCK * BLOCK;
                let range = first..(first + BLOCK).min(4 * BLOCK + 9000);
                if job.parts.iter().any(|part| part.contains(&first))
                    && expected.last().is_none_or(|last: &Range<u64>| last.end <= first)
                {
                    push_range(&mut expected, range);
                }
            }
            prop_assert_eq!(blocks.wrong, expected);
        }
    }
}
