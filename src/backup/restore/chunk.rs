//! A chunk that was checked, as far as somebody wants its bytes.

use super::check::Job;
use super::ledger::{SEGMENT, Segment};
use crate::backup::format::Digest;
use sha2::{Digest as _, Sha256};
use std::ops::Range;

pub(super) static ZEROS: [u8; SEGMENT] = [0; SEGMENT];

/// One step of a chunk's bytes.
#[derive(Debug)]
pub(super) enum Piece {
    Data(Segment),
    /// Nothing but zeros: not kept.
    Zeros,
    /// Nobody wants it.
    Unwanted,
}

/// The bytes of a chunk that were asked for ([`Sink::wants`](super::flow::Sink::wants)), in the volume's places.
#[derive(Debug)]
pub(in crate::backup) struct Chunk {
    offset: u64,
    length: u64,
    pieces: Vec<Piece>,
}

impl Chunk {
    pub(super) fn new(job: &Job) -> Self {
        Chunk { offset: job.extent.offset, length: job.extent.length, pieces: Vec::new() }
    }

    /// The place in the volume of the next piece.
    pub(super) fn next(&self) -> Range<u64> {
        let start = (self.pieces.len() * SEGMENT) as u64;
        self.offset + start.min(self.length)..self.offset + (start + SEGMENT as u64).min(self.length)
    }

    pub(super) fn push(&mut self, piece: Piece) {
        self.pieces.push(piece);
    }

    /// A range of it, in steps: where in the volume, and the bytes.
    pub fn bytes(&self, range: &Range<u64>) -> impl Iterator<Item = (u64, &[u8])> {
        let Range { start, end } = *range;
        let first = (start.saturating_sub(self.offset) / SEGMENT as u64) as usize;
        let pieces = self.pieces.iter().enumerate().skip(first);
        pieces.map_while(move |(index, piece)| {
            let begin = self.offset + (index * SEGMENT) as u64;
            let (from, to) = (start.max(begin), end.min(begin + SEGMENT as u64));
            let all = match piece {
                Piece::Data(segment) => segment.bytes(),
                Piece::Zeros | Piece::Unwanted => &ZEROS[..],
            };
            (from < to).then(|| (from, &all[(from - begin) as usize..(to - begin) as usize]))
        })
    }

    /// The digest of a range of it.
    pub fn digest(&self, range: &Range<u64>) -> Digest {
        let mut hasher = Sha256::new();
        self.bytes(range).for_each(|(_, bytes)| hasher.update(bytes));
        hasher.finalize().into()
    }
}
