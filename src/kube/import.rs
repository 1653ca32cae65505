//! VolumeBackups of backups that are in a repository already: those of another cluster, or of one that was lost.

use super::crd::backup::{DeletionPolicy, Phase, VolumeBackup, VolumeBackupSpec, VolumeBackupStatus};
use super::crd::set_condition;
use super::error::{ApiSnafu, Error, has_code};
use super::names;
use super::pages::list_all;
use super::repository::{OpenError, open};
use crate::backup::{BackupError, ChainInfo};
use crate::volume::{BackupHandle, RepositoryName, Writer};
use ::kube::api::{ListParams, Patch, PatchParams, PostParams};
use ::kube::{Api, Client, ResourceExt};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use snafu::{ResultExt, Snafu};
use std::collections::HashSet;
use uuid::Uuid;

/// What to import.
#[derive(Clone, Debug)]
pub struct Import {
    /// The BackupRepository.
    pub repository: RepositoryName,
    /// The namespace of its Secret.
    pub own_namespace: String,
    /// Where the objects are made: `None`, in the namespaces that the backups tell of.
    pub namespace: Option<String>,
    /// The driver in the objects.
    pub driver: String,
    /// Whether deleting the objects removes the data.
    pub deletion_policy: DeletionPolicy,
    /// Only of this volume.
    pub volume: Option<Uuid>,
    /// Nothing is written.
    pub dry_run: bool,
}

/// What became of one backup.
#[derive(Clone, Debug, Serialize)]
pub struct Imported {
    /// The backup.
    pub backup_id: Uuid,
    /// Whose.
    pub volume_id: Uuid,
    /// The object's namespace.
    pub namespace: Option<String>,
    /// The object's name.
    pub name: Option<String>,
    /// What restores it.
    pub handle: String,
    /// Why no object was made.
    pub skipped: Option<String>,
}

/// Why nothing more was imported.
#[derive(Debug, Snafu)]
pub enum ImportError {
    /// The repository's object.
    #[snafu(display("{source}"), context(false))]
    Repository {
        /// What is wrong.
        source: OpenError,
    },
    /// Its store.
    #[snafu(display("{source}"), context(false))]
    Store {
        /// What is wrong.
        source: BackupError,
    },
    /// The API.
    #[snafu(display("{source}"), context(false))]
    Kubernetes {
        /// What is wrong.
        source: Error,
    },
}

/// Makes the objects that are not there yet.
pub async fn import(client: Client, wanted: &Import) -> Result<Vec<Imported>, ImportError> {
    let opened = open(&client, &wanted.own_namespace, wanted.repository.as_str(), None).await?;
    let known = known(&client, wanted.repository.as_str()).await?;
    let mut all = Vec::new();
    for info in opened.engine.list(wanted.volume).await? {
        let handle = BackupHandle {
            writer: Writer::Strata,
            repository: wanted.repository.clone(),
            volume: info.volume_id,
            backup: info.backup_id,
        };
        let mut row = Imported {
            backup_id: info.backup_id,
            volume_id: info.volume_id,
            namespace: None,
            name: None,
            handle: handle.to_string(),
            skipped: info.damage.clone().map(|damage| format!("it is damaged: {damage}")),
        };
        if known.contains(&info.backup_id) {
            row.skipped = Some("it has an object".to_owned());
        }
        if row.skipped.is_none() {
            let found = opened.engine.show(info.backup_id).await?;
            make(&client, wanted, &found, &mut row).await?;
        }
        all.push(row);
    }
    Ok(all)
}

/// Backups of the repository that have an object anywhere.
async fn known(client: &Client, repository: &str) -> Result<HashSet<Uuid>, Error> {
    let api: Api<VolumeBackup> = Api::all(client.clone());
    let all = list_all(&api, &ListParams::default()).await;
    let all = all.context(ApiSnafu { doing: "list VolumeBackups" })?;
    let of_it = all.iter().filter(|backup| backup.spec.repository == repository);
    Ok(of_it.filter_map(|backup| backup.status.as_ref()?.backup_id).collect())
}

