//! `strata backup create`.

use super::snapshot::PinnedSource;
use super::{RepositoryArgs, cancel_on_signals};
use crate::backup::format::{Compression, VolumeMeta, ZoneName};
use crate::backup::{
    CHOOSE_HASH_BLOCK, Cancel, CreateOptions, CreateReport, DEFAULT_CONCURRENCY, DEFAULT_SPLIT, ParentChoice,
    Progress, Resume, SnapshotSource, refuse_used_source, snapshot_meta, volume_meta,
};
use crate::cli::exit::Failure;
use crate::cli::output::{lines, with_bar};
use crate::cli::size;
use crate::gluster::Source;
use crate::image::lock::{ImageLock, LockError};
use crate::image::{ChainReader, Format, ImageRef};
use crate::volume::SnapshotHandle;
use clap::Args;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use uuid::Uuid;

/// Arguments of `create`.
#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    pub repository: RepositoryArgs,
    /// Back up this image file. A qcow2 with a backing file is refused: flatten it first.
    #[arg(long, value_name = "FILE", requires = "format", requires = "volume_id")]
    image: Option<PathBuf>,
    /// The image's format; it is never guessed.
    #[arg(long, value_parser = parse_format, requires = "image")]
    format: Option<Format>,
    /// Whose backup it is: incremental backups are made on those of the same volume.
    #[arg(long, value_name = "UUID", requires = "image")]
    volume_id: Option<Uuid>,
    /// Back up this snapshot: the handle that the driver answered with.
    #[arg(
        long,
        value_name = "HANDLE",
        requires = "share",
        conflicts_with = "image",
        required_unless_present = "image"
    )]
    snapshot: Option<SnapshotHandle>,
    /// The share that the snapshot lies on: HOST:/VOLUME or dir:/PATH.
    #[arg(long, value_name = "SHARE", requires = "snapshot")]
    share: Option<Source>,
    /// Make it on this backup: an id, latest or none [default: none with --image, latest with --snapshot].
    #[arg(long, value_name = "UUID|latest|none", value_parser = parse_parent)]
    parent: Option<ParentChoice>,
    /// zstd, zlib, bz2 or none.
    #[arg(long, default_value_t)]
    compression: Compression,
    /// Bytes of the volume per chunk, which is worked on as a whole: one of zeros becomes one object.
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "52428800")]
    chunk_size: u64,
    /// Cut the data of each chunk into so many objects, though none below 4 MiB: more of them cost less CPU, for their
    /// digests are computed side by side. 1: fewer, larger objects, as Cinder makes them.
    #[arg(long, value_name = "NUMBER", default_value_t = DEFAULT_SPLIT)]
    split: u64,
    /// Bytes of the volume per hash: the grain of incremental backups [default: the parent's; for a full backup
    /// 32K, and more above 145 GiB, so that the hash file stays below 320 MiB].
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    hash_block: Option<u64>,
    /// Bytes of memory for what is read, compressed and on its way, whatever the size of the volume.
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "256M")]
    memory: u64,
    /// Uploads at a time.
    #[arg(long, value_name = "NUMBER", default_value_t = DEFAULT_CONCURRENCY)]
    concurrency: usize,
    /// Upload at most so many bytes per second.
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    limit_rate: Option<u64>,
    /// Make one object of changed runs that are at most so many bytes apart: fewer objects, more bytes.
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "0")]
    join: u64,
    /// Read so many blocks that are said to be unchanged all the same, at random: one that differs from the parent's
    /// hash makes everything be read.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    spot_checks: u32,
    /// Go on with an attempt that was broken off: its id, or auto for one of the same snapshot, parent and
    /// settings (none: begin one). What is uploaded is compared, and put again only where it differs. If this
    /// attempt fails too, what it uploaded stays for the next --resume; without --resume, and after Ctrl-C, it
    /// is removed. Give it from the first attempt on.
    #[arg(long, value_name = "UUID|auto", value_parser = parse_resume)]
    resume: Option<Resume>,
    /// Part of the objects' names.
    #[arg(long, value_name = "ZONE", default_value = "nova")]
    availability_zone: ZoneName,
    /// A name for people.
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// A description for people.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Leave the volume's metadata out.
    #[arg(long)]
    no_metadata: bool,
}

fn parse_parent(text: &str) -> Result<ParentChoice, String> {
    match text {
        "none" => Ok(ParentChoice::None),
        "latest" => Ok(ParentChoice::Latest),
        id => Uuid::from_str(id)
            .map(ParentChoice::Backup)
            .map_err(|e| format!("neither latest, nor none, nor an id: {e}")),
    }
}

fn parse_resume(text: &str) -> Result<Resume, String> {
    match text {
        "auto" => Ok(Resume::Auto),
        id => Uuid::from_str(id).map(Resume::Backup).map_err(|e| format!("neither auto nor an id: {e}")),
    }
}

