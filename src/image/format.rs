//! The two formats, and an image whose format is known from the record and never probed.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// An image format. No other one is ever opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Plain bytes.
    Raw,
    /// QEMU's copy-on-write format, version 3.
    Qcow2,
}

impl Format {
    /// QEMU's name of the block driver.
    pub fn driver(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.driver())
    }
}

/// One file of a chain. A chain is a slice of these, the top (active) image first, the bottom last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRef {
    /// Absolute path.
    pub path: PathBuf,
    /// From the record.
    pub format: Format,
}
