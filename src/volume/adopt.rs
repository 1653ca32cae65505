//! Adoption: what Cinder's GlusterFS driver left on a share becomes a volume, without a copy (G16, X5).
//!
//! Cinder keeps `volume-<id>` (raw or qcow2), an overlay `volume-<id>.<snap-id>` for each snapshot, and a table
//! `volume-<id>.info`: "active" and, for each snapshot, the overlay whose backing file is the snapshot's data. All of it is
//! held to the headers before anything is changed. Then the images get second names in the volume's folder, the record is
//! written, and the old names go: a crash between any two of these is gone on from by the same command.

use super::error::*;
use super::id::{LayerId, SnapshotId, VolumeId};
use super::info_table;
use super::provision::{begin, make_folder};
use super::record::{Consistency, Layer, ParentLayer, Record, Snapshot, State};
use super::report::tops;
use super::scan::{Below, Found, walk};
use super::steps::{Step, reached};
use super::store::{Locked, read_if_exists, remove_file};
use super::view::{CreateVolume, SnapshotView, VolumeKind, VolumeView};
use super::volumes::Volumes;
use crate::host::fsio;
use crate::image::Format;
use crate::image::lock::ImageLock;
use jiff::Timestamp;
use snafu::{ResultExt, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

/// A volume of Cinder's.
#[derive(Clone, Debug)]
pub struct Adopt {
    /// As Cinder has it; it keeps it.
    pub id: VolumeId,
    /// The folder on the share in which it lies, from the share's root.
    pub from: PathBuf,
    /// The format of its base, if no header tells.
    pub format: Option<Format>,
    /// A name for people [default: Cinder's file name].
    pub name: Option<String>,
}

/// What lies there, found consistent.
struct Plan {
    /// From the active image down.
    chain: Vec<Found>,
    /// The data of each snapshot.
    points: BTreeMap<SnapshotId, String>,
}

impl Volumes {
    /// Adopts a volume, or finishes or finds what an earlier call adopted.
    pub fn adopt(&self, request: &Adopt) -> Result<(VolumeView, Vec<SnapshotView>), Error> {
        let id = request.id;
        let from = self.folder_on_share(&request.from)?;
        let known = match self.lock(id) {
            Err(Error::VolumeNotFound { .. }) => false,
            locked => locked?.record.state != State::Deleted,
        };
        if !known {
            self.adopt_files(request, &from)?;
        }
        let locked = self.lock(id)?;
        locked.drop_old_names(&from)?;
        let record = &locked.record;
        let views = record.snapshots.iter().map(|snapshot| self.snapshot_view(id, snapshot)).collect();
        Ok((self.view(record), views))
    }

    /// A folder below the share's root that is not one of ours.
    fn folder_on_share(&self, from: &Path) -> Result<PathBuf, Error> {
        let wanted = self.share.root.join(from);
        let found = wanted.canonicalize().map_err(Error::io("find", &wanted))?;
        let inside = found.strip_prefix(&self.share.root).ok();
        let fine = inside.is_some_and(|path| !path.starts_with("volumes") && !path.starts_with(".strata"));
        let reason =
            format!("{} is no folder on the share {} that Cinder may use", from.display(), self.share.source);
        ensure!(fine && found.is_dir(), InvalidSnafu { reason });
        Ok(found)
    }

    /// Gives the images names in the volume's folder, and writes the record.
    fn adopt_files(&self, request: &Adopt, from: &Path) -> Result<(), Error> {
        let id = request.id;
        let refused = |reason: String| {
            let reason = format!("it is not adopted: {reason}. Nothing was changed");
            Error::Precondition { volume: id, reason }
        };
        let name = request.name.clone().unwrap_or_else(|| format!("volume-{id}"));
        let fresh = || begin(id, &as_request(&name));
        let mut locked = self.lock_or_begin(id, fresh)?;
        let plan = plan(from, id, request.format).map_err(refused)?;
        let mut there = self.image_files(id)?.into_iter();
        if let Some(stranger) = there.find(|file| !plan.chain.iter().any(|found| found.file == *file)) {
            let folder = self.layout.volume(id);
            let reason = format!("{} holds {stranger}, which is none of Cinder's images", folder.display());
            return Err(refused(reason));
        }
        // Kept until the record is written: no QEMU opens any of it for writing.
        let mut held = Vec::new();
        for found in &plan.chain {
            held.push(ImageLock::write(&from.join(&found.file)).context(ImageLockSnafu)?);
        }
        let life = locked.record.layers.is_empty() && locked.record.snapshots.is_empty();
        ensure!(
            life,
            NameTakenSnafu { name, difference: "layers of a deleted volume of that id are still needed" }
        );
        locked.record = Record { generation: locked.record.generation, ..plan.record(fresh(), from) };
        let folder = self.layout.volume(id);
        make_folder(&folder)?;
        for found in &plan.chain {
            second_name(&from.join(&found.file), &folder.join(&found.file))?;
        }
        fsio::sync_dir(&folder)?;
        reached(Step::AdoptLinked);
        for top in tops(&locked.record) {
            self.verify(&self.chain(&locked.record, top)?)?;
        }
        locked.commit()?;
        reached(Step::AdoptRecorded);
        locked.write_info()
    }
}

impl Locked<'_> {
    /// Takes away the names that Cinder gave, once they are second names only.
    fn drop_old_names(&self, from: &Path) -> Result<(), Error> {
        let (id, record, volumes) = (self.id(), &self.record, self.volumes);
        let folder = volumes.layout.volume(id);
        let table = format!("volume-{id}.info");
        let images: Vec<String> = names_of(from, id)?.into_iter().filter(|file| *file != table).collect();
        for file in &images {
            let same = same_file(&from.join(file), &folder.join(file));
            let (name, shown) = (record.name.clone(), from.join(file));
            let difference =
                format!("{} is no image of the volume of that id that is there", shown.display());
            ensure!(same, NameTakenSnafu { name, difference });
        }
        for snapshot in &record.snapshots {
            volumes.note_owner(id, snapshot.id)?;
        }
        for layer in &record.layers {
            make_ours(&folder.join(&layer.file))?;
        }
        // The table last: while any image is there, it can be told what it is.
        let ours = !images.is_empty() || self.has_table(&from.join(&table))?;
        for file in images.iter().chain(ours.then_some(&table)) {
            self.fence()?;
            remove_file(&from.join(file))?;
            reached(Step::AdoptUnlinked);
        }
        Ok(fsio::sync_dir(from)?)
    }

    /// Whether a table says what the record says. One that is alone may be of anything.
    fn has_table(&self, path: &Path) -> Result<bool, Error> {
        let Some(bytes) = read_if_exists(path).map_err(Error::io("read", path))? else { return Ok(false) };
        let table = info_table::parse(&path.display().to_string(), &bytes);
        let same = table.is_ok_and(|table| self.record.info_table() == table);
        if !same {
            tracing::warn!(volume = %self.id(), table = %path.display(), "a table that is not this volume's stays");
        }
        Ok(same)
    }
}

