//! `strata backup restore`.

use super::create::parse_format;
use super::{RepositoryArgs, WhichBackup, cancel_on_signals};
use crate::backup::{Progress, RestoreOptions, RestoreReport};
use crate::cli::exit::Failure;
use crate::cli::output::{lines, with_bar};
use crate::cli::size;
use crate::image::Format;
use clap::Args;
use std::path::PathBuf;

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    pub repository: RepositoryArgs,
    #[command(flatten)]
    backup: WhichBackup,
    /// The file or block device to write.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// The format to write.
    #[arg(long, value_parser = parse_format, default_value = "raw")]
    to_format: Format,
    /// Overwrite what is there. Bytes past the volume's end stay as they are; an existing file that is
    /// to become qcow2 is replaced.
    #[arg(long)]
    in_place: bool,
}

pub(super) async fn run(args: &RestoreArgs) -> Result<RestoreReport, Failure> {
    let engine = args.repository.engine()?;
    let cancel = cancel_on_signals()?;
    let options = RestoreOptions {
        format: args.to_format,
        in_place: args.in_place,
        ..RestoreOptions::new(args.backup.id, &args.to)
    };
    let progress = Progress::default();
    Ok(with_bar(&progress, engine.restore(&options, &progress, &cancel)).await?)
}

pub(super) fn text(report: &RestoreReport) -> String {
    lines(&[
        ("backup", report.backup_id.to_string()),
        ("to", report.to.display().to_string()),
        ("backups in chain", report.chain.len().to_string()),
        ("objects", report.objects.to_string()),
        ("volume", size::human(report.bytes_total)),
        ("fetched", size::human(report.bytes_fetched)),
        ("written", size::human(report.bytes_written)),
        ("time", format!("{:.1} s", report.seconds)),
    ])
}
