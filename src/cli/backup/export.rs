//! `strata backup export-record` and `export-full`: backups for Cinder, or for another repository.

use super::{RepositoryArgs, S3Args, WhichBackup, cancel_on_signals};
use crate::backup::format::Compression;
use crate::backup::store::{self, RepositoryUrl, S3Options};
use crate::backup::{Engine, FullReport, ImportRecord, Progress};
use crate::cli::exit::Failure;
use crate::cli::output::{lines, with_bar};
use crate::cli::size::human;
use clap::Args;
use serde::Serialize;

/// Arguments of `export-record`.
#[derive(Debug, Args)]
pub(super) struct RecordArgs {
    #[command(flatten)]
    pub repository: RepositoryArgs,
    #[command(flatten)]
    backup: WhichBackup,
    /// The bucket that Cinder finds the objects in, unless it is the repository's.
    #[arg(long, value_name = "BUCKET")]
    container: Option<String>,
}

/// Arguments of `export-full`.
#[derive(Debug, Args)]
pub(super) struct FullArgs {
    #[command(flatten)]
    pub repository: RepositoryArgs,
    #[command(flatten)]
    backup: WhichBackup,
    /// Where to: the same repository, unless given.
    #[arg(long, value_name = "URL")]
    to_repository: Option<RepositoryUrl>,
    /// The S3 server of that repository, unless it is the first one's.
    #[arg(long, value_name = "URL", requires = "to_repository")]
    to_endpoint: Option<String>,
    /// The S3 region of that repository, unless it is the first one's.
    #[arg(long, value_name = "REGION", requires = "to_repository")]
    to_region: Option<String>,
    /// zstd, zlib, bz2 or none, for what is not stored as it was [default: as most of the backup].
    #[arg(long)]
    compression: Option<Compression>,
}

/// A JSON list.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Records(Vec<ImportRecord>);

pub(super) async fn record(args: &RecordArgs) -> Result<Records, Failure> {
    let container = match (&args.container, &args.repository.repository) {
        (Some(container), _) => container.clone(),
        (None, RepositoryUrl::S3 { bucket, prefix }) if prefix.is_empty() => bucket.clone(),
        (None, RepositoryUrl::S3 { .. }) => {
            return Err(Failure::usage(
                "Cinder looks for objects at the top of a bucket, and this repository lies below a prefix: \
                 export-full to a bucket's top, or give --container if the objects were copied there",
            ));
        }
        (None, RepositoryUrl::Local(_)) => {
            return Err(Failure::usage(
                "Cinder looks for objects in a bucket, and this repository is a directory: export-full to a bucket, \
                 or give --container if the objects were copied there",
            ));
        }
    };
    Ok(Records(args.repository.engine()?.import_records(args.backup.id, &container).await?))
}

/// Commands that can be pasted, parents first.
pub(super) fn record_text(records: &Records) -> String {
    let command = |record: &ImportRecord| {
        format!("cinder backup-import {} {}\n", record.backup_service, record.backup_url)
    };
    records.0.iter().map(command).collect()
}

pub(super) async fn full(args: &FullArgs) -> Result<FullReport, Failure> {
    let engine = args.repository.engine()?;
    let to = match &args.to_repository {
        None => engine.clone(),
        Some(url) => {
            let S3Args { endpoint, region, .. } = &args.repository.s3;
            let options = S3Options {
                endpoint: args.to_endpoint.clone().or_else(|| endpoint.clone()),
                region: args.to_region.clone().or_else(|| region.clone()),
                ..args.repository.s3.options()
            };
            Engine::new(store::open(url, &options).map_err(Failure::failed)?)
        }
    };
    let (progress, cancel) = (Progress::default(), cancel_on_signals()?);
    let work = engine.export_full(args.backup.id, &to, args.compression, &progress, &cancel);
    Ok(with_bar(&progress, work).await?)
}

pub(super) fn full_text(report: &FullReport) -> String {
    lines(&[
        ("backup", report.backup_id.to_string()),
        ("from", report.from.to_string()),
        ("volume", report.volume_id.to_string()),
        ("prefix", report.prefix.clone()),
        ("objects", report.objects.to_string()),
        ("size", human(report.bytes_total)),
        ("fetched", human(report.bytes_fetched)),
        ("uploaded", human(report.bytes_uploaded)),
        ("copied", human(report.bytes_copied)),
        ("time", format!("{:.1} s", report.seconds)),
    ])
}
