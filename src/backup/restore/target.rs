//! Where a restore writes to. A new file has a name of its own until it is whole.

use super::guard::{self, Allowed, TargetKind};
use super::zeros::{Written, make_zero, runs};
use crate::backup::error::{BackupError, LockTargetSnafu, TargetSnafu, UnsafeTargetSnafu};
use crate::host::fsio::rename_new;
use crate::image::Format;
use crate::image::lock::ImageLock;
use imago::file::File as ImageFile;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder};
use rustix::fs::OFlags;
use snafu::{ResultExt, ensure};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Zeros are told from data in steps of this size: fine enough for the holes of a volume, coarse enough for few writes.
const RAW_GRAIN: u64 = 16 << 10;
/// qcow2's cluster: whatever is written to it, all of it is stored.
const QCOW2_GRAIN: u64 = 64 << 10;
/// Fewer zeros of an existing target are written like data: a hole costs a transaction of its filesystem.
const WORTH_A_HOLE: u64 = 128 << 10;

/// An open target. Written from several threads; dropped before `finish`, a new file disappears.
pub(super) struct Target {
    path: PathBuf,
    kind: TargetKind,
    /// The file under its temporary name; `None` when the target itself is written.
    staged: Option<PathBuf>,
    output: Output,
    /// Held on a file that is overwritten, so that no QEMU opens it meanwhile.
    _lock: Option<ImageLock>,
}

enum Output {
    Raw(File),
    Qcow2(FormatAccess<ImageFile>),
}

impl Target {
    /// Opens the target of a restore of `size` bytes, or of a part of them that ends at `end`. Nothing of an
    /// existing one is changed yet.
    pub fn open(
        target: &Path,
        format: Format,
        allowed: Allowed,
        size: u64,
        end: Option<u64>,
    ) -> Result<Self, BackupError> {
        let (path, kind) = guard::check(target, allowed)?;
        let reason = "a block device takes raw bytes only, not --to-format qcow2";
        let device = kind == TargetKind::BlockDevice;
        ensure!(!(device && format == Format::Qcow2), UnsafeTargetSnafu { path: target, reason });
        let lock = match kind {
            TargetKind::File => Some(ImageLock::write(&path).context(LockTargetSnafu { path: target })?),
            _ => None,
        };
        if kind != TargetKind::New && format == Format::Raw {
            let file = open_existing(&path, device, end.unwrap_or(size))?;
            return Ok(Target { path, kind, staged: None, output: Output::Raw(file), _lock: lock });
        }
        let reason = "only a part of it was asked for, and a qcow2 file is replaced as a whole: restore into a new one";
        ensure!(kind == TargetKind::New || end.is_none(), UnsafeTargetSnafu { path: target, reason });
        // A qcow2 in place is replaced as a whole: its old clusters are worth nothing.
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = name.trim_start_matches('.');
        let staged = guard::folder(&path)?.join(format!(".{name}.restore-{}.tmp", Uuid::new_v4()));
        let failed = TargetSnafu { operation: "making", path: &staged };
        let options = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&staged);
        let file = options.context(failed)?;
        let cleanup = Cleanup(Some(staged.clone()));
        let output = match format {
            Format::Raw => file.set_len(size).map(|()| Output::Raw(file)),
            Format::Qcow2 => create_qcow2(file, size).map(Output::Qcow2),
        }
        .context(failed)?;
        cleanup.keep();
        Ok(Target { path, kind, staged: Some(staged), output, _lock: lock })
    }

    /// Writes bytes. Zeros of a new file are left out, those of an existing one are punched where they are many.
    pub fn write_at(&self, data: &[u8], offset: u64) -> Result<Written, BackupError> {
        let failed = TargetSnafu { operation: "writing to", path: &self.path };
        let mut written = Written::default();
        for (run, zeros) in runs(data, offset, self.grain()) {
            let bytes = (run.end - run.start) as u64;
            let at = offset + run.start as u64;
            if zeros && (self.staged.is_some() || bytes >= WORTH_A_HOLE) {
                written.zeros += self.zero(at..at + bytes)?;
            } else {
                self.put(&data[run], at).context(failed)?;
                written.data += bytes;
            }
        }
        Ok(written)
    }

    /// Makes a range zeros. Answers how many bytes had to be touched for it: none of a new file.
    pub fn zero(&self, range: Range<u64>) -> Result<u64, BackupError> {
        let (None, Output::Raw(file)) = (&self.staged, &self.output) else { return Ok(0) };
        let failed = TargetSnafu { operation: "zeroing a part of", path: &self.path };
        make_zero(file, range.clone()).context(failed)?;
        Ok(range.end - range.start)
    }

    fn grain(&self) -> u64 {
        match self.output {
            Output::Raw(_) => RAW_GRAIN,
            Output::Qcow2(_) => QCOW2_GRAIN,
        }
    }

    fn put(&self, data: &[u8], offset: u64) -> io::Result<()> {
        match &self.output {
            Output::Raw(file) => file.write_all_at(data, offset),
            Output::Qcow2(image) => image.write(data, offset),
        }
    }

    /// Makes all of it durable, and gives a new file its name.
    pub fn finish(mut self) -> Result<(), BackupError> {
        let failed = TargetSnafu { operation: "finishing", path: self.path.clone() };
        match &self.output {
            Output::Raw(file) => file.sync_all(),
            Output::Qcow2(image) => image.flush().and_then(|()| image.sync()),
        }
        .context(failed.clone())?;
        let Some(staged) = self.staged.clone() else { return Ok(()) };
        match self.kind {
            TargetKind::New => rename_new(&staged, &self.path),
            _ => fs::rename(&staged, &self.path),
        }
        .context(failed.clone())?;
        self.staged = None;
        File::open(guard::folder(&self.path)?).and_then(|dir| dir.sync_all()).context(failed)
    }

    /// Whether an interrupted restore has changed what was there before.
    pub fn is_in_place(&self) -> bool {
        self.staged.is_none()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        Cleanup(self.staged.take());
    }
}

/// Removes a file unless it was kept.
struct Cleanup(Option<PathBuf>);

impl Cleanup {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // Nobody is left to tell; the name says what it is.
            let _ = fs::remove_file(path);
        }
    }
}

fn open_existing(path: &Path, device: bool, size: u64) -> Result<File, BackupError> {
    let failed = TargetSnafu { operation: "opening", path };
    // On a block device O_EXCL asks the kernel for it alone, until it is closed.
    let flags = if device { OFlags::EXCL } else { OFlags::empty() };
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags.bits() as i32).open(path);
    let mut file = match opened {
        Err(e) if device => match guard::busy_device(path, &e) {
            Some(busy) => return Err(busy),
            None => return Err(e).context(failed),
        },
        other => other.context(failed)?,
    };
    let room = file.seek(SeekFrom::End(0)).context(failed)?;
    let reason = format!("it has {room} bytes, the volume has {size}");
    ensure!(room >= size, UnsafeTargetSnafu { path, reason });
    Ok(file)
}

fn create_qcow2(file: File, size: u64) -> io::Result<FormatAccess<ImageFile>> {
    let storage = ImageFile::try_from(file)?;
    let image = Qcow2::<ImageFile>::create_builder(storage)
        .size(size)
        .create_open(DenyImplicitOpenGate::default(), |storage| {
            Ok(Qcow2::<ImageFile>::builder(storage).backing(None).write(true))
        })?;
    Ok(FormatAccess::new(image))
}
