//! The file that an export writes: under a name of the job's own until it is whole.

use super::super::BackupError;
use super::super::error::{TargetSnafu, UnsafeTargetSnafu};
use super::super::restore::guard::{self, Allowed, TargetKind};
use super::super::window::is_zero;
use crate::host::fsio::rename_new;
use snafu::{ResultExt, ensure};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Zeros are left out in steps of this size: the block of most filesystems is smaller, of none larger.
const HOLE: usize = 64 << 10;

/// A new file; gone when dropped before it is finished.
pub(super) struct Staged {
    file: File,
    path: PathBuf,
    /// What it is to be named, and whether that name is taken and to be replaced.
    target: Option<(PathBuf, bool)>,
}

impl Staged {
    /// In the folder of `target`, which it becomes.
    pub fn beside(target: &Path, force: bool) -> Result<Self, BackupError> {
        let reason = "it exists already; --force replaces it";
        ensure!(force || fs::symlink_metadata(target).is_err(), UnsafeTargetSnafu { path: target, reason });
        let (path, kind) = guard::check(target, Allowed { in_place: true, to_share: false })?;
        let reason = "it is a block device; an export makes files";
        ensure!(kind != TargetKind::BlockDevice, UnsafeTargetSnafu { path: target, reason });
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let staged = guard::folder(&path)?.join(format!(".{name}.export-{}", Uuid::new_v4()));
        Self::create(staged, Some((path, kind == TargetKind::File)))
    }

    /// That is read and then goes.
    pub fn temporary() -> Result<Self, BackupError> {
        Self::create(std::env::temp_dir().join(format!("strata-export-{}", Uuid::new_v4())), None)
    }

    fn create(path: PathBuf, target: Option<(PathBuf, bool)>) -> Result<Self, BackupError> {
        let failed = TargetSnafu { operation: "making", path: &path };
        let options = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        Ok(Staged { file: options.context(failed)?, path, target })
    }

    /// Where it is written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn set_len(&self, size: u64) -> Result<(), BackupError> {
        self.file.set_len(size).context(TargetSnafu { operation: "sizing", path: &self.path })
    }

    /// Writes bytes; zeros are left out.
    pub fn write(&mut self, data: &[u8], offset: u64) -> Result<(), BackupError> {
        let failed = TargetSnafu { operation: "writing to", path: &self.path };
        let mut start = 0;
        for run in data.chunks(HOLE) {
            if !is_zero(run) {
                self.file.write_all_at(run, offset + start as u64).context(failed)?;
            }
            start += run.len();
        }
        Ok(())
    }

    /// Makes it durable and gives it its name. Answers its bytes, and those that it takes up.
    pub fn finish(mut self) -> Result<(u64, u64), BackupError> {
        let failed = TargetSnafu { operation: "finishing", path: self.path.clone() };
        self.file.sync_all().context(failed.clone())?;
        let meta = self.file.metadata().context(failed.clone())?;
        let Some((target, replaces)) = self.target.take() else {
            return Ok((meta.len(), meta.blocks() * 512));
        };
        if replaces { fs::rename(&self.path, &target) } else { rename_new(&self.path, &target) }
            .context(failed.clone())?;
        self.path = PathBuf::new();
        File::open(guard::folder(&target)?).and_then(|folder| folder.sync_all()).context(failed)?;
        Ok((meta.len(), meta.blocks() * 512))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Empty once it has its name. Nobody is left to tell; what stays says by its name what it is.
        if !self.path.as_os_str().is_empty() {
            let _ = fs::remove_file(&self.path);
        }
    }
}
