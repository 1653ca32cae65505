//! Import: a file becomes a volume (K8). The copy is a frozen layer with an overlay on it, so that the volume's first
//! backup has a delta to begin with.
//!
//! The volume's lock is held until the data is complete: nobody has a use for it before, and whoever gets the lock later
//! knows that nobody copies any more. Then the same command goes on with what is there, or begins anew.

use super::chain::relative;
use super::error::*;
use super::id::{LayerId, VolumeId};
use super::provision::{begin, make_folder, whole_gib};
use super::record::{Imported, Layer, ParentLayer, State};
use super::steps::{Step, reached};
use super::store::{Locked, exists};
use super::view::{CreateVolume, VolumeKind, VolumeView};
use super::volumes::Volumes;
use crate::image::header::{self, Header};
use crate::image::lock::ImageLock;
use crate::image::qemu_img::{Create, Preallocation};
use crate::image::{Convert, Format, ImageRef, QemuImg};
use sha2::{Digest, Sha256};
use snafu::{ResultExt, ensure};
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// A file that is to become a volume.
#[derive(Clone, Debug)]
pub struct ImportFile {
    /// The volume's name: the key of idempotency.
    pub name: String,
    /// The file, which is only read.
    pub file: PathBuf,
    /// The file's format, never probed.
    pub format: Format,
    /// The layout of the volume's base.
    pub kind: VolumeKind,
}

/// The file, opened and looked at.
struct Origin {
    image: ImageRef,
    size: u64,
    meta: Metadata,
    /// Keeps every QEMU from writing to it.
    _lock: ImageLock,
}

impl Volumes {
    /// Makes a volume from a file, or finds the one that an earlier call made from the same one. `go_on` hears which part
    /// is done; at its first "no", and on every error, what was begun is removed. None: it was stopped.
    pub fn import(
        &self,
        request: &ImportFile,
        go_on: &mut dyn FnMut(f64) -> bool,
    ) -> Result<Option<VolumeView>, Error> {
        let (id, name) = (VolumeId::from_name(&request.name), &request.name);
        let name_fine = (1..=128).contains(&name.len()) && !name.chars().any(char::is_control);
        let reason = "a name has 1 to 128 bytes and no control characters";
        ensure!(name_fine, InvalidSnafu { reason });
        let origin = open(request)?;
        let capacity = whole_gib(origin.size)?;
        let Some(imported) = digest(&origin, go_on)? else { return Ok(None) };
        let request_ = CreateVolume {
            name: name.clone(),
            required: Some(capacity),
            limit: None,
            kind: request.kind,
            source: None,
            parameters: Default::default(),
        };
        // Before the lock: it may read every record of the share.
        self.provisioned()?;
        let mut locked = self.lock_or_begin(id, || begin(id, &request_))?;
        let same = locked.record.imported.as_ref() == Some(&imported) && locked.record.kind == request.kind;
        let taken = |difference: &str| NameTakenSnafu { name, difference }.fail();
        match locked.record.state {
            State::Ready if same => return Ok(Some(self.view(&locked.record))),
            State::Ready if locked.record.imported.is_none() => return taken("it was not imported"),
            State::Ready => return taken("it was imported from another file, or as another kind"),
            State::Restoring => return taken("it is being restored"),
            State::Creating if locked.record.imported.is_none() => return taken("it is being made empty"),
            State::Creating if same => {}
            State::Creating | State::Deleted => {
                self.claim_room(id, capacity, self.to_be_written(&origin, request.kind, capacity)?)?;
                self.begin_import(&mut locked, &request_, capacity, imported)?
            }
        }
        reached(Step::ImportRecorded);
        let mut stopped = false;
        let filled = self.fill(&mut locked, &origin, &mut |part| {
            stopped = !go_on(0.5 + part / 2.0);
            !stopped
        });
        match filled {
            Ok(()) => Ok(Some(self.view(&locked.record))),
            Err(error) => {
                self.abandon(locked)?;
                if stopped { Ok(None) } else { Err(error) }
            }
        }
    }

    /// The bytes that the base will take up.
    fn to_be_written(&self, origin: &Origin, kind: VolumeKind, capacity: u64) -> Result<u64, Error> {
        if kind == VolumeKind::RawFull {
            return Ok(capacity);
        }
        let img = QemuImg::new(self.tools.qemu_img.clone());
        img.measure(std::slice::from_ref(&origin.image)).context(QemuImgSnafu)
    }

    /// Writes the record of an import: a base, and an overlay that will take the writes.
    fn begin_import(
        &self,
        locked: &mut Locked<'_>,
        request: &CreateVolume,
        capacity: u64,
        imported: Imported,
    ) -> Result<(), Error> {
        let id = locked.id();
        make_folder(&self.layout.volume(id))?;
        // What an import of another content has left, if this is not a new life.
        let stale = locked.record.incarnation;
        if locked.record.state == State::Creating {
            let (gone, kept) = locked.record.layers.drain(..).partition(|layer| layer.incarnation == stale);
            locked.record.layers = kept;
            let gone: Vec<Layer> = gone;
            locked.record.trash.extend(gone.into_iter().map(|layer| layer.file));
        }
        let fresh = begin(id, request);
        let (base, overlay) = (LayerId::random(), LayerId::random());
        let base_file = locked.fresh_file(format!("volume-{id}"))?;
        let overlay_file = locked.fresh_file(format!("volume-{id}.{overlay}"))?;
        let format = if request.kind == VolumeKind::Qcow2 { Format::Qcow2 } else { Format::Raw };
        let layer = |id, file, format, parent| Layer {
            id,
            incarnation: fresh.incarnation,
            file,
            format,
            size: capacity,
            parent,
            closed: false,
        };
        let record = &mut locked.record;
        record.layers.push(layer(base, base_file, format, None));
        let parent = Some(ParentLayer { volume: id, layer: base });
        record.layers.push(layer(overlay, overlay_file, Format::Qcow2, parent));
        record.active = Some(overlay);
        record.incarnation = fresh.incarnation;
        record.kind = request.kind;
        record.parameters = fresh.parameters;
        record.capacity = capacity;
        record.created_at = fresh.created_at;
        record.source = None;
        record.new = false;
        record.state = State::Creating;
        record.imported = Some(imported);
        record.restore = None;
        locked.commit()?;
        locked.empty_trash()
    }

