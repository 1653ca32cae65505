//! Compression of one chunk. Words and streams are Cinder's.

use snafu::{ResultExt, Snafu, ensure};
use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

/// zstd's own default, and Cinder's: level 1 saves a third of the time for a tenth more bytes.
pub(super) const ZSTD_LEVEL: i32 = 3;

/// How a chunk's bytes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compression {
    /// As they are.
    None,
    /// A zlib stream (also called gzip, wrongly, by Cinder).
    Zlib,
    /// bzip2.
    Bz2,
    /// One zstd frame that carries its content size.
    #[default]
    Zstd,
}

/// Why bytes cannot be compressed or unpacked.
#[derive(Debug, Snafu)]
pub enum CodecError {
    /// A word that names no algorithm.
    #[snafu(display("unknown compression {word:?}: use zstd, zlib, bz2 or none"))]
    UnknownCompression {
        /// As found.
        word: String,
    },
    /// The compressor failed.
    #[snafu(display("compressing with {compression} failed: {source}"))]
    Compress {
        /// Which.
        compression: Compression,
        /// What it said.
        source: io::Error,
    },
    /// The stored bytes are no stream of that kind.
    #[snafu(display("its {compression} stream is damaged: {source}"))]
    Decompress {
        /// Which.
        compression: Compression,
        /// What the decoder said.
        source: io::Error,
    },
    /// More or fewer bytes came out than the manifest declares.
    #[snafu(display("it holds {found} bytes where {declared} are declared"))]
    WrongLength {
        /// As declared.
        declared: u64,
        /// As found: text, for a bomb is not counted to its end.
        found: String,
    },
}

impl FromStr for Compression {
    type Err = CodecError;
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word.to_ascii_lowercase().as_str() {
            "none" | "off" | "no" => Ok(Compression::None),
            "zlib" | "gzip" => Ok(Compression::Zlib),
            "bz2" | "bzip2" => Ok(Compression::Bz2),
            "zstd" => Ok(Compression::Zstd),
            _ => UnknownCompressionSnafu { word }.fail(),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::None => "none",
            Compression::Zlib => "zlib",
            Compression::Bz2 => "bz2",
            Compression::Zstd => "zstd",
        })
    }
}

impl Compression {
    /// The compressed bytes, or `None` when they would not be fewer (B2).
    pub fn compress(self, data: &[u8]) -> Result<Option<Vec<u8>>, CodecError> {
        let packed = match self {
            Compression::None => return Ok(None),
            Compression::Zlib => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(data).and_then(|()| encoder.finish())
            }
            Compression::Bz2 => {
                let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
                encoder.write_all(data).and_then(|()| encoder.finish())
            }
            // The one-shot interface writes the content size, which Cinder needs to unpack it.
            Compression::Zstd => zstd::bulk::compress(data, ZSTD_LEVEL),
        }
        .context(CompressSnafu { compression: self })?;
        Ok((packed.len() < data.len()).then_some(packed))
    }

    /// Unpacks exactly `length` bytes; a stream that yields more is refused after one byte too many.
    pub fn decompress(self, stored: &[u8], length: u64) -> Result<Vec<u8>, CodecError> {
        let mut data = Vec::new();
        let one_more = length.saturating_add(1);
        match self {
            Compression::None => stored.take(one_more).read_to_end(&mut data),
            Compression::Zlib => flate2::read::ZlibDecoder::new(stored).take(one_more).read_to_end(&mut data),
            Compression::Bz2 => bzip2::read::BzDecoder::new(stored).take(one_more).read_to_end(&mut data),
            Compression::Zstd => {
                zstd::Decoder::new(stored).and_then(|decoder| decoder.take(one_more).read_to_end(&mut data))
            }
        }
        .context(DecompressSnafu { compression: self })?;
        let found = data.len() as u64;
        let wrong = |found| WrongLengthSnafu { declared: length, found };
        ensure!(found <= length, wrong(format!("more than {length}")));
        ensure!(found == length, wrong(found.to_string()));
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// B1: every word, any case; unknown ones are named.
    #[rstest]
    #[case("None", Compression::None)]
    #[case("OFF", Compression::None)]
    #[case("no", Compression::None)]
    #[case("gzip", Compression::Zlib)]
    #[case("ZLIB", Compression::Zlib)]
    #[case("bzip2", Compression::Bz2)]
    #[case("Bz2", Compression::Bz2)]
    #[case("zstd", Compression::Zstd)]
    fn words(#[case] word: &str, #[case] expected: Compression) {
        assert_eq!(word.parse::<Compression>().unwrap(), expected);
    }

    #[test]
    fn an_unknown_word_is_named() {
        assert!("lzma".parse::<Compression>().unwrap_err().to_string().contains("\"lzma\""));
    }

    /// B2, and a bomb: bytes that do not shrink are not compressed; a stream that unpacks to more
    /// than declared is refused.
    #[rstest]
    fn round_trip_and_bombs(
        #[values(Compression::Zlib, Compression::Bz2, Compression::Zstd)] compression: Compression,
    ) {
        let data = vec![7u8; 1 << 20];
        let packed = compression.compress(&data).unwrap().unwrap();
        assert!(packed.len() < 10_000);
        assert_eq!(compression.decompress(&packed, data.len() as u64).unwrap(), data);
        let bomb = compression.decompress(&packed, 1000).unwrap_err().to_string();
        assert!(bomb.contains("more than 1000"), "{bomb}");
        assert!(compression.decompress(&packed, 2 << 20).is_err());
        assert!(compression.decompress(&packed[..packed.len() / 2], 1 << 20).is_err());
        assert_eq!(compression.compress(b"x").unwrap(), None);
    }

    #[test]
    fn a_zstd_frame_carries_its_content_size() {
        let packed = Compression::Zstd.compress(&[0; 4096]).unwrap().unwrap();
        assert_eq!(zstd::zstd_safe::get_frame_content_size(&packed).unwrap(), Some(4096));
    }
}
