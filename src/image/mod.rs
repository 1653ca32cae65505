//! Image files, qcow2 and raw: made, checked, converted, locked and read, their formats always explicit.

mod format;

pub use format::{Format, ImageRef};
