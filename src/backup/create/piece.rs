//! What becomes one object: compressed and digested.

use super::memory::{Buffer, Reservation};
use crate::backup::BackupError;
use crate::backup::format::{Compression, Packer, hex};
use crate::backup::window::is_zero;
use bytes::Bytes;
use md5_lanes::Md5;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// One object to be.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub offset: u64,
    pub length: u64,
    pub compression: Compression,
    pub md5: String,
    /// Its memory goes back to the budget with the last clone.
    pub body: Bytes,
}

/// Makes pieces. Packers are used again; zeros of the usual lengths are made once.
pub(super) struct Pieces {
    compression: Compression,
    chunk: u64,
    /// Bytes of a piece at most, unless all of them are zeros.
    part: u64,
    packers: Mutex<Vec<Packer>>,
    zeros: Mutex<BTreeMap<u64, Piece>>,
}

impl Pieces {
    pub fn new(compression: Compression, chunk: u64, part: u64) -> Self {
        Pieces { compression, chunk, part, packers: Mutex::default(), zeros: Mutex::default() }
    }

    /// Bytes of a piece at most, unless all of them are zeros.
    pub fn part(&self) -> u64 {
        self.part
    }

    fn packer(&self) -> Packer {
        self.packers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn keep(&self, packer: Packer) {
        self.packers.lock().unwrap_or_else(PoisonError::into_inner).push(packer);
    }

    /// A piece of a buffer's bytes, with `spare` of at least as many to compress into. Answers the buffer that
    /// is free then. `probe`: bytes that may be noise altogether are tried first, for compressing noise costs
    /// more than all the rest.
    pub fn pack_buffer(
        &self,
        offset: u64,
        md5: &[u8; 16],
        raw: Buffer,
        mut spare: Buffer,
        probe: bool,
    ) -> Result<(Piece, Buffer), BackupError> {
        let bytes = raw.as_ref();
        let length = bytes.len() as u64;
        let (compression, body, free) = match self.compress(bytes, spare.bytes(), probe)? {
            Some(used) => (self.compression, shrunk(spare, used), raw),
            None => (Compression::None, Bytes::from_owner(raw), spare),
        };
        Ok((Piece { offset, length, compression, md5: hex(md5), body }, free))
    }

    /// A piece of bytes that stay where they are.
    pub fn pack_bytes(
        &self,
        offset: u64,
        md5: &[u8; 16],
        bytes: &[u8],
        memory: &mut Reservation,
    ) -> Result<Piece, BackupError> {
        let mut out = memory.buffer(bytes.len());
        let (compression, body) = match self.compress(bytes, out.bytes(), false)? {
            Some(used) => (self.compression, shrunk(out, used)),
            None => {
                out.bytes().copy_from_slice(bytes);
                (Compression::None, Bytes::from_owner(out))
            }
        };
        Ok(Piece { offset, length: bytes.len() as u64, compression, md5: hex(md5), body })
    }

    /// Into how many bytes of `out` it goes; `None` where they would not be fewer (B2).
    fn compress(&self, bytes: &[u8], out: &mut [u8], probe: bool) -> Result<Option<usize>, BackupError> {
        if self.compression == Compression::None {
            return Ok(None);
        }
        let mut packer = self.packer();
        let used = match probe && !packer.looks_compressible(bytes, out)? {
            true => None,
            false => packer.pack(self.compression, bytes, &mut out[..bytes.len() - 1])?,
        };
        self.keep(packer);
        Ok(used)
    }

    /// A piece of zeros.
    pub fn zeros(&self, offset: u64, length: u64) -> Result<Piece, BackupError> {
        let is_usual = length == self.chunk || length.is_multiple_of(self.part);
        if !is_usual {
            return self.pack_zeros(offset, length);
        }
        // Held while it is made: others wait for it, and use it.
        let mut known = self.zeros.lock().unwrap_or_else(PoisonError::into_inner);
        let piece = match known.get(&length) {
            Some(piece) => piece.clone(),
            None => known.entry(length).or_insert(self.pack_zeros(offset, length)?).clone(),
        };
        Ok(Piece { offset, ..piece })
    }

    /// In small steps: nothing of that length is ever in memory, unless it is to be stored as it is.
    fn pack_zeros(&self, offset: u64, length: u64) -> Result<Piece, BackupError> {
        let mut packer = self.packer();
        packer.begin(self.compression, length)?;
        let (mut md5, mut out, mut used, mut left) = (Md5::default(), vec![0; 4096], 0, length);
        let mut fits = self.compression != Compression::None;
        while left > 0 {
            let step = &ZEROS[..left.min(ZEROS.len() as u64) as usize];
            left -= step.len() as u64;
            md5.update(step);
            if fits && out.len() - used < 4096 {
                out.resize((out.len() * 2).min(length as usize), 0);
            }
            let room = out.len().min(length as usize - 1);
            fits = fits && packer.feed(step, left == 0, &mut out[..room], &mut used)?;
        }
        self.keep(packer);
        let (compression, body) = match fits {
            true => (self.compression, Bytes::copy_from_slice(&out[..used])),
            false => (Compression::None, Bytes::from(vec![0; length as usize])),
        };
        Ok(Piece { offset, length, compression, md5: hex(&md5.finish()), body })
    }
}

/// The first bytes of a buffer. It is paid for whole: a small body is not worth keeping a large one.
fn shrunk(mut out: Buffer, used: usize) -> Bytes {
    let is_small = used < out.as_ref().len() / 4;
    out.truncate(used);
    Bytes::from_owner(if is_small { out.shrunk() } else { out })
}

/// Whether a run of blocks is zeros that are worth an object of their own.
pub(super) fn is_worth_zeros(bytes: &[u8], part: u64) -> bool {
    bytes.len() as u64 >= part && is_zero(bytes)
}