    fn fill(
        &self,
        locked: &mut Locked<'_>,
        origin: &Origin,
        go_on: &mut dyn FnMut(f64) -> bool,
    ) -> Result<(), Error> {
        let overlay = locked.record.active_layer().expect("an import has an active layer").clone();
        let base = overlay.parent.and_then(|parent| locked.record.layer(parent.layer));
        let base = base.expect("the overlay of an import stands on its base").clone();
        // A file gets its final name only when it is complete.
        if !exists(&locked.image(&base.file))? {
            let full = locked.record.kind == VolumeKind::RawFull;
            let preallocation = if full { Preallocation::Full } else { Preallocation::Off };
            let create = Create { format: base.format, size: base.size, preallocation, backing: None };
            self.make_filled(locked, &base.file, &create, |temporary| {
                let chain = std::slice::from_ref(&origin.image);
                let copy = Convert { chain, to: temporary, format: base.format, compress: false, made: true };
                let img = QemuImg::new(self.tools.qemu_img.clone());
                img.convert_watched(&copy, go_on).context(QemuImgSnafu)?;
                origin.unchanged()
            })?;
        }
        reached(Step::ImportCopied);
        if !exists(&locked.image(&overlay.file))? {
            let name = relative(&locked.image(&overlay.file), &locked.image(&base.file));
            let create = Create {
                format: Format::Qcow2,
                size: overlay.size,
                preallocation: Preallocation::Off,
                backing: Some((name, base.format)),
            };
            self.make_image(locked, &overlay.file, &create)?;
        }
        reached(Step::ImportOverlaid);
        locked.record.state = State::Ready;
        locked.commit()?;
        locked.write_info()
    }

    /// Takes back what an import has begun.
    fn abandon(&self, mut locked: Locked<'_>) -> Result<(), Error> {
        let id = locked.id();
        locked.record.state = State::Deleted;
        locked.record.active = None;
        locked.record.imported = None;
        locked.commit()?;
        self.index.forget(id);
        drop(locked);
        self.sweep(id)
    }
}

impl Origin {
    /// Nobody wrote to the file while it was copied, as far as the file tells.
    fn unchanged(&self) -> Result<(), Error> {
        let path = &self.image.path;
        let now = std::fs::metadata(path).map_err(Error::io("stat", path))?;
        let look = |meta: &Metadata| (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec());
        let reason = format!("{} was changed while it was copied; nothing was imported", path.display());
        ensure!(look(&now) == look(&self.meta), InvalidSnafu { reason });
        Ok(())
    }
}

/// Opens the file, and refuses one whose data is not in it, or not to be read.
fn open(request: &ImportFile) -> Result<Origin, Error> {
    let path = request.file.canonicalize().map_err(Error::io("find", &request.file))?;
    let meta = std::fs::metadata(&path).map_err(Error::io("stat", &path))?;
    let shown = path.display();
    ensure!(meta.is_file(), InvalidSnafu { reason: format!("{shown} is no file") });
    let lock = ImageLock::read(&path).context(ImageLockSnafu)?;
    if request.format == Format::Qcow2 {
        let found = Header::read(&path).context(ImageHeaderSnafu)?;
        let refused = |reason: &str| InvalidSnafu { reason: format!("{shown} {reason}") }.fail();
        if let Some(backing) = &found.backing_file {
            return refused(&format!("stands on {backing:?}: flatten it first, by qemu-img convert"));
        }
        if found.external_data {
            return refused(
                "keeps its data in another file, which is never opened: qemu-img convert makes one file of it",
            );
        }
        if found.encrypted {
            return refused("is encrypted: decrypt it first, by qemu-img convert");
        }
        if found.corrupt || found.unknown_features != 0 {
            return refused("is marked as corrupt, or uses unknown features: run qemu-img check on it");
        }
    }
    let size = header::virtual_size(&path, request.format).context(ImageHeaderSnafu)?;
    ensure!(size > 0, InvalidSnafu { reason: format!("{shown} is empty") });
    Ok(Origin { image: ImageRef { path, format: request.format }, size, meta, _lock: lock })
}

/// The digest of the whole file; the first half of the way. None: it was stopped.
fn digest(origin: &Origin, go_on: &mut dyn FnMut(f64) -> bool) -> Result<Option<Imported>, Error> {
    let path = &origin.image.path;
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let (mut hash, mut buffer, mut bytes) = (Sha256::new(), vec![0; 4 << 20], 0u64);
    loop {
        if !go_on(bytes as f64 / origin.meta.len() as f64 / 2.0) {
            return Ok(None);
        }
        match file.read(&mut buffer).map_err(Error::io("read", path))? {
            0 => break,
            read => {
                hash.update(&buffer[..read]);
                bytes += read as u64;
            }
        }
    }
    let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Some(Imported { sha256, bytes, format: origin.image.format }))
}
