//! Chains as the headers tell them, for folders whose record is not there or not to be trusted.
//!
//! Nothing is probed: the format of a chain's top comes from the caller, that of each file below from the header of the
//! one that stands on it. So a raw disk whose guest wrote a qcow2 header into it is never taken for an overlay.

use super::id::VolumeId;
use crate::image::Format;
use crate::image::header::{self, Header};
use std::path::Path;

/// More files than any chain has.
const MAX: usize = 1024;

/// What a file stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Below {
    /// A file of the same folder.
    Here(String),
    /// A file in another volume's folder.
    Other(VolumeId, String),
}

/// A file of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) file: String,
    pub(super) format: Format,
    /// Virtual size in bytes.
    pub(super) size: u64,
    pub(super) below: Option<Below>,
    /// As this file's header says.
    pub(super) below_format: Option<Format>,
}

/// The files of one folder from `top` down, as far as they lie in it. The error says what is wrong.
pub(super) fn walk(folder: &Path, top: &str, format: Format) -> Result<Vec<Found>, String> {
    let mut chain: Vec<Found> = Vec::new();
    let mut next = Some((top.to_owned(), format));
    while let Some((file, format)) = next {
        if chain.len() == MAX || chain.iter().any(|found| found.file == file) {
            return Err(format!("{file} stands on itself"));
        }
        let found = look(folder, file, format)?;
        next = match (&found.below, found.below_format) {
            (Some(Below::Here(below)), Some(format)) => Some((below.clone(), format)),
            _ => None,
        };
        chain.push(found);
    }
    Ok(chain)
}

/// One file, of a known format.
pub(super) fn look(folder: &Path, file: String, format: Format) -> Result<Found, String> {
    let path = folder.join(&file);
    if !path.is_file() {
        return Err(format!("{file} is not there"));
    }
    let size = header::virtual_size(&path, format).map_err(|error| error.to_string())?;
    let mut found = Found { file, format, size, below: None, below_format: None };
    if format == Format::Raw {
        return Ok(found);
    }
    let header = Header::read(&path).map_err(|error| error.to_string())?;
    let file = &found.file;
    if header.external_data {
        return Err(format!("{file} keeps its data in another file (external data file)"));
    }
    if header.encrypted {
        return Err(format!("{file} is encrypted"));
    }
    if header.corrupt || header.unknown_features != 0 {
        return Err(format!("{file} is marked as corrupt, or uses unknown features"));
    }
    if let Some(name) = header.backing_file {
        let below = below(&name).ok_or_else(|| {
            format!("{file} stands on {name:?}, which is no file of this or another volume")
        })?;
        found.below_format = Some(match header.backing_format.as_deref() {
            Some("raw") => Format::Raw,
            Some("qcow2") => Format::Qcow2,
            other => {
                return Err(format!("{file} does not say whether {name} is raw or qcow2, but {other:?}"));
            }
        });
        found.below = Some(below);
    }
    Ok(found)
}

/// `volume-…`, or `../<volume-id>/volume-…`.
pub(super) fn below(name: &str) -> Option<Below> {
    let plain = |file: &str| super::record::plain_file_name(file).then(|| file.to_owned());
    match name.strip_prefix("../") {
        None => plain(name).map(Below::Here),
        Some(rest) => {
            let (volume, file) = rest.split_once('/')?;
            Some(Below::Other(volume.parse().ok()?, plain(file)?))
        }
    }
}
