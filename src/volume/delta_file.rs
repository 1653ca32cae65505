//! The file of a delta: which blocks changed from one state of a volume to the next.
//!
//! ```text
//! 8   magic "STRATADL"            56  the earlier state       8   length of the bitmap
//! 4   version (1)                 56  the later state         …   the bitmap: block numbers, in the portable
//! 4   grain (65536)                                               format of Roaring
//! 8   made at, seconds since 1970                             32  SHA-256 of all before
//! ```
//! A state is 16 bytes each of volume, layer and incarnation, and its size in bytes (8). Numbers are little-endian. A layer
//! keeps what it holds for ever, and its id is random: so two ids name two states, and what is written here about them
//! stays true, whoever merges what later on.

use super::id::{LayerId, VolumeId};
use roaring::RoaringBitmap;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use uuid::Uuid;

/// Bytes of the disk that one bit stands for: a cluster of our own overlays. Layers of other cluster sizes are
/// rounded outward.
pub(super) const GRAIN: u64 = 65536;
const MAGIC: &[u8; 8] = b"STRATADL";
const VERSION: u32 = 1;
const STATE: usize = 3 * 16 + 8;
const HEAD: usize = 8 + 4 + 4 + 8 + 2 * STATE + 8;
const SUM: usize = 32;
/// The bitmap of 32 TiB in which every second block changed, and anything less torn. A larger one is not kept.
pub(super) const LONGEST: u64 = 65 << 20;

/// A state that a volume was in: what a frozen layer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Whose folder the layer is, or was, in.
    pub volume: VolumeId,
    /// The frozen layer.
    pub layer: LayerId,
    /// The life of the volume that wrote it; a rebuilt record begins a new one.
    pub incarnation: Uuid,
    /// Bytes.
    pub size: u64,
}

impl At {
    pub(super) fn same_state(&self, other: &At) -> bool {
        (self.volume, self.layer, self.incarnation) == (other.volume, other.layer, other.incarnation)
    }
}

/// What changed between two states.
#[derive(Clone, Debug, PartialEq)]
pub struct Delta {
    /// The earlier state.
    pub from: At,
    /// The later one.
    pub to: At,
    /// Seconds since 1970.
    pub made_at: i64,
    /// Blocks of 64 KiB that the later state wrote. What it has grown by is not among them.
    pub blocks: RoaringBitmap,
}

/// The block after the last one of a disk of `size` bytes; None for a disk that has too many.
pub fn block_count(size: u64) -> Option<u32> {
    u32::try_from(size.div_ceil(GRAIN)).ok()
}

impl Delta {
    /// Every block that may differ, growth included.
    pub fn changed(&self) -> RoaringBitmap {
        let mut blocks = self.blocks.clone();
        blocks.insert_range(grown(self.from.size.min(self.to.size), self.to.size));
        blocks
    }

    /// This one's changes after those of an earlier one that ends where this begins.
    pub(super) fn follow(&mut self, earlier: &Delta) {
        self.blocks |= &earlier.blocks;
        let size = self.from.size.min(earlier.from.size);
        self.from = At { size, ..earlier.from };
    }

    /// The file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + self.blocks.serialized_size() + SUM);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(GRAIN as u32).to_le_bytes());
        bytes.extend_from_slice(&self.made_at.to_le_bytes());
        for at in [&self.from, &self.to] {
            bytes.extend_from_slice(at.volume.uuid().as_bytes());
            bytes.extend_from_slice(at.layer.uuid().as_bytes());
            bytes.extend_from_slice(at.incarnation.as_bytes());
            bytes.extend_from_slice(&at.size.to_le_bytes());
        }
        bytes.extend_from_slice(&(self.blocks.serialized_size() as u64).to_le_bytes());
        self.blocks.serialize_into(&mut bytes).expect("a vector takes every byte");
        let sum = Sha256::digest(&bytes);
        bytes.extend_from_slice(&sum);
        bytes
    }

    /// The error says what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Delta, String> {
        if bytes.len() < HEAD + SUM || &bytes[..8] != MAGIC {
            return Err("it is no delta, or cut off".to_owned());
        }
        if bytes.len() as u64 > LONGEST {
            return Err(format!("it is longer than {LONGEST} bytes"));
        }
        let mut head = Fields(&bytes[8..HEAD]);
        let version = head.number(4);
        if version != u64::from(VERSION) {
            return Err(format!("version {version}, where this version of strata reads {VERSION}"));
        }
        let (content, sum) = bytes.split_at(bytes.len() - SUM);
        if Sha256::digest(content)[..] != *sum {
            return Err("its checksum does not match its contents".to_owned());
        }
        let grain = head.number(4);
        if grain != GRAIN {
            return Err(format!("blocks of {grain} bytes, where this version of strata has {GRAIN}"));
        }
        let made_at = head.number(8) as i64;
        let (from, to) = (head.at()?, head.at()?);
        let body = &content[HEAD..];
        if head.number(8) != body.len() as u64 {
            return Err("it is cut off".to_owned());
        }
        let blocks = RoaringBitmap::deserialize_from(body).map_err(|error| error.to_string())?;
        let count = block_count(to.size).ok_or_else(|| "of a disk that is too large".to_owned())?;
        if blocks.max().is_some_and(|last| last >= count) {
            return Err("it has blocks past the end of the disk".to_owned());
        }
        Ok(Delta { from, to, made_at, blocks })
    }
}

/// The fields of a head, whose length was looked at before.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take(&mut self, length: usize) -> &[u8] {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    fn number(&mut self, length: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes[..length].copy_from_slice(self.take(length));
        u64::from_le_bytes(bytes)
    }

    fn uuid(&mut self) -> Uuid {
        Uuid::from_slice(self.take(16)).expect("sixteen bytes")
    }

    fn at(&mut self) -> Result<At, String> {
        let volume = self.uuid().to_string().parse().map_err(|_| "a volume without an id".to_owned())?;
        let layer = self.uuid().to_string().parse().map_err(|_| "a layer without an id".to_owned())?;
        Ok(At { volume, layer, incarnation: self.uuid(), size: self.number(8) })
    }
}

/// A file's bytes, one more at most than any delta has.
pub(super) fn read_bounded(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// The blocks that a disk of `size` has and one of `before` has not whole.
pub(super) fn grown(before: u64, size: u64) -> Range<u32> {
    let last = block_count(size).unwrap_or(u32::MAX);
    if before >= size { last..last } else { ((before / GRAIN) as u32).min(last)..last }
}

#[cfg(test)]
#[path = "delta_file_tests.rs"]
mod tests;
