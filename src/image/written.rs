//! What one layer wrote by itself, whatever lies under it.

use super::read::{ChainMismatchSnafu, ExternalDataSnafu, OpenImageSnafu, ReadError, ReadImageSnafu};
use super::{Format, ImageRef};
use imago::file::File as ImageFile;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, ShallowMapping};
use snafu::{ResultExt, ensure};
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

/// Calls `each` with the parts of the disk that this overlay decides itself, ascending: clusters that it stores, and
/// those that it makes zero (writes of zeros, discards). What is left reads as the layer under it does. Reads metadata
/// alone; answers the disk's size.
///
/// Of an image that stands on nothing this would not be what changed (there, and there alone, a discard leaves no trace
/// in an image of compat=0.10): so a raw image or one without a backing file is refused.
pub fn written(image: &ImageRef, mut each: impl FnMut(Range<u64>)) -> Result<u64, ReadError> {
    let path = &image.path;
    let reason = "it stands on nothing, so that all of it is its own";
    ensure!(image.format == Format::Qcow2, ChainMismatchSnafu { path, reason });
    let cannot_open = OpenImageSnafu { path, format: image.format };
    let file = File::open(path).context(cannot_open)?;
    let storage = ImageFile::try_from(file).context(cannot_open)?;
    let overlay = Qcow2::<ImageFile, Arc<FormatAccess<ImageFile>>>::builder(storage)
        .write(false)
        // Left out: what is not the overlay's own shows as zeros that nobody has written.
        .backing(None)
        .data_file(None)
        .open(DenyImplicitOpenGate::default())
        .context(cannot_open)?;
    ensure!(!overlay.requires_external_data_file(), ExternalDataSnafu { path });
    ensure!(overlay.implicit_backing_file().is_some(), ChainMismatchSnafu { path, reason });
    let overlay = FormatAccess::new(overlay);
    let size = overlay.size();
    let mut offset = 0;
    while offset < size {
        let mapping = overlay.get_shallow_mapping(offset, size - offset);
        let (mapping, length) = mapping.context(ReadImageSnafu { path, offset })?;
        let next = offset + length.clamp(1, size - offset);
        if !matches!(mapping, ShallowMapping::Zero { explicit: false, .. }) {
            each(offset..next);
        }
        offset = next;
    }
    Ok(size)
}
