//! `strata backup repair`.

use super::create::{open_image, parse_format};
use super::restore::LimitArgs;
use super::snapshot::PinnedSource;
use super::verify::damage_text;
use super::{RepositoryArgs, WhichBackup, cancel_on_signals};
use crate::backup::{Progress, RepairOptions, RepairReport, SnapshotSource};
use crate::cli::exit::Failure;
use crate::cli::output::{lines, table, with_bar};
use crate::cli::size;
use crate::gluster::Source;
use crate::image::Format;
use crate::volume::SnapshotHandle;
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;

/// Arguments of `repair`.
#[derive(Debug, Args)]
pub(super) struct RepairArgs {
    #[command(flatten)]
    pub repository: RepositoryArgs,
    #[command(flatten)]
    backup: WhichBackup,
    /// An image that may still have the lost bytes. Other backups of the volume are looked at in any case.
    #[arg(long, value_name = "FILE", requires = "format", conflicts_with = "snapshot")]
    image: Option<PathBuf>,
    /// The image's format; it is never guessed.
    #[arg(long, value_parser = parse_format, requires = "image")]
    format: Option<Format>,
    /// A snapshot that may still have the lost bytes: the handle that the driver answered with.
    #[arg(long, value_name = "HANDLE", requires = "share")]
    snapshot: Option<SnapshotHandle>,
    /// The share that the snapshot lies on: HOST:/VOLUME or dir:/PATH.
    #[arg(long, value_name = "SHARE", requires = "snapshot")]
    share: Option<Source>,
    /// Bytes per hash, for a hash file that is lost with all others of the volume.
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    hash_block: Option<u64>,
    #[command(flatten)]
    limits: LimitArgs,
}

pub(super) async fn run(args: &RepairArgs) -> Result<RepairReport, Failure> {
    if let (Some(image), Some(format)) = (&args.image, args.format) {
        let (source, _lock) = open_image(image, format)?;
        return repair(args, Some(source)).await;
    }
    let (Some(handle), Some(share)) = (args.snapshot.clone(), args.share.clone()) else {
        return repair(args, None).await;
    };
    let opened = tokio::task::spawn_blocking(move || PinnedSource::open(&handle, &share));
    let source = Arc::new(opened.await.map_err(Failure::failed)??);
    let done = repair(args, Some(Arc::clone(&source) as _)).await;
    // Unpinning and unmounting block, and are over before the command ends.
    tokio::task::spawn_blocking(move || drop(source)).await.map_err(Failure::failed)?;
    done
}

async fn repair(args: &RepairArgs, source: Option<Arc<dyn SnapshotSource>>) -> Result<RepairReport, Failure> {
    let engine = args.repository.engine()?;
    let cancel = cancel_on_signals()?;
    let (hash_block, limits) = (args.hash_block, args.limits.get());
    let options = RepairOptions { backup: args.backup.id, source, hash_block, limits };
    let progress = Progress::default();
    Ok(with_bar(&progress, engine.repair(&options, &progress, &cancel)).await?)
}

/// 5 when something is still damaged.
pub(super) fn code(report: &RepairReport) -> u8 {
    if report.good { 0 } else { 5 }
}

pub(super) fn text(report: &RepairReport) -> String {
    let head = lines(&[
        ("backup", report.backup_id.to_string()),
        ("objects", report.objects.to_string()),
        ("repaired", report.repaired.len().to_string()),
        ("left", report.left.len().to_string()),
        ("time", format!("{:.1} s", report.seconds)),
    ]);
    let rows: Vec<Vec<String>> = report
        .repaired
        .iter()
        .map(|done| vec![done.object.clone(), done.reason.clone(), done.from.join(", ")])
        .collect();
    let repaired = match rows.is_empty() {
        true => String::new(),
        false => format!("\n{}", table(&["REPAIRED OBJECT", "WAS", "FROM"], &rows)),
    };
    head + &repaired + &damage_text(&report.left)
}
