//! Unpacks what was stored, bit by bit: exactly the declared bytes, and never much more memory than those.

use super::check::Fault;
use super::source::Source;
use crate::backup::error::BackupError;
use crate::backup::format::{CodecError, Compression, Extent};
use crate::backup::store::StoreError;
use bzip2::bufread::BzDecoder;
use flate2::bufread::ZlibDecoder;
use std::io::{self, ErrorKind, Read};

/// What a decoder takes: zstd's window at level 3, bz2's blocks.
const DECODER: u64 = 3 << 20;
/// zstd's own limit for streams; a frame of one segment may ask for its whole length.
const ZSTD_WINDOW_LOG: u32 = 27;

/// The bytes of one chunk, as they were in the volume.
pub(super) struct Unpacker {
    stream: Stream,
    compression: Compression,
    declared: u64,
    /// So many of them were read.
    read: u64,
    is_at_end: bool,
}

enum Stream {
    Plain(Source),
    Zstd(zstd::Decoder<'static, Source>),
    Zlib(ZlibDecoder<Source>),
    Bz2(BzDecoder<Source>),
}

/// Why there will be no more bytes.
#[derive(Debug)]
pub(super) enum Stop {
    /// The object is damaged.
    Damaged(Fault),
    /// It was not there: damaged, or gone with its backup.
    Missing(StoreError),
    /// Something that no object is to blame for.
    Failed(BackupError),
}

impl Unpacker {
    pub fn new(extent: &Extent, source: Source) -> Result<Self, BackupError> {
        let stream = match extent.compression {
            Compression::None => Ok(Stream::Plain(source)),
            Compression::Zlib => Ok(Stream::Zlib(ZlibDecoder::new(source))),
            Compression::Bz2 => Ok(Stream::Bz2(BzDecoder::new(source))),
            Compression::Zstd => zstd::Decoder::with_buffer(source).and_then(|mut decoder| {
                let length = u64::BITS - extent.length.leading_zeros();
                decoder.window_log_max(length.max(ZSTD_WINDOW_LOG))?;
                Ok(Stream::Zstd(decoder))
            }),
        };
        let (compression, declared) = (extent.compression, extent.length);
        let wrong = |source| CodecError::Decompress { compression, source };
        let stream = stream.map_err(wrong)?;
        Ok(Unpacker { stream, compression, declared, read: 0, is_at_end: false })
    }

    /// The memory that it takes beside what was unpacked.
    pub fn memory(extent: &Extent, stored: u64) -> u64 {
        let decoder = if extent.compression == Compression::None { 0 } else { DECODER };
        Source::memory(stored) + decoder.min(extent.length)
    }

    /// Fills `buffer` from `filled` on. False: the rest has not come yet. With the last declared byte, the end is
    /// looked for, too.
    pub fn fill(&mut self, buffer: &mut [u8], filled: &mut usize) -> Result<bool, Stop> {
        while *filled < buffer.len() {
            match self.some(&mut buffer[*filled..])? {
                None => return Ok(false),
                Some(0) => return Err(self.wrong_length(self.read.to_string())),
                Some(bytes) => {
                    *filled += bytes;
                    self.read += bytes as u64;
                }
            }
        }
        if self.read == self.declared && !self.is_at_end {
            match self.some(&mut [0])? {
                None => return Ok(false),
                Some(0) => self.is_at_end = true,
                Some(_) => return Err(self.wrong_length(format!("more than {}", self.read))),
            }
        }
        Ok(true)
    }

    /// Some bytes, none at the end; `None` when they have not come yet.
    fn some(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Stop> {
        // A decoder that is called in vain again and again takes that for an error.
        if !self.stream.source().is_ready() {
            return Ok(None);
        }
        loop {
            match self.stream.read(buffer) {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(self.stop(e)),
            }
        }
    }

    fn stop(&self, error: io::Error) -> Stop {
        match error.downcast::<StoreError>() {
            Ok(e @ StoreError::Missing { .. }) => Stop::Missing(e),
            Ok(e @ StoreError::TooLarge { .. }) => Stop::Damaged(Fault::Chunk(e.to_string())),
            Ok(e) => Stop::Failed(e.into()),
            Err(source) => {
                let wrong = CodecError::Decompress { compression: self.compression, source };
                Stop::Damaged(Fault::Chunk(wrong.to_string()))
            }
        }
    }

    fn wrong_length(&self, found: String) -> Stop {
        let wrong = CodecError::WrongLength { declared: self.declared, found };
        Stop::Damaged(Fault::Chunk(wrong.to_string()))
    }
}

impl Stream {
    fn source(&mut self) -> &mut Source {
        match self {
            Stream::Plain(source) => source,
            Stream::Zstd(decoder) => decoder.get_mut(),
            Stream::Zlib(decoder) => decoder.get_mut(),
            Stream::Bz2(decoder) => decoder.get_mut(),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(source) => source.read(buffer),
            Stream::Zstd(decoder) => decoder.read(buffer),
            Stream::Zlib(decoder) => decoder.read(buffer),
            Stream::Bz2(decoder) => decoder.read(buffer),
        }
    }
}
