//! `strata backup list`, `show` and `delete`.

use super::{RepositoryArgs, WhichBackup, cancel_on_signals};
use crate::backup::{BackupInfo, ChainInfo, DeleteReport, Progress};
use crate::cli::age;
use crate::cli::exit::Failure;
use crate::cli::output::{lines, table, with_bar};
use crate::cli::size::human;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde::Serialize;
use std::cmp::Reverse;
use uuid::Uuid;

/// Arguments of `list`.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    pub repository: RepositoryArgs,
    /// Only the backups of this volume.
    #[arg(long, value_name = "UUID")]
    volume_id: Option<Uuid>,
    /// In which order.
    #[arg(long, value_enum, default_value_t)]
    sort: Sort,
}

/// Orders of a list.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Sort {
    /// By volume, then time.
    #[default]
    Volume,
    /// The oldest first.
    Created,
    /// What takes most room first.
    Size,
    /// By name.
    Name,
}

/// Arguments of `show`.
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    pub repository: RepositoryArgs,
    #[command(flatten)]
    backup: WhichBackup,
}

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    pub repository: RepositoryArgs,
    #[command(flatten)]
    backup: WhichBackup,
    /// First make the backups that are made on it whole without it.
    #[arg(long)]
    rebase: bool,
}

pub(super) async fn list(args: &ListArgs) -> Result<Listing, Failure> {
    let mut found = args.repository.engine()?.list(args.volume_id).await?;
    match args.sort {
        Sort::Volume => {}
        Sort::Created => found.sort_by(|a, b| a.created_at.cmp(&b.created_at)),
        Sort::Size => found.sort_by_key(|info| Reverse(info.bytes_stored)),
        Sort::Name => found.sort_by(|a, b| a.name.cmp(&b.name)),
    }
    Ok(Listing(found))
}

/// A JSON list.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Listing(Vec<BackupInfo>);

pub(super) fn list_text(listing: &Listing) -> String {
    let header =
        ["BACKUP", "VOLUME", "CREATED", "AGE", "PARENT", "DEPTH", "OBJECTS", "CHANGED", "STORED", "NAME"];
    let now = Timestamp::now();
    let age = |created: &str| created.parse().map_or("-".to_owned(), |created| age::human(created, now));
    let rows: Vec<Vec<String>> = listing
        .0
        .iter()
        .map(|info| {
            let parent = info.parent_id.map_or("-".to_owned(), |id| id.to_string());
            let note = info.damage.as_ref().map(|damage| format!("DAMAGED: {damage}"));
            vec![
                info.backup_id.to_string(),
                info.volume_id.to_string(),
                info.created_at.get(..19).unwrap_or("-").to_owned(),
                age(&info.created_at),
                parent,
                info.depth.to_string(),
                info.objects.to_string(),
                human(info.bytes_changed),
                human(info.bytes_stored),
                note.or_else(|| info.name.clone()).unwrap_or_default(),
            ]
        })
        .collect();
    table(&header, &rows)
}

pub(super) async fn show(args: &ShowArgs) -> Result<ChainInfo, Failure> {
    Ok(args.repository.engine()?.show(args.backup.id).await?)
}

pub(super) fn show_text(shown: &ChainInfo) -> String {
    let info = &shown.backup;
    let chain: Vec<String> = shown.chain.iter().map(Uuid::to_string).collect();
    lines(&[
        ("backup", info.backup_id.to_string()),
        ("volume", info.volume_id.to_string()),
        ("name", info.name.clone().unwrap_or_default()),
        ("description", info.description.clone().unwrap_or_default()),
        ("created", info.created_at.clone()),
        ("chain", chain.join(" on ")),
        ("depth", info.depth.to_string()),
        ("compression", shown.compression.join(", ")),
        ("size", format!("{} ({} bytes)", human(shown.bytes_total), shown.bytes_total)),
        ("objects", info.objects.to_string()),
        ("changed", human(info.bytes_changed)),
        ("stored", human(info.bytes_stored)),
        ("prefix", info.prefix.clone()),
        ("metadata", shown.volume_meta.clone().unwrap_or_default()),
    ])
}

pub(super) async fn delete(args: &DeleteArgs) -> Result<DeleteReport, Failure> {
    let engine = args.repository.engine()?;
    if !args.rebase {
        return Ok(engine.delete(args.backup.id).await?);
    }
    let (progress, cancel) = (Progress::default(), cancel_on_signals()?);
    Ok(with_bar(&progress, engine.delete_rebasing(args.backup.id, &progress, &cancel)).await?)
}

pub(super) fn delete_text(report: &DeleteReport) -> String {
    let rebased: Vec<String> = report.rebased.iter().map(|rebase| rebase.backup_id.to_string()).collect();
    lines(&[
        ("made whole", rebased.join(", ")),
        ("deleted", report.backup_id.to_string()),
        ("objects", report.objects.to_string()),
        ("freed", human(report.bytes_freed)),
    ])
}
