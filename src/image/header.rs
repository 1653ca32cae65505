//! The qcow2 header: what an image says about itself, read without trusting it.
//!
//! Formats and chains come from the record; a header is only ever compared with it. The file may
//! have been written by anybody, so nothing here allocates or seeks by a number that was not bounded.

use super::format::Format;
use snafu::{ResultExt, Snafu, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"QFI\xfb";
/// Both the smallest header and the fields of version 2.
const V2_LENGTH: usize = 72;
/// The specification's bound for the backing file name.
const MAX_BACKING_NAME: usize = 1023;
const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xE279_2ACA;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2;

/// What a qcow2 file says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Size of the disk, in bytes.
    pub size: u64,
    /// log2 of the cluster size.
    pub cluster_bits: u32,
    /// The backing file as it stands there: a file name, or anything else.
    pub backing_file: Option<String>,
    /// The backing file's format as it stands there.
    pub backing_format: Option<String>,
    /// The data is, or may be, in another file.
    pub external_data: bool,
    /// The clusters are encrypted.
    pub encrypted: bool,
    /// Reference counts may be stale (lazy refcounts).
    pub dirty: bool,
    /// QEMU has seen damage.
    pub corrupt: bool,
    /// Incompatible feature bits that nobody here knows.
    pub unknown_features: u64,
}

/// Why a file is not accepted as the layer that the record says it is.
#[derive(Debug, Snafu)]
pub enum HeaderError {
    /// It cannot be read.
    #[snafu(display("failed to read {}: {source}", path.display()))]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// It is no qcow2 image, or a broken one.
    #[snafu(display("{} is no sound qcow2 image: {reason}", path.display()))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// It asks for features that cannot be honoured.
    #[snafu(display("{} is refused: {reason}", path.display()))]
    Refused {
        /// The file.
        path: PathBuf,
        /// Which and why.
        reason: String,
    },
    /// Its backing reference is not the one that the record demands.
    #[snafu(display("{} has the backing file {found}, but it must be {expected}", path.display()))]
    Backing {
        /// The file.
        path: PathBuf,
        /// As it stands there.
        found: String,
        /// From the record.
        expected: String,
    },
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// The backing format and whether a data file is named.
fn extensions(bytes: &[u8], mut at: usize) -> Result<(Option<String>, bool), &'static str> {
    let (mut format, mut data_file) = (None, false);
    loop {
        let kind = be32(bytes, at).ok_or("its header extensions run out of the first cluster")?;
        let length =
            be32(bytes, at + 4).ok_or("its header extensions run out of the first cluster")? as usize;
        if kind == EXTENSION_END {
            return Ok((format, data_file));
        }
        let body = bytes.get(at + 8..).and_then(|rest| rest.get(..length));
        let body = body.ok_or("a header extension is longer than the first cluster")?;
        match kind {
            EXTENSION_BACKING_FORMAT => {
                let text = std::str::from_utf8(body).map_err(|_| "its backing format is no text")?;
                format = Some(text.to_owned());
            }
            EXTENSION_DATA_FILE => data_file = true,
            _ => {}
        }
        // Bounded: `length` fits into the first cluster, which is 2 MiB at most.
        at += 8 + length.next_multiple_of(8);
    }
}

fn parse(bytes: &[u8]) -> Result<Header, &'static str> {
    let short = "it is shorter than a header";
    ensure_that(bytes.len() >= V2_LENGTH, short)?;
    ensure_that(bytes.starts_with(MAGIC), "the magic number is missing")?;
    let version = be32(bytes, 4).ok_or(short)?;
    let cluster_bits = be32(bytes, 20).ok_or(short)?;
    let size = be64(bytes, 24).ok_or(short)?;
    ensure_that(version == 2 || version == 3, "its version is neither 2 nor 3")?;
    ensure_that((9..=21).contains(&cluster_bits), "its cluster size is out of range")?;
    let (features, header_length) = match version {
        2 => (0, V2_LENGTH),
        _ => (be64(bytes, 72).ok_or(short)?, be32(bytes, 100).ok_or(short)? as usize),
    };
    let first_cluster = &bytes[..bytes.len().min(1 << cluster_bits)];
    ensure_that(version == 2 || header_length >= 104, "its header is too short for version 3")?;
    ensure_that(header_length < first_cluster.len(), "its header is longer than the first cluster")?;

    let offset = usize::try_from(be64(bytes, 8).ok_or(short)?).unwrap_or(usize::MAX);
    let length = be32(bytes, 16).ok_or(short)? as usize;
    let backing_file = match offset {
        0 => None,
        _ => {
            ensure_that(
                (1..=MAX_BACKING_NAME).contains(&length),
                "its backing file name is empty or too long",
            )?;
            let name = first_cluster.get(offset..).and_then(|rest| rest.get(..length));
            let name = name.ok_or("its backing file name lies outside of the first cluster")?;
            Some(std::str::from_utf8(name).map_err(|_| "its backing file name is no text")?.to_owned())
        }
    };
    let (backing_format, data_file) = extensions(first_cluster, header_length)?;
    Ok(Header {
        version,
        size,
        cluster_bits,
        backing_file,
        backing_format,
        external_data: data_file || features & DATA_FILE != 0,
        encrypted: be32(bytes, 32).ok_or(short)? != 0,
        dirty: features & DIRTY != 0,
        corrupt: features & CORRUPT != 0,
        unknown_features: features & !KNOWN,
    })
}

