//! What all tools can do.

use crate::measure::Cost;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// The kind of store that a tool writes to: only like is compared with like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    Directory,
    S3,
}

/// What is to be backed up now: the same bytes for all.
pub struct Data {
    /// A raw file.
    pub image: PathBuf,
    /// As a snapshot of a volume on a share.
    pub snapshot: String,
    /// That share.
    pub share: String,
}

/// What one backup did.
#[derive(Clone, Debug, Default)]
pub struct Made {
    pub cost: Cost,
    /// Bytes by which the repository grew.
    pub stored: u64,
    /// Of those: not the volume's data, but digests and descriptions, where they are apart.
    pub about: u64,
    /// Bytes read of the volume, where the tool tells.
    pub read: Option<u64>,
}

pub trait Tool {
    fn name(&self) -> &str;
    fn store(&self) -> Store;
    /// One of those that the product is compared with.
    fn is_peer(&self) -> bool;
    /// Removes what was backed up, and begins an empty repository.
    fn reset(&mut self) -> Result<()>;
    /// Backs up, on what was backed up before if there is something.
    fn backup(&mut self, data: &Data) -> Result<Made>;
    /// Restores the last backup into a folder that is empty; answers the file.
    fn restore(&mut self, into: &Path) -> Result<(Cost, PathBuf)>;
}

/// An empty folder in the place of another one.
pub fn emptied(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    Ok(std::fs::create_dir_all(folder)?)
}
