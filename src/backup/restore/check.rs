//! Unpacks a chunk and checks all of it, before any of it is used.

use super::budget::{Buffer, Held};
use crate::backup::error::BackupError;
use crate::backup::format::{CodecError, Compression, Digest, Extent, digest_of, md5_hex};
use crate::backup::window::is_zero;
use bytes::Bytes;
use std::cell::RefCell;
use std::io::{self, Read};
use std::ops::{Deref, Range};
use uuid::Uuid;
use zstd::bulk::Decompressor;

/// Below this a second thread costs more than it gives.
const WORTH_A_THREAD: usize = 1 << 20;

/// One object to fetch, and what is known of its content.
#[derive(Clone, Debug)]
pub(in crate::backup) struct Job {
    pub extent: Extent,
    /// Its bytes in the repository, as listed.
    pub stored: u64,
    /// Of the volume; ascending, disjoint, whole hash blocks.
    pub parts: Vec<Range<u64>>,
    /// Of the parts' blocks, one after the other.
    pub digests: Vec<Digest>,
    /// Bytes per digest.
    pub block: u64,
    /// The digest of that many zeros.
    pub zeros: Digest,
}

impl Job {
    /// An object of which only the md5 is known.
    pub fn unhashed(extent: Extent, stored: u64) -> Self {
        Job { extent, stored, parts: Vec::new(), digests: Vec::new(), block: 1, zeros: [0; 32] }
    }
}

/// What is wrong with a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::backup) enum Fault {
    /// Its bytes are not those that were stored.
    Chunk(String),
    /// It is as its manifest says, but not as the hash file says, in these ranges of the volume.
    Hashes(Vec<Range<u64>>),
    /// It was there, and went together with its backup's manifest: no damage.
    Gone(Uuid),
}

impl Fault {
    /// In words.
    pub fn reason(&self) -> String {
        match self {
            Fault::Chunk(reason) => reason.clone(),
            Fault::Hashes(_) => "its SHA-256 is not the hash file's".to_owned(),
            Fault::Gone(backup) => BackupError::Changed { backup: *backup }.to_string(),
        }
    }
}

/// A chunk's bytes as they were in the volume.
#[derive(Debug)]
pub(in crate::backup) enum Chunk {
    /// Stored as they are.
    Plain(Bytes),
    /// Unpacked.
    Unpacked(Buffer),
}

impl Deref for Chunk {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Chunk::Plain(bytes) => bytes,
            Chunk::Unpacked(buffer) => buffer,
        }
    }
}

/// What a chunk takes while it is worked on: as stored, and unpacked.
pub(in crate::backup) fn memory_of(extent: &Extent, stored: u64) -> u64 {
    match extent.compression {
        Compression::None => stored,
        _ => stored + extent.length,
    }
}

/// Unpacks what was stored: exactly the declared bytes, and never more memory than those.
pub(in crate::backup) fn unpack(extent: &Extent, stored: Bytes, held: &Held) -> Result<Chunk, String> {
    if extent.compression == Compression::None {
        let (declared, found) = (extent.length, stored.len());
        return match found as u64 == declared {
            true => Ok(Chunk::Plain(stored)),
            false => Err(CodecError::WrongLength { declared, found: found.to_string() }.to_string()),
        };
    }
    let mut buffer = held.buffer(extent.length as usize);
    let filled = match extent.compression {
        Compression::Zstd => unpack_zstd(&stored, &mut buffer),
        Compression::Zlib => fill(flate2::bufread::ZlibDecoder::new(&stored[..]), &mut buffer),
        Compression::Bz2 => fill(bzip2::bufread::BzDecoder::new(&stored[..]), &mut buffer),
        Compression::None => Ok(stored.len().to_string()),
    };
    let declared = extent.length;
    match filled {
        Err(source) => Err(CodecError::Decompress { compression: extent.compression, source }.to_string()),
        Ok(found) if found == declared.to_string() => Ok(Chunk::Unpacked(buffer)),
        Ok(found) => Err(CodecError::WrongLength { declared, found }.to_string()),
    }
}

/// Answers how many bytes there are, in words.
fn unpack_zstd(stored: &[u8], buffer: &mut [u8]) -> io::Result<String> {
    thread_local! {
        static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    }
    // Usually it says so itself, before anything is unpacked; what it says may be a lie.
    if let Ok(Some(size)) = zstd::zstd_safe::get_frame_content_size(stored)
        && size > buffer.len() as u64
    {
        return Ok(size.to_string());
    }
    DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(decompressor) => decompressor,
            None => slot.insert(Decompressor::new()?),
        };
        decompressor.decompress_to_buffer(stored, buffer).map(|found| found.to_string())
    })
}

fn fill(mut stream: impl Read, buffer: &mut [u8]) -> io::Result<String> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..])? {
            0 => return Ok(filled.to_string()),
            more => filled += more,
        }
    }
    Ok(match stream.read(&mut [0])? {
        0 => filled.to_string(),
        _ => format!("more than {filled}"),
    })
}

/// Compares a chunk with both digests: the two of them side by side when a core is free.
pub(in crate::backup) fn verify(job: &Job, data: &[u8], side_by_side: bool) -> Result<(), Fault> {
    let as_declared = || match md5_hex(data) == job.extent.md5 {
        true => Ok(()),
        false => Err(Fault::Chunk("its md5 is not the manifest's".to_owned())),
    };
    if !side_by_side || data.len() < WORTH_A_THREAD {
        as_declared()?;
        return same_blocks(job, data);
    }
    std::thread::scope(|scope| {
        let md5 = scope.spawn(as_declared);
        let blocks = same_blocks(job, data);
        // What md5 says comes first: it tells a damaged chunk from a damaged hash file.
        md5.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).and(blocks)
    })
}

fn same_blocks(job: &Job, data: &[u8]) -> Result<(), Fault> {
    let (block, zeros) = (job.block as usize, job.zeros);
    let mut digests = job.digests.iter();
    let mut wrong: Vec<Range<u64>> = Vec::new();
    for part in &job.parts {
        let from = (part.start - job.extent.offset) as usize;
        let bytes = &data[from..(part.end - job.extent.offset) as usize];
        for (piece, at) in bytes.chunks(block).zip((part.start..part.end).step_by(block)) {
            let same = match digests.next() {
                // Looking for zeros is ten times as fast as hashing them.
                Some(expected) if *expected == zeros && piece.len() == block => is_zero(piece),
                Some(expected) => digest_of(piece) == *expected,
                None => false,
            };
            if !same {
                push_range(&mut wrong, at..at + piece.len() as u64);
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(Fault::Hashes(wrong)) }
}

/// Adds a range behind the others, and joins it with the last one when they touch.
pub(in crate::backup) fn push_range(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut().filter(|last| last.end == range.start) {
        Some(last) => last.end = range.end,
        None => ranges.push(range),
    }
}
