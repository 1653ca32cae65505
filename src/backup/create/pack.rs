//! What a window holds becomes objects, several of them: their MD5s are computed side by side, which takes hardly longer
//! than one of them alone.

use super::memory::{Buffer, Reservation};
use super::piece::{Piece, is_worth_zeros};
use super::window::WindowWork;
use crate::backup::BackupError;
use md5_lanes::md5_many;
use std::ops::Range;

/// A part of a window, read.
pub(super) struct Part {
    pub range: Range<u64>,
    pub raw: Buffer,
    /// It may be noise.
    pub probe: bool,
}

impl WindowWork {
    /// Parts become objects, and what lies between them objects of zeros.
    pub fn pack_parts(
        &self,
        range: &Range<u64>,
        parts: Vec<Part>,
        mut memory: Reservation,
    ) -> Result<Vec<Piece>, BackupError> {
        self.check()?;
        let digests = md5_many(&parts.iter().map(|part| part.raw.as_ref()).collect::<Vec<_>>());
        let (mut pieces, mut at) = (Vec::with_capacity(parts.len() + 1), range.start);
        let mut spare = memory.buffer(self.pieces.part().min(range.end - range.start) as usize);
        // What is over is for others.
        drop(memory);
        for (part, md5) in parts.into_iter().zip(&digests) {
            self.check()?;
            let start = part.range.start;
            if at < start {
                pieces.push(self.pieces.zeros(at, start - at)?);
            }
            let (piece, free) = self.pieces.pack_buffer(start, md5, part.raw, spare, part.probe)?;
            pieces.push(piece);
            (at, spare) = (part.range.end, free);
        }
        if at < range.end {
            pieces.push(self.pieces.zeros(at, range.end - at)?);
        }
        Ok(pieces)
    }

    /// Runs, each with its place in `raw`, become objects: longer ones several, those of zeros one.
    pub fn pack_runs(
        &self,
        runs: Vec<(Range<u64>, usize)>,
        raw: Option<&[u8]>,
        memory: &mut Reservation,
    ) -> Result<Vec<Piece>, BackupError> {
        let part = self.pieces.part();
        let mut parts: Vec<(Range<u64>, Option<&[u8]>)> = Vec::with_capacity(runs.len());
        for (run, at) in runs {
            let bytes = raw.map(|raw| &raw[at..at + (run.end - run.start) as usize]);
            match bytes.filter(|bytes| !is_worth_zeros(bytes, part)) {
                None => parts.push((run, None)),
                Some(bytes) => {
                    let bytes = bytes.chunks(part as usize).map(Some);
                    parts.extend(cut(run, part).zip(bytes));
                }
            }
        }
        let digests = md5_many(&parts.iter().filter_map(|(_, bytes)| *bytes).collect::<Vec<_>>());
        let mut digests = digests.iter();
        let mut pieces = Vec::with_capacity(parts.len());
        for (range, bytes) in parts {
            self.check()?;
            pieces.push(match bytes.and_then(|bytes| Some((bytes, digests.next()?))) {
                None => self.pieces.zeros(range.start, range.end - range.start)?,
                Some((bytes, md5)) => self.pieces.pack_bytes(range.start, md5, bytes, memory)?,
            });
        }
        Ok(pieces)
    }
}

/// Cuts a range into steps, the last of which may be shorter.
pub(super) fn cut(range: Range<u64>, step: u64) -> impl Iterator<Item = Range<u64>> {
    range.clone().step_by(step as usize).map(move |at| at..range.end.min(at + step))
}
