//! Export: a disk, whatever its chain, flat in one file or one object (G13).
//!
//! Nothing half is ever under the wanted name: a file has a name of its own until it is whole, an object is a
//! multipart upload until then.

mod file;
mod object;
mod walk;

use super::error::QemuImgSnafu;
use super::progress::{Cancel, Progress};
use super::store::ObjectBacked;
use super::{BackupError, SnapshotSource, blocking};
use crate::image::{ChainReader, Convert, Format, ImageRef, QemuImg};
use file::Staged;
use serde::Serialize;
use snafu::ResultExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use walk::Walk;

/// What is exported, and how.
#[derive(Clone)]
pub struct Export {
    /// The disk.
    pub source: Arc<dyn SnapshotSource>,
    /// Its images, top first, for qemu-img.
    pub chain: Vec<ImageRef>,
    /// The program `qemu-img`.
    pub qemu_img: PathBuf,
    /// The format to write.
    pub format: Format,
    /// With compressed clusters, qcow2 only.
    pub compress: bool,
    /// Replace what has that name.
    pub force: bool,
}

/// What was exported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// The file or object.
    pub to: String,
    /// Its format.
    pub format: Format,
    /// The disk's size in bytes.
    pub size: u64,
    /// Bytes of the file or object.
    pub bytes: u64,
    /// Bytes that a file takes up: fewer, where it has holes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocated: Option<u64>,
    /// Of all of its bytes.
    pub sha256: String,
    /// How long it took.
    pub milliseconds: u64,
}

impl Export {
    /// Writes a file. One that is there is replaced, whole, with `force` only.
    pub async fn to_file(
        &self,
        path: &Path,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Exported, BackupError> {
        let (begun, size) = (Instant::now(), self.source.size());
        let (this, path) = (self.clone(), path.to_owned());
        let (progress, cancel) = (progress.clone(), cancel.clone());
        blocking(move || {
            let mut staged = Staged::beside(&path, this.force)?;
            let sha256 = this.fill(&mut staged, &progress, &cancel)?;
            let (bytes, allocated) = staged.finish()?;
            let to = path.display().to_string();
            let milliseconds = begun.elapsed().as_millis() as u64;
            let allocated = Some(allocated);
            Ok(Exported { to, format: this.format, size, bytes, allocated, sha256, milliseconds })
        })
        .await
    }

    /// Uploads an object. One that is there is replaced with `force` only.
    pub async fn to_object(
        &self,
        store: &ObjectBacked,
        key: &str,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Exported, BackupError> {
        let (begun, size) = (Instant::now(), self.source.size());
        object::refuse_existing(store, key, self.force).await?;
        let uploaded = match self.format {
            Format::Raw => object::upload(store, key, Arc::clone(&self.source), progress, cancel).await?,
            Format::Qcow2 => {
                // A qcow2 image is not written from its first byte to its last: it is made here first.
                let (this, progress_, cancel_) = (self.clone(), progress.clone(), cancel.clone());
                let staged = blocking(move || {
                    let mut staged = Staged::temporary()?;
                    this.fill(&mut staged, &progress_, &cancel_)?;
                    Ok(staged)
                })
                .await?;
                let image = ImageRef { path: staged.path().to_owned(), format: Format::Raw };
                let bytes = ChainReader::open(&[image])?;
                object::upload(store, key, Arc::new(bytes), &Progress::default(), cancel).await?
            }
        };
        let (to, milliseconds) = (store.url_of(key), begun.elapsed().as_millis() as u64);
        let (bytes, sha256) = (uploaded.bytes, uploaded.sha256);
        Ok(Exported { to, format: self.format, size, bytes, allocated: None, sha256, milliseconds })
    }

    /// Writes the disk into a new file, and answers the file's digest.
    fn fill(&self, staged: &mut Staged, progress: &Progress, cancel: &Cancel) -> Result<String, BackupError> {
        progress.set_total(self.source.size());
        match self.format {
            Format::Raw => {
                staged.set_len(self.source.size())?;
                let mut walk = Walk::new(&*self.source, progress, cancel);
                while let Some(piece) = walk.step()? {
                    staged.write(piece.data, piece.offset)?;
                }
                Ok(walk.digest())
            }
            Format::Qcow2 => {
                let convert = Convert {
                    chain: &self.chain,
                    to: staged.path(),
                    format: self.format,
                    compress: self.compress,
                    made: false,
                };
                let mut done = 0;
                let converted = QemuImg::new(self.qemu_img.clone()).convert_watched(&convert, &mut |part| {
                    let now = (part * self.source.size() as f64) as u64;
                    progress.add_done(now.saturating_sub(done));
                    done = done.max(now);
                    cancel.check().is_ok() && !self.source.is_lost()
                });
                cancel.check()?;
                walk::still_held(&*self.source)?;
                converted.context(QemuImgSnafu)?;
                walk::digest_of_file(staged.path(), cancel)
            }
        }
    }
}
