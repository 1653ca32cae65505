//! Compression of a chunk, whole or fed bit by bit, into a buffer that is smaller than the chunk: what does not
//! fit has not shrunk (B2). One packer serves one thread, its zstd tables are used again.

use super::codec::{CodecError, Compression, ZSTD_LEVEL};
use std::fmt;
use std::io;
use zstd::zstd_safe::zstd_sys::{ZSTD_EndDirective, ZSTD_ErrorCode};
use zstd::zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, ResetDirective, get_error_name};

/// Where a probe looks, and how many bytes it takes there.
const PLACES: usize = 16;
const PLACE: usize = 16 << 10;

/// A compressor that is used again and again.
pub struct Packer {
    zstd: CCtx<'static>,
    /// Of the probe, which is about speed.
    quick: CCtx<'static>,
    sample: Vec<u8>,
    chunk: Chunk,
}

/// The one being compressed.
enum Chunk {
    None,
    Zlib(Box<flate2::Compress>),
    Bz2(bzip2::Compress),
    Zstd,
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Packer")
    }
}

impl Default for Packer {
    fn default() -> Self {
        Packer { zstd: CCtx::create(), quick: CCtx::create(), sample: Vec::new(), chunk: Chunk::None }
    }
}

impl Packer {
    /// Begins a chunk of `length` bytes.
    pub fn begin(&mut self, compression: Compression, length: u64) -> Result<(), CodecError> {
        self.chunk = match compression {
            Compression::None => Chunk::None,
            Compression::Zlib => {
                Chunk::Zlib(Box::new(flate2::Compress::new(flate2::Compression::default(), true)))
            }
            Compression::Bz2 => Chunk::Bz2(bzip2::Compress::new(bzip2::Compression::best(), 0)),
            Compression::Zstd => {
                self.begin_zstd()?;
                // The content size goes into the header: Cinder needs it to unpack the frame.
                let pledged = self.zstd.set_pledged_src_size(Some(length));
                pledged.map_err(|code| zstd_error(compression, code))?;
                Chunk::Zstd
            }
        };
        Ok(())
    }

    fn begin_zstd(&mut self) -> Result<(), CodecError> {
        let begun = self
            .zstd
            .reset(ResetDirective::SessionOnly)
            .and_then(|_| self.zstd.set_parameter(CParameter::CompressionLevel(ZSTD_LEVEL)));
        begun.map(drop).map_err(|code| zstd_error(Compression::Zstd, code))
    }