/// Cinder's user owned it, and others could read it: now it is as the images that we make. Whoever is not root keeps
/// what is his.
fn make_ours(path: &Path) -> Result<(), Error> {
    if rustix::process::geteuid().is_root() {
        lchown(path, Some(0), Some(0)).map_err(Error::io("make root the owner of", path))?;
    }
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, private).map_err(Error::io("set the mode of", path))
}

fn as_request(name: &str) -> CreateVolume {
    CreateVolume {
        name: name.to_owned(),
        required: None,
        limit: None,
        kind: VolumeKind::Qcow2,
        source: None,
        parameters: Default::default(),
    }
}

/// All files that bear a volume's name.
fn names_of(from: &Path, id: VolumeId) -> Result<BTreeSet<String>, Error> {
    let (base, lead) = (format!("volume-{id}"), format!("volume-{id}."));
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(from).map_err(Error::io("list", from))? {
        let entry = entry.map_err(Error::io("list", from))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == base || name.starts_with(&lead) {
            names.insert(name);
        }
    }
    Ok(names)
}

/// Makes a second name. There already for the same file: success.
fn second_name(old: &Path, new: &Path) -> Result<(), Error> {
    match std::fs::hard_link(old, new) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && same_file(old, new) => Ok(()),
        linked => linked.map_err(Error::io("give its new name to", new)),
    }
}

fn same_file(one: &Path, other: &Path) -> bool {
    let look = |path| std::fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()));
    matches!((look(one), look(other)), (Ok(one), Ok(other)) if one == other)
}