/// An image format as a word.
pub(in crate::cli) fn parse_format(text: &str) -> Result<Format, String> {
    match text {
        "raw" => Ok(Format::Raw),
        "qcow2" => Ok(Format::Qcow2),
        _ => Err("use raw or qcow2".to_owned()),
    }
}

impl CreateArgs {
    fn options(&self, volume: Uuid, default_parent: ParentChoice, meta: VolumeMeta) -> CreateOptions {
        CreateOptions {
            volume,
            parent: self.parent.unwrap_or(default_parent),
            compression: self.compression,
            chunk_size: self.chunk_size,
            split: self.split,
            hash_block: self.hash_block.unwrap_or(CHOOSE_HASH_BLOCK),
            zone: self.availability_zone.clone(),
            name: self.name.clone(),
            description: self.description.clone(),
            volume_meta: (!self.no_metadata).then(|| meta.encode()),
            memory: self.memory,
            concurrency: self.concurrency,
            limit_rate: self.limit_rate,
            join: self.join,
            spot_checks: self.spot_checks,
            resume: self.resume.unwrap_or_default(),
        }
    }
}

pub(super) async fn run(args: &CreateArgs) -> Result<CreateReport, Failure> {
    let engine = args.repository.engine()?;
    let cancel = cancel_on_signals()?;
    match (&args.image, args.format, args.volume_id, &args.snapshot, &args.share) {
        (Some(image), Some(format), Some(volume), None, None) => {
            let (source, _lock) = open_image(image, format)?;
            let name = image.file_name().unwrap_or_default().to_string_lossy();
            let meta = volume_meta(volume, &name, source.size(), &args.availability_zone, BTreeMap::new());
            let options = args.options(volume, ParentChoice::None, meta);
            create(&engine, source, &options, &cancel).await
        }
        (None, None, None, Some(handle), Some(share)) => {
            let (handle, share) = (handle.clone(), share.clone());
            let opened = tokio::task::spawn_blocking(move || PinnedSource::open(&handle, &share));
            let source = Arc::new(opened.await.map_err(Failure::failed)??);
            let options = snapshot_options(args, &source);
            let done = create(&engine, Arc::clone(&source) as _, &options, &cancel).await;
            // Unpinning and unmounting block, and are over before the command ends.
            tokio::task::spawn_blocking(move || drop(source)).await.map_err(Failure::failed)?;
            done
        }
        _ => Err(Failure::usage("give --image, --format and --volume-id, or --snapshot and --share")),
    }
}

fn snapshot_options(args: &CreateArgs, source: &PinnedSource) -> CreateOptions {
    let volume = source.volume();
    let id = volume.handle.volume.uuid();
    let meta =
        volume_meta(id, &volume.name, source.size(), &args.availability_zone, snapshot_meta(source.pinned()));
    args.options(id, ParentChoice::Latest, meta)
}

async fn create(
    engine: &crate::backup::Engine,
    source: Arc<dyn SnapshotSource>,
    options: &CreateOptions,
    cancel: &Cancel,
) -> Result<CreateReport, Failure> {
    let progress = Progress::default();
    Ok(with_bar(&progress, engine.create(source, options, &progress, cancel)).await?)
}

/// Opens one image that nobody uses, and keeps every QEMU from writing to it until the lock is dropped.
pub(super) fn open_image(
    path: &Path,
    format: Format,
) -> Result<(Arc<dyn SnapshotSource>, ImageLock), Failure> {
    let lock = ImageLock::read(path).map_err(|e| match e {
        LockError::Held { .. } => Failure::refused(e),
        LockError::Io { .. } => Failure::failed(e),
    })?;
    refuse_used_source(path)?;
    let image = ImageRef { path: path.to_owned(), format };
    let reader = ChainReader::open(&[image]).map_err(Failure::failed)?;
    Ok((Arc::new(reader), lock))
}

pub(super) fn text(report: &CreateReport) -> String {
    let some = |bytes| if bytes == 0 { String::new() } else { size::human(bytes) };
    lines(&[
        ("backup", report.backup_id.to_string()),
        ("parent", report.parent_id.map_or("none: a full backup".to_owned(), |id| id.to_string())),
        ("full because", report.full_because.clone().unwrap_or_default()),
        ("read all because", report.read_all_because.clone().unwrap_or_default()),
        ("prefix", report.prefix.clone()),
        ("objects", report.objects.to_string()),
        ("volume", size::human(report.bytes_total)),
        ("read", size::human(report.bytes_read)),
        ("changed", size::human(report.bytes_changed)),
        ("joined", some(report.bytes_joined)),
        ("uploaded", size::human(report.bytes_uploaded)),
        ("copied from", report.copied_from.map(|id| id.to_string()).unwrap_or_default()),
        ("copied", some(report.bytes_copied)),
        ("resumed", some(report.bytes_resumed)),
        ("time", format!("{:.1} s", report.seconds)),
    ])
}
