//! `strata backup list`, `show` and `delete`.

use super::{RepositoryArgs, WhichBackup};
use crate::backup::{BackupInfo, ChainInfo, DeleteReport};
use crate::cli::exit::Failure;
use crate::cli::output::{lines, table};
use crate::cli::size::human;
use clap::Args;
use serde::Serialize;
use uuid::Uuid;

/// Arguments of `list`.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    pub repository: RepositoryArgs,
    /// Only the backups of this volume.
    #[arg(long, value_name = "UUID")]
    volume_id: Option<Uuid>,
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
}

pub(super) async fn list(args: &ListArgs) -> Result<Listing, Failure> {
    Ok(Listing(args.repository.engine()?.list(args.volume_id).await?))
}

/// A JSON list.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Listing(Vec<BackupInfo>);

pub(super) fn list_text(listing: &Listing) -> String {
    let header = ["BACKUP", "VOLUME", "CREATED", "PARENT", "OBJECTS", "CHANGED", "STORED", "NAME"];
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
                parent,
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
    Ok(args.repository.engine()?.delete(args.backup.id).await?)
}

pub(super) fn delete_text(report: &DeleteReport) -> String {
    lines(&[
        ("deleted", report.backup_id.to_string()),
        ("objects", report.objects.to_string()),
        ("freed", human(report.bytes_freed)),
    ])
}
