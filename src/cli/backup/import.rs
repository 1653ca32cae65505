//! `strata backup import`.

use crate::cli::driver::{DRIVER, KubeArgs};
use crate::cli::exit::Failure;
use crate::cli::output::{Output, table};
use crate::kube::{self, Import, ImportError, Imported, crd::backup::DeletionPolicy};
use crate::volume::RepositoryName;
use clap::Args;
use uuid::Uuid;

/// Arguments of `import`.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    #[command(flatten)]
    kube: KubeArgs,
    /// The BackupRepository, which must be there.
    #[arg(long, value_name = "NAME")]
    repository: RepositoryName,
    /// Make the objects in this namespace; by default in those that the backups tell of, which must be there.
    #[arg(long, value_name = "NAMESPACE")]
    into: Option<String>,
    /// Only the backups of this volume.
    #[arg(long, value_name = "UUID")]
    volume_id: Option<Uuid>,
    /// Deleting one of the objects removes its data. Without it the data stay: another cluster may know them too.
    #[arg(long)]
    owned: bool,
    /// The driver's name.
    #[arg(long, env = "STRATA_DRIVER_NAME", default_value = DRIVER)]
    driver_name: String,
    /// Print what would be made, and make nothing.
    #[arg(long)]
    dry_run: bool,
    /// The shape of the result.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

pub(super) async fn run(args: &ImportArgs) -> Result<Vec<Imported>, Failure> {
    let failed = |error: anyhow::Error| Failure::failed(format!("{error:#}"));
    let own_namespace = args.kube.own_namespace().map_err(failed)?;
    let client = args.kube.client().await.map_err(failed)?;
    let import = Import {
        repository: args.repository.clone(),
        own_namespace,
        namespace: args.into.clone(),
        driver: args.driver_name.clone(),
        deletion_policy: if args.owned { DeletionPolicy::Delete } else { DeletionPolicy::Retain },
        volume: args.volume_id,
        dry_run: args.dry_run,
    };
    kube::import(client, &import).await.map_err(|error| match error {
        ImportError::Store { source } => source.into(),
        other => Failure::failed(other),
    })
}

pub(super) fn text(rows: &[Imported]) -> String {
    let header = ["BACKUP", "NAMESPACE", "NAME", "SKIPPED"];
    let row = |row: &Imported| {
        let said = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        vec![row.backup_id.to_string(), said(&row.namespace), said(&row.name), said(&row.skipped)]
    };
    table(&header, &rows.iter().map(row).collect::<Vec<_>>())
}