async fn make(client: &Client, wanted: &Import, found: &ChainInfo, row: &mut Imported) -> Result<(), Error> {
    let meta = found.volume_meta.as_deref().and_then(|meta| serde_json::from_str(meta).ok());
    let told = |key: &str| text(meta.as_ref(), key);
    let Some(namespace) = wanted.namespace.clone().or_else(|| told("kubernetes.namespace")) else {
        row.skipped = Some("it does not tell of a namespace: give --into".to_owned());
        return Ok(());
    };
    let base = found.backup.name.clone().filter(|name| is_name(name));
    let base = base.unwrap_or_else(|| format!("volume-{}", found.backup.volume_id));
    let name = names::derived(&base, &found.backup.backup_id.to_string());
    row.namespace = Some(namespace.clone());
    row.name = Some(name.clone());
    if wanted.dry_run {
        return Ok(());
    }
    let spec = VolumeBackupSpec {
        repository: wanted.repository.to_string(),
        driver: Some(wanted.driver.clone()),
        deletion_policy: wanted.deletion_policy,
        ..VolumeBackupSpec::default()
    };
    let mut object = VolumeBackup::new(&name, spec);
    object.annotations_mut().insert(names::IMPORTED.to_owned(), "true".to_owned());
    let api: Api<VolumeBackup> = Api::namespaced(client.clone(), &namespace);
    match api.create(&PostParams::default(), &object).await {
        // Of an import that was broken off before the status was written.
        Err(error) if has_code(&error, 409) => {}
        made => drop(made.context(ApiSnafu { doing: format!("make VolumeBackup {namespace}/{name}") })?),
    }
    let patch = Patch::Merge(json!({"status": status(found, &row.handle, told)}));
    let written = api.patch_status(&name, &PatchParams::default(), &patch).await;
    written
        .map(drop)
        .context(ApiSnafu { doing: format!("write the status of VolumeBackup {namespace}/{name}") })
}

fn status(found: &ChainInfo, handle: &str, told: impl Fn(&str) -> Option<String>) -> VolumeBackupStatus {
    let backup = &found.backup;
    let mut status = VolumeBackupStatus {
        phase: Phase::Completed,
        progress: Some(100),
        bytes_total: Some(found.bytes_total),
        bytes_changed: Some(backup.bytes_changed),
        bytes_uploaded: Some(backup.bytes_stored),
        backup_id: Some(backup.backup_id),
        parent_id: backup.parent_id,
        handle: Some(handle.to_owned()),
        snapshot_handle: told("strata.snapshot"),
        volume_id: Some(backup.volume_id),
        claim: told("kubernetes.claim"),
        snapshot_time: told("strata.created-at").and_then(|time| time.parse::<Timestamp>().ok()),
        completed_at: backup.created_at.parse().ok(),
        ..VolumeBackupStatus::default()
    };
    set_condition(&mut status.conditions, "Complete", true, "Imported", handle);
    status
}

fn text(meta: Option<&Value>, key: &str) -> Option<String> {
    let text = meta?.get("volume-metadata")?.get(key)?.as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}

/// As Kubernetes has names of objects.
fn is_name(text: &str) -> bool {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let ends = |c: char| c.is_ascii_alphanumeric();
    text.len() <= 253 && text.chars().all(fine) && text.starts_with(ends) && text.ends_with(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_the_api_takes() {
        assert!(is_name("nightly-1.a"));
        for wrong in ["", "Upper", "a_b", "-a", "a-", "über"] {
            assert!(!is_name(wrong), "{wrong}");
        }
    }

    #[test]
    fn what_the_metadata_tell() {
        let meta = json!({"volume-metadata": {"kubernetes.claim": "data", "empty": ""}});
        assert_eq!(text(Some(&meta), "kubernetes.claim").as_deref(), Some("data"));
        assert_eq!(text(Some(&meta), "empty"), None);
        assert_eq!(text(None, "kubernetes.claim"), None);
    }
}