    /// Compresses a chunk that is in memory whole. What is fed bit by bit goes through a ring inside zstd, which costs
    /// a copy and, where the ring wraps, its slower loop; here it reads the chunk where it lies. Answers how many
    /// bytes of `out` it takes, `None` where they are not enough.
    pub fn pack(
        &mut self,
        compression: Compression,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<Option<usize>, CodecError> {
        if compression == Compression::Zstd {
            self.begin_zstd()?;
            self.chunk = Chunk::None;
            // Writes the content size of itself.
            return match self.zstd.compress2(out, data) {
                Ok(used) => Ok(Some(used)),
                Err(code) if is_too_small(code) => Ok(None),
                Err(code) => Err(zstd_error(compression, code)),
            };
        }
        let mut used = 0;
        self.begin(compression, data.len() as u64)?;
        Ok(self.feed(data, true, out, &mut used)?.then_some(used))
    }

    /// Compresses the next bytes of the chunk into `out` from `used` on; with `last` the chunk ends. `false` once
    /// `out` is full.
    pub fn feed(
        &mut self,
        data: &[u8],
        last: bool,
        out: &mut [u8],
        used: &mut usize,
    ) -> Result<bool, CodecError> {
        // There is always an end to be written; and some compressors take no room for an error.
        if *used == out.len() && !matches!(self.chunk, Chunk::None) {
            return Ok(false);
        }
        match &mut self.chunk {
            Chunk::None => Ok(copy(data, out, used)),
            Chunk::Zlib(stream) => zlib(stream, data, last, out, used),
            Chunk::Bz2(stream) => bz2(stream, data, last, out, used),
            Chunk::Zstd => zstd(&mut self.zstd, data, last, out, used),
        }
    }

    /// Whether a few places of a chunk shrink at all, told by the quickest of the compressors; true of a small one.
    pub fn looks_compressible(&mut self, data: &[u8], scratch: &mut [u8]) -> Result<bool, CodecError> {
        if data.len() < 2 * PLACES * PLACE {
            return Ok(true);
        }
        let mut sample = std::mem::take(&mut self.sample);
        sample.clear();
        for place in data.chunks_exact(data.len() / PLACES) {
            sample.extend_from_slice(&place[..PLACE]);
        }
        let shrinks = self.shrinks(&sample, scratch);
        self.sample = sample;
        shrinks
    }

    fn shrinks(&mut self, sample: &[u8], scratch: &mut [u8]) -> Result<bool, CodecError> {
        // Less than one part in 64 is not worth the time.
        let room = (sample.len() - sample.len() / 64).min(scratch.len());
        let begun = self
            .quick
            .reset(ResetDirective::SessionOnly)
            .and_then(|_| self.quick.set_parameter(CParameter::CompressionLevel(1)));
        begun.map_err(|code| zstd_error(Compression::Zstd, code))?;
        zstd(&mut self.quick, sample, true, &mut scratch[..room], &mut 0)
    }
}

fn copy(data: &[u8], out: &mut [u8], used: &mut usize) -> bool {
    let Some(room) = out.get_mut(*used..*used + data.len()) else { return false };
    room.copy_from_slice(data);
    *used += data.len();
    true
}

fn zstd(
    stream: &mut CCtx<'static>,
    data: &[u8],
    last: bool,
    out: &mut [u8],
    used: &mut usize,
) -> Result<bool, CodecError> {
    let mut input = InBuffer::around(data);
    let what = if last { ZSTD_EndDirective::ZSTD_e_end } else { ZSTD_EndDirective::ZSTD_e_continue };
    loop {
        let mut output = OutBuffer::around(&mut out[*used..]);
        let left = stream.compress_stream2(&mut output, &mut input, what);
        let left = left.map_err(|code| zstd_error(Compression::Zstd, code))?;
        *used += output.pos();
        let is_done = if last { left == 0 } else { input.pos() == data.len() };
        if is_done {
            return Ok(true);
        }
        if *used == out.len() {
            return Ok(false);
        }
    }
}

fn zlib(
    stream: &mut flate2::Compress,
    mut data: &[u8],
    last: bool,
    out: &mut [u8],
    used: &mut usize,
) -> Result<bool, CodecError> {
    let flush = if last { flate2::FlushCompress::Finish } else { flate2::FlushCompress::None };
    loop {
        let (taken, given) = (stream.total_in(), stream.total_out());
        let status = stream.compress(data, &mut out[*used..], flush);
        let status = status.map_err(|e| failed(Compression::Zlib, io::Error::other(e)))?;
        data = &data[(stream.total_in() - taken) as usize..];
        *used += (stream.total_out() - given) as usize;
        if status == flate2::Status::StreamEnd || (!last && data.is_empty()) {
            return Ok(true);
        }
        if *used == out.len() {
            return Ok(false);
        }
    }
}

fn bz2(
    stream: &mut bzip2::Compress,
    mut data: &[u8],
    last: bool,
    out: &mut [u8],
    used: &mut usize,
) -> Result<bool, CodecError> {
    let action = if last { bzip2::Action::Finish } else { bzip2::Action::Run };
    if data.is_empty() && !last {
        return Ok(true);
    }
    loop {
        let (taken, given) = (stream.total_in(), stream.total_out());
        let status = stream.compress(data, &mut out[*used..], action);
        let status = status.map_err(|e| failed(Compression::Bz2, io::Error::other(e)))?;
        data = &data[(stream.total_in() - taken) as usize..];
        *used += (stream.total_out() - given) as usize;
        if status == bzip2::Status::StreamEnd || (!last && data.is_empty()) {
            return Ok(true);
        }
        if *used == out.len() {
            return Ok(false);
        }
    }
}

/// Whether zstd wants more room: it answers the negated number of its error.
fn is_too_small(code: usize) -> bool {
    code == (ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize).wrapping_neg()
}

fn zstd_error(compression: Compression, code: usize) -> CodecError {
    failed(compression, io::Error::other(get_error_name(code)))
}

fn failed(compression: Compression, source: io::Error) -> CodecError {
    CodecError::Compress { compression, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const KINDS: [Compression; 3] = [Compression::Zlib, Compression::Bz2, Compression::Zstd];

    fn pack(
        packer: &mut Packer,
        kind: Compression,
        data: &[u8],
        step: usize,
        room: usize,
    ) -> Option<Vec<u8>> {
        let (mut out, mut used) = (vec![0; room], 0);
        packer.begin(kind, data.len() as u64).unwrap();
        let parts = data.len().div_ceil(step);
        for (at, part) in data.chunks(step).enumerate() {
            if !packer.feed(part, at + 1 == parts, &mut out, &mut used).unwrap() {
                return None;
            }
        }
        out.truncate(used);
        Some(out)
    }

    /// Fed in any steps, by a packer that broke a chunk off before, the stream unpacks to the chunk.
    #[rstest]
    fn bit_by_bit(#[values(0, 1, 2)] kind: usize, #[values(100, 5000, 300_000)] step: usize) {
        let (kind, mut packer) = (KINDS[kind], Packer::default());
        let data: Vec<u8> = (0..300_000u32).flat_map(|n| (n / 3).to_le_bytes()).collect();
        assert_eq!(pack(&mut packer, kind, &data, step, 1000), None);
        let packed = pack(&mut packer, kind, &data, step, data.len() - 1).unwrap();
        assert!(kind.decompress(&packed, data.len() as u64).unwrap() == data);
        if kind == Compression::Zstd {
            let size = zstd::zstd_safe::get_frame_content_size(&packed).unwrap();
            assert_eq!(size, Some(data.len() as u64));
        }
    }

    /// Whole, it is one frame of its size, also after one that did not fit; and fed bit by bit by the same packer.
    #[rstest]
    fn whole(#[values(0, 1, 2)] kind: usize) {
        let (kind, mut packer) = (KINDS[kind], Packer::default());
        let data: Vec<u8> = (0..300_000u32).flat_map(|n| (n / 3).to_le_bytes()).collect();
        let mut out = vec![0; data.len() - 1];
        for round in 0..3 {
            assert_eq!(packer.pack(kind, &data, &mut out[..1000]).unwrap(), None, "{round}");
            let used = packer.pack(kind, &data, &mut out).unwrap().unwrap();
            assert!(kind.decompress(&out[..used], data.len() as u64).unwrap() == data, "{round}");
            if kind == Compression::Zstd {
                let size = zstd::zstd_safe::get_frame_content_size(&out[..used]).unwrap();
                assert_eq!(size, Some(data.len() as u64));
            }
            let fed = pack(&mut packer, kind, &data, 5000, data.len() - 1).unwrap();
            assert!(kind.decompress(&fed, data.len() as u64).unwrap() == data, "{round}");
        }
        assert_eq!(packer.pack(kind, b"a", &mut []).unwrap(), None);
    }

    #[test]
    fn a_sample_tells() {
        let (mut packer, mut state, mut scratch) = (Packer::default(), 1u64, vec![0; 1 << 20]);
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        });
        let many: Vec<u8> = noise.take(1_000_000).collect();
        let noise = &many[..100_000];
        assert!(!packer.shrinks(noise, &mut scratch).unwrap());
        let text = b"some text that repeats, ".repeat(4000);
        assert!(packer.shrinks(&text, &mut scratch).unwrap());
        assert!(!packer.looks_compressible(&many, &mut scratch).unwrap());
        // A sixteenth of it shrinks.
        let mixed = [&many[..900_000], &text[..]].concat();
        assert!(packer.looks_compressible(&mixed, &mut scratch).unwrap());
        assert!(packer.looks_compressible(noise, &mut scratch).unwrap(), "too small to be tried");
    }
}