/// Reads the table and the headers, and holds them to each other.
fn plan(from: &Path, id: VolumeId, format: Option<Format>) -> Result<Plan, String> {
    let base = format!("volume-{id}");
    let mut names = names_of(from, id).map_err(|error| error.to_string())?;
    let table_name = format!("{base}.info");
    let table = read_if_exists(&from.join(&table_name)).map_err(|error| error.to_string())?;
    names.remove(&table_name);
    let mut table = match table {
        Some(bytes) => info_table::parse(&table_name, &bytes)?,
        // Cinder writes it with the first snapshot.
        None if names.len() == 1 && names.contains(&base) => [("active".to_owned(), base.clone())].into(),
        None if names.is_empty() => return Err(format!("there is no {base} in {}", from.display())),
        None => return Err(format!("there are overlays, but no {table_name}")),
    };
    let active = table.remove("active").ok_or_else(|| format!("{table_name} names no \"active\" file"))?;
    // Only the base can be raw: all else was made by a snapshot.
    let told = (active != base).then_some(Format::Qcow2).or(format);
    let told = told.ok_or_else(|| {
        format!("nothing tells whether {active} is raw or qcow2: say so with --format (it is never guessed)")
    })?;
    let chain = walk(from, &active, told)?;
    let plain = |file: &str| std::fs::symlink_metadata(from.join(file)).is_ok_and(|meta| meta.is_file());
    if let Some(link) = chain.iter().find(|found| !plain(&found.file)) {
        return Err(format!("{} is a link, not a file", link.file));
    }
    let bottom = chain.last().expect("a walk begins with its top");
    if let Some(format) = format.filter(|format| *format != bottom.format) {
        return Err(format!("{} is {} by what stands on it, not {format}", bottom.file, bottom.format));
    }
    if let Some(Below::Other(volume, _)) = &bottom.below {
        return Err(format!("{} stands on an image of volume {volume}", bottom.file));
    }
    let points = points(&chain, &table)?;
    if let Some(unknown) = names.iter().find(|name| !chain.iter().any(|found| found.file == **name)) {
        return Err(format!("{unknown} bears its name, but is not in its chain"));
    }
    if let Some(stranger) = chain.iter().find(|found| !names.contains(&found.file)) {
        return Err(format!("its chain goes through {}, an image of another volume", stranger.file));
    }
    Ok(Plan { chain, points })
}

/// The data of each snapshot: what its overlay stands on. Every overlay of the chain belongs to one.
fn points(chain: &[Found], table: &BTreeMap<String, String>) -> Result<BTreeMap<SnapshotId, String>, String> {
    let mut points = BTreeMap::new();
    let mut overlays: BTreeSet<&str> =
        chain.iter().filter(|f| f.below.is_some()).map(|f| f.file.as_str()).collect();
    for (key, overlay) in table {
        let id =
            key.parse().map_err(|_| format!("the table has an entry {key:?}, which is no snapshot's id"))?;
        let found = chain.iter().find(|found| found.file == *overlay);
        let Some(Below::Here(data)) = found.and_then(|found| found.below.as_ref()) else {
            return Err(format!("{overlay}, of snapshot {key}, is no overlay of its chain"));
        };
        if !overlays.remove(overlay.as_str()) {
            return Err(format!("two snapshots have the overlay {overlay}"));
        }
        points.insert(id, data.clone());
    }
    match overlays.first() {
        Some(overlay) => Err(format!("{overlay} is in its chain, but in no entry of the table")),
        None => Ok(points),
    }
}

impl Plan {
    fn record(&self, fresh: Record, from: &Path) -> Record {
        let ids: BTreeMap<&str, LayerId> =
            self.chain.iter().map(|found| (found.file.as_str(), LayerId::random())).collect();
        let layer = |found: &Found| Layer {
            id: ids[found.file.as_str()],
            incarnation: fresh.incarnation,
            file: found.file.clone(),
            format: found.format,
            size: found.size,
            parent: match &found.below {
                Some(Below::Here(file)) => Some(ParentLayer { volume: fresh.id, layer: ids[file.as_str()] }),
                _ => None,
            },
            closed: false,
        };
        // A frozen image was last written when it was frozen.
        let frozen = |file: &str| {
            let time = std::fs::metadata(from.join(file)).and_then(|meta| meta.modified()).ok();
            time.and_then(|time| Timestamp::try_from(time).ok()).unwrap_or(fresh.created_at)
        };
        let size =
            |file: &str| self.chain.iter().find(|found| found.file == file).map_or(0, |found| found.size);
        let snapshot = |(id, data): (&SnapshotId, &String)| Snapshot {
            id: *id,
            name: format!("snapshot-{id}"),
            layer: ids[data.as_str()],
            incarnation: fresh.incarnation,
            created_at: frozen(data),
            size: size(data),
            // Whether Nova froze its filesystem is written nowhere.
            consistency: Consistency::Crash,
            blank: false,
        };
        let mut snapshots: Vec<Snapshot> = self.points.iter().map(snapshot).collect();
        // The oldest first: the deepest in the chain.
        let depth = |layer| self.chain.iter().position(|found| ids[found.file.as_str()] == layer);
        snapshots.sort_by_key(|snapshot| std::cmp::Reverse(depth(snapshot.layer)));
        let (active, bottom) = (&self.chain[0], &self.chain[self.chain.len() - 1]);
        Record {
            capacity: active.size,
            kind: if bottom.format == Format::Raw { VolumeKind::RawSparse } else { VolumeKind::Qcow2 },
            state: State::Ready,
            new: false,
            active: Some(ids[active.file.as_str()]),
            layers: self.chain.iter().rev().map(layer).collect(),
            snapshots,
            ..fresh
        }
    }
}