fn ensure_that(holds: bool, reason: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(reason) }
}

fn read_start(path: &Path, length: usize) -> std::io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut bytes[filled..], filled as u64)? {
            0 => break,
            n => filled += n,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

impl Header {
    /// Reads the header of a qcow2 file.
    pub fn read(path: &Path) -> Result<Header, HeaderError> {
        // The header lies in the first cluster: 64 KiB by default, 2 MiB at most.
        let mut bytes = read_start(path, 64 << 10).context(ReadSnafu { path })?;
        let cluster = be32(&bytes, 20).filter(|bits| (17..=21).contains(bits));
        if let Some(bits) = cluster {
            bytes = read_start(path, 1 << bits).context(ReadSnafu { path })?;
        }
        parse(&bytes).map_err(|reason| MalformedSnafu { path, reason }.build())
    }
}

/// Reads the header of a qcow2 layer and holds it to the record: the backing file has exactly this
/// relative name and format (or there is none), the data is in this file, and every feature is known.
pub fn verify(path: &Path, backing: Option<(&str, Format)>) -> Result<Header, HeaderError> {
    let header = Header::read(path)?;
    let refused = |reason: &str| RefusedSnafu { path, reason }.fail();
    if header.external_data {
        return refused("its data is in another file (external data file)");
    }
    if header.unknown_features != 0 {
        return refused(&format!(
            "it uses unknown features (incompatible bits {:#x})",
            header.unknown_features
        ));
    }
    if header.corrupt {
        return refused("QEMU has marked it as corrupt; run qemu-img check on it");
    }
    let describe = |file: Option<&str>, format: Option<&str>| match (file, format) {
        (None, _) => "none".to_owned(),
        (Some(file), None) => format!("{file:?} of no stated format"),
        (Some(file), Some(format)) => format!("{file:?} of format {format}"),
    };
    let expected = (backing.map(|(name, _)| name), backing.map(|(_, format)| format.driver()));
    // Without a backing file its format says nothing: QEMU leaves a stale one behind.
    let found_format = header.backing_file.as_ref().and(header.backing_format.as_deref());
    let found = (header.backing_file.as_deref(), found_format);
    ensure!(
        found == expected,
        BackingSnafu { path, found: describe(found.0, found.1), expected: describe(expected.0, expected.1) }
    );
    Ok(header)
}

/// Whether a qcow2 file holds no cluster of its own: nothing was written to it, nor discarded, since it was made.
pub fn has_no_data(path: &Path) -> Result<bool, HeaderError> {
    let bytes = read_start(path, V2_LENGTH).context(ReadSnafu { path })?;
    let malformed = |reason: &'static str| MalformedSnafu { path, reason }.build();
    let short = || malformed("it is shorter than a header");
    Header::read(path)?;
    let entries = be32(&bytes, 36).ok_or_else(short)? as usize;
    let table = be64(&bytes, 40).ok_or_else(short)?;
    // The specification's bound: 32 MiB of table.
    if entries > (32 << 20) / 8 {
        return Err(malformed("its first-level table is too large"));
    }
    let mut level_one = vec![0; entries * 8];
    let file = File::open(path).context(ReadSnafu { path })?;
    file.read_exact_at(&mut level_one, table).context(ReadSnafu { path })?;
    Ok(level_one.iter().all(|byte| *byte == 0))
}

/// The virtual size of an image: a raw file's length, or what the qcow2 header says.
pub fn virtual_size(path: &Path, format: Format) -> Result<u64, HeaderError> {
    match format {
        Format::Raw => Ok(std::fs::metadata(path).context(ReadSnafu { path })?.len()),
        Format::Qcow2 => Ok(Header::read(path)?.size),
    }
}

/// The name by which `overlay` refers to `backing`: relative to the overlay's folder.
pub fn relative_name(overlay: &Path, backing: &Path) -> Option<String> {
    let from: Vec<_> = overlay.parent()?.components().collect();
    let to: Vec<_> = backing.components().collect();
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = std::iter::repeat_n(Path::new("..").as_os_str(), from.len() - common);
    let down = to[common..].iter().map(|part| part.as_os_str());
    let relative: PathBuf = up.chain(down).collect();
    relative.to_str().map(str::to_owned)
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
