//! What becomes one object: compressed and digested.

use super::memory::{Buffer, Reservation};
use crate::backup::BackupError;
use crate::backup::format::{Compression, Packer, hex, md5_hex};
use crate::backup::window::is_zero;
use bytes::Bytes;
use md5_lanes::Md5;
use std::sync::{Mutex, OnceLock, PoisonError};

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

/// Makes pieces. Packers are used again; a whole chunk of zeros is made once.
pub(super) struct Pieces {
    compression: Compression,
    chunk: u64,
    packers: Mutex<Vec<Packer>>,
    zero_chunk: OnceLock<Piece>,
}

/// A piece that is fed bit by bit.
pub(super) struct Feed<'a> {
    pieces: &'a Pieces,
    packer: Option<Packer>,
    md5: Md5,
    length: u64,
    left: u64,
    /// The last of what it has had, not taken yet.
    zeros: u64,
    limit: usize,
    out: &'a mut Buffer,
    used: usize,
    fits: bool,
}

impl Pieces {
    pub fn new(compression: Compression, chunk: u64) -> Self {
        Pieces { compression, chunk, packers: Mutex::default(), zero_chunk: OnceLock::new() }
    }

    pub fn compression(&self) -> Compression {
        self.compression
    }

    fn packer(&self) -> Packer {
        self.packers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn keep(&self, packer: Packer) {
        self.packers.lock().unwrap_or_else(PoisonError::into_inner).push(packer);
    }

    /// Whether a sample of a chunk shrinks at all.
    pub fn shrinks(&self, sample: &[u8], scratch: &mut [u8]) -> Result<bool, BackupError> {
        let mut packer = self.packer();
        let shrinks = packer.shrinks(sample, scratch)?;
        self.keep(packer);
        Ok(shrinks)
    }

    /// Begins a piece of `length` bytes.
    pub fn begin<'a>(
        &'a self,
        length: u64,
        compression: Compression,
        out: &'a mut Buffer,
    ) -> Result<Feed<'a>, BackupError> {
        let mut packer = self.packer();
        packer.begin(compression, length)?;
        // What takes as many bytes as before has not shrunk (B2).
        let limit = if compression == Compression::None { length } else { length - 1 } as usize;
        let md5 = Md5::default();
        Ok(Feed {
            pieces: self,
            packer: Some(packer),
            md5,
            length,
            left: length,
            zeros: 0,
            limit,
            out,
            used: 0,
            fits: true,
        })
    }

    /// A piece from its bytes.
    pub fn pack(&self, offset: u64, bytes: &[u8], memory: &mut Reservation) -> Result<Piece, BackupError> {
        let length = bytes.len() as u64;
        if length == self.chunk && is_zero(bytes) {
            return self.zeros(offset, length);
        }
        let mut out = memory.buffer(bytes.len());
        let mut compression = self.compression;
        let mut feed = self.begin(length, compression, &mut out)?;
        feed.feed(bytes)?;
        let digest = feed.end()?;
        let (md5, used) = match digest {
            Some(done) => done,
            None => {
                compression = Compression::None;
                out.bytes().copy_from_slice(bytes);
                (md5_hex(bytes), bytes.len())
            }
        };
        Ok(finish(offset, length, compression, md5, used, out))
    }

    /// A piece of zeros.
    pub fn zeros(&self, offset: u64, length: u64) -> Result<Piece, BackupError> {
        if length != self.chunk {
            return self.pack_zeros(offset, length);
        }
        if let Some(known) = self.zero_chunk.get() {
            return Ok(Piece { offset, ..known.clone() });
        }
        let made = self.pack_zeros(offset, length)?;
        Ok(Piece { offset, ..self.zero_chunk.get_or_init(|| made).clone() })
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

/// A piece of what a buffer holds.
pub(super) fn finish(
    offset: u64,
    length: u64,
    compression: Compression,
    md5: String,
    used: usize,
    mut out: Buffer,
) -> Piece {
    // A buffer is paid for whole: a small body is not worth keeping a large one.
    let is_small = used < out.as_ref().len() / 4;
    out.truncate(used);
    let body = Bytes::from_owner(if is_small { out.shrunk() } else { out });
    Piece { offset, length, compression, md5, body }
}

impl Feed<'_> {
    /// Takes the next bytes, all of them zeros: not looked at unless something else follows.
    pub fn feed_zeros(&mut self, length: u64) {
        self.zeros += length;
    }

    /// Whether it has had nothing but zeros.
    pub fn is_all_zero(&self) -> bool {
        self.zeros == self.length
    }

    /// Takes the next bytes; `false` once it is certain that the piece does not shrink.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<bool, BackupError> {
        let zeros = std::mem::take(&mut self.zeros);
        for _ in 0..zeros / ZEROS.len() as u64 {
            self.take(&ZEROS)?;
        }
        self.take(&ZEROS[..(zeros % ZEROS.len() as u64) as usize])?;
        self.take(bytes)
    }

    fn take(&mut self, bytes: &[u8]) -> Result<bool, BackupError> {
        if !self.fits || bytes.is_empty() {
            return Ok(self.fits);
        }
        self.left -= bytes.len() as u64;
        self.md5.update(bytes);
        if let Some(packer) = &mut self.packer {
            let out = &mut self.out.bytes()[..self.limit];
            self.fits = packer.feed(bytes, self.left == 0, out, &mut self.used)?;
        }
        Ok(self.fits)
    }

    /// Its MD5 and how many bytes it takes; `None` if it did not shrink.
    pub fn end(mut self) -> Result<Option<(String, usize)>, BackupError> {
        self.feed(&[])?;
        if let Some(packer) = self.packer.take() {
            self.pieces.keep(packer);
        }
        let Feed { md5, used, fits, .. } = self;
        Ok(fits.then(|| (hex(&md5.finish()), used)))
    }
}
