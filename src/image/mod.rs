//! Image files, qcow2 and raw: made, checked, converted, locked and read, their formats always explicit.

mod convert;
mod format;
pub mod header;
pub mod lock;
pub mod qemu_img;
pub mod raw;
mod read;
mod written;

pub use convert::Convert;
pub use format::{Format, ImageRef};
pub use qemu_img::QemuImg;
pub use read::{ChainReader, ImageExtent, ReadError};
pub use written::written;
