//! Reads a chain of images as one disk. Formats come from the caller, nothing is probed, nothing is
//! opened that the caller did not name, and nothing is written.

use super::{Format, ImageRef};
use imago::file::File as ImageFile;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, ShallowMapping};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use snafu::{OptionExt, ResultExt, Snafu, ensure};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a chain cannot be opened or read.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub))]
pub enum ReadError {
    /// A chain of no images.
    #[snafu(display("a chain has at least one image"))]
    EmptyChain,
    /// The file cannot be opened, or is no image of that format.
    #[snafu(display("{} cannot be opened as {format}: {source}", path.display()))]
    OpenImage {
        /// Which.
        path: PathBuf,
        /// As what.
        format: Format,
        /// Why.
        source: io::Error,
    },
    /// Its data is in a file that nobody named.
    #[snafu(display("{} keeps its data in an external file, which is never opened", path.display()))]
    ExternalData {
        /// Which.
        path: PathBuf,
    },
    /// The header and the chain disagree on whether there is something below.
    #[snafu(display("{}: {reason}", path.display()))]
    ChainMismatch {
        /// Which.
        path: PathBuf,
        /// In which way.
        reason: String,
    },
    /// A read failed.
    #[snafu(display("reading {} at {offset} failed: {source}", path.display()))]
    ReadImage {
        /// The top image.
        path: PathBuf,
        /// Where in the disk.
        offset: u64,
        /// Why.
        source: io::Error,
    },
}

/// A part of the disk that is all of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageExtent {
    /// Which bytes of the disk.
    pub range: Range<u64>,
    /// False: they read as zeros, and no layer stores them.
    pub data: bool,
}

struct Layer {
    access: Arc<FormatAccess<ImageFile>>,
    /// The raw file itself: imago takes all of it for data, its holes are asked of the kernel.
    raw: Option<File>,
}

/// An open chain, read as one disk.
pub struct ChainReader {
    /// The top image first.
    layers: Vec<Layer>,
    path: PathBuf,
    size: u64,
}

impl ChainReader {
    /// Opens a chain, the top image first, every format explicit. The header of each image but the
    /// last must name a backing file, the last one's must not.
    pub fn open(chain: &[ImageRef]) -> Result<Self, ReadError> {
        let top = chain.first().context(EmptyChainSnafu)?;
        let mut layers: Vec<Layer> = Vec::with_capacity(chain.len());
        for image in chain.iter().rev() {
            let below = layers.last().map(|layer| Arc::clone(&layer.access));
            layers.push(open_layer(image, below)?);
        }
        layers.reverse();
        let size = layers[0].access.size();
        Ok(ChainReader { layers, path: top.path.clone(), size })
    }

    /// The disk's size in bytes: the top image's.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buffer` from `offset`; unallocated parts are zeros. Past the end is an error.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), ReadError> {
        let past_end = || io::Error::new(io::ErrorKind::UnexpectedEof, "past the end of the disk");
        let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.size);
        end.ok_or_else(past_end)
            .and_then(|_| self.layers[0].access.read(buffer, offset))
            .context(ReadImageSnafu { path: &self.path, offset })
    }

    /// What is stored, and what is zeros, in `range`: neighbouring extents of alternating kinds.
    pub fn extents(&self, range: Range<u64>) -> Result<Vec<ImageExtent>, ReadError> {
        let mut extents: Vec<ImageExtent> = Vec::new();
        let mut offset = range.start;
        let end = range.end.min(self.size);
        while offset < end {
            let (data, length) =
                self.extent_at(offset, end - offset).context(ReadImageSnafu { path: &self.path, offset })?;
            let next = offset + length.clamp(1, end - offset);
            match extents.last_mut().filter(|last| last.data == data) {
                Some(last) => last.range.end = next,
                None => extents.push(ImageExtent { range: offset..next, data }),
            }
            offset = next;
        }
        Ok(extents)
    }

    fn extent_at(&self, mut offset: u64, mut length: u64) -> io::Result<(bool, u64)> {
        for layer in &self.layers {
            let (mapping, found) = layer.access.get_shallow_mapping(offset, length)?;
            match mapping {
                ShallowMapping::Indirect { offset: below, .. } => (offset, length) = (below, found),
                ShallowMapping::Zero { .. } => return Ok((false, found)),
                ShallowMapping::Eof { .. } => return Ok((false, length)),
                ShallowMapping::Raw { .. } => {
                    return match &layer.raw {
                        Some(file) => raw_extent(file, offset, found),
                        None => Ok((true, found)),
                    };
                }
                _ => return Ok((true, found)),
            }
        }
        // Below the last layer there is nothing: it was opened with no backing file.
        Ok((false, length))
    }
}

fn open_layer(image: &ImageRef, below: Option<Arc<FormatAccess<ImageFile>>>) -> Result<Layer, ReadError> {
    let path = &image.path;
    let cannot_open = OpenImageSnafu { path, format: image.format };
    let file = File::open(path).context(cannot_open)?;
    match image.format {
        Format::Raw => {
            let reason = "a raw image has nothing below it";
            ensure!(below.is_none(), ChainMismatchSnafu { path, reason });
            let raw = file.try_clone().context(cannot_open)?;
            let storage = ImageFile::try_from(file).context(cannot_open)?;
            let image = Raw::builder(storage).write(false).open(DenyImplicitOpenGate::default());
            let access = Arc::new(FormatAccess::new(image.context(cannot_open)?));
            Ok(Layer { access, raw: Some(raw) })
        }
        Format::Qcow2 => {
            let has_below = below.is_some();
            let storage = ImageFile::try_from(file).context(cannot_open)?;
            let image = Qcow2::<ImageFile, Arc<FormatAccess<ImageFile>>>::builder(storage)
                .write(false)
                .backing(below)
                .data_file(None)
                .open(DenyImplicitOpenGate::default())
                .context(cannot_open)?;
            ensure!(!image.requires_external_data_file(), ExternalDataSnafu { path });
            let reason = match (image.implicit_backing_file(), has_below) {
                (Some(name), false) => format!("it lies on {name:?}, which the chain leaves out"),
                (None, true) => "it names no backing file, but the chain has one below it".to_owned(),
                _ => return Ok(Layer { access: Arc::new(FormatAccess::new(image)), raw: None }),
            };
            ChainMismatchSnafu { path, reason }.fail()
        }
    }
}

/// The extent of a raw file at `offset`, from its holes; no more than `length` bytes.
fn raw_extent(file: &File, offset: u64, length: u64) -> io::Result<(bool, u64)> {
    let data = match seek(file, SeekFrom::Data(offset)) {
        Ok(at) => at,
        Err(Errno::NXIO) => return Ok((false, length)),
        // A filesystem without hole reporting: all is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((true, length)),
        Err(e) => return Err(e.into()),
    };
    if data > offset {
        return Ok((false, (data - offset).min(length)));
    }
    let hole = seek(file, SeekFrom::Hole(offset))?;
    Ok((true, hole.saturating_sub(offset).min(length)))
}
