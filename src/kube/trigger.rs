//! A snapshot that is ready and has a repository gets its VolumeBackup, once.

use super::context::Context;
use super::crd::backup::{SnapshotRef, VolumeBackup, VolumeBackupSpec};
use super::crd::schedule::BackupSchedule;
use super::crd::snapshot::{VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent};
use super::error::{ApiSnafu, Error, IncompleteSnafu, has_code, said};
use super::job::as_job;
use super::names::{self, BACKUP, CLAIM, NO_REPOSITORY, REPOSITORY, SCHEDULE, SCHEDULED_AT};
use crate::volume::SnapshotHandle;
use ::kube::api::{Patch, PatchParams, PostParams};
use ::kube::runtime::controller::Action;
use ::kube::runtime::reflector::{ObjectRef, Store};
use ::kube::{Api, ResourceExt};
use serde_json::json;
use snafu::{OptionExt, ResultExt};
use std::sync::Arc;
use std::time::Duration;

/// As all parts, and the classes of snapshots.
pub struct WithClasses {
    /// As all parts.
    pub context: Arc<Context>,
    /// The classes, as last seen.
    pub classes: Store<VolumeSnapshotClass>,
}

/// Looks at one snapshot, whenever it changes.
pub async fn reconcile(snapshot: Arc<VolumeSnapshot>, trigger: Arc<WithClasses>) -> Result<Action, Error> {
    let context = &trigger.context;
    let class = snapshot.spec.volume_snapshot_class_name.as_deref();
    let class = class.and_then(|class| trigger.classes.get(&ObjectRef::new(class)));
    match wanted(&snapshot, class.as_deref()) {
        Some(repository) => as_job("trigger", &*snapshot, start(context, &snapshot, &repository)).await,
        None => Ok(Action::await_change()),
    }
}

async fn start(context: &Context, snapshot: &VolumeSnapshot, repository: &str) -> Result<Action, Error> {
    if !is_ours(&context.client, snapshot, &context.settings.driver).await? {
        return Ok(Action::await_change());
    }
    let name = match make(context, snapshot, repository).await? {
        Ok(name) => name,
        // Nothing that trying again could change.
        Err(reason) => {
            context.events.of_snapshot(snapshot, true, "BackupRefused", &reason).await;
            return Ok(Action::await_change());
        }
    };
    let api: Api<VolumeSnapshot> = Api::namespaced(context.client.clone(), &namespace(snapshot)?);
    let patch = json!({"metadata": {"annotations": {BACKUP: name}, "uid": snapshot.metadata.uid}});
    match api.patch(&snapshot.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await {
        // Gone, or another one of that name: the backup is there all the same.
        Err(error) if has_code(&error, 404) || has_code(&error, 409) => {}
        other => drop(other.context(ApiSnafu { doing: "annotate a VolumeSnapshot" })?),
    }
    Ok(Action::await_change())
}

/// The repository that a snapshot asks for, if it is time.
fn wanted(snapshot: &VolumeSnapshot, class: Option<&VolumeSnapshotClass>) -> Option<String> {
    let is_ready = snapshot.status.as_ref().and_then(|status| status.ready_to_use) == Some(true);
    let is_new = !snapshot.annotations().contains_key(BACKUP);
    if !is_ready || !is_new || snapshot.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let of_class = class.and_then(|class| class.spec.parameters.get(REPOSITORY));
    let repository = snapshot.labels().get(REPOSITORY).or(of_class)?;
    (repository != NO_REPOSITORY && !repository.is_empty()).then(|| repository.clone())
}

/// Whether it is a snapshot that our driver holds: not another's, and not one that only names a backup.
async fn is_ours(client: &::kube::Client, snapshot: &VolumeSnapshot, driver: &str) -> Result<bool, Error> {
    Ok(handle_of(client, snapshot, driver).await?.is_some())
}

/// The driver's handle of a snapshot that is bound both ways.
pub(super) async fn handle_of(
    client: &::kube::Client,
    snapshot: &VolumeSnapshot,
    driver: &str,
) -> Result<Option<SnapshotHandle>, Error> {
    let content = content_of(client, snapshot).await?.filter(|content| content.spec.driver == driver);
    let handle = content.and_then(|content| content.status?.snapshot_handle);
    Ok(handle.and_then(|handle| handle.parse().ok()))
}

/// The content of a snapshot that is bound both ways.
pub(super) async fn content_of(
    client: &::kube::Client,
    snapshot: &VolumeSnapshot,
) -> Result<Option<VolumeSnapshotContent>, Error> {
    let status = snapshot.status.as_ref();
    let Some(name) = status.and_then(|status| status.bound_volume_snapshot_content_name.as_deref()) else {
        return Ok(None);
    };
    let api: Api<VolumeSnapshotContent> = Api::all(client.clone());
    let content = api.get_opt(name).await;
    let content = content.context(ApiSnafu { doing: "read a VolumeSnapshotContent" })?;
    // Else anybody could name another's content.
    Ok(content.filter(|content| content.spec.volume_snapshot_ref.uid == snapshot.metadata.uid))
}

/// Makes the VolumeBackup, or finds the one that was made before. The inner error is the API's refusal.
async fn make(
    context: &Context,
    snapshot: &VolumeSnapshot,
    repository: &str,
) -> Result<Result<String, String>, Error> {
    let uid = snapshot.metadata.uid.clone().context(IncompleteSnafu { what: "uid" })?;
    let name = names::backup_name(&snapshot.name_any(), &uid);
    let spec = VolumeBackupSpec {
        volume_snapshot: Some(SnapshotRef { name: snapshot.name_any(), uid: Some(uid) }),
        repository: repository.to_owned(),
        driver: Some(context.settings.driver.clone()),
        ..VolumeBackupSpec::default()
    };
    let mut backup = VolumeBackup::new(&name, spec);
    let namespace = namespace(snapshot)?;
    if let Some(schedule) = snapshot.labels().get(SCHEDULE) {
        follow_schedule(context, snapshot, &namespace, schedule, &mut backup).await?;
    }
    let api: Api<VolumeBackup> = Api::namespaced(context.client.clone(), &namespace);
    match api.create(&PostParams::default(), &backup).await {
        Ok(_) => Ok(Ok(name)),
        Err(error) if has_code(&error, 409) => Ok(Ok(name)),
        Err(error) if has_code(&error, 422) || has_code(&error, 400) => Ok(Err(said(&error))),
        Err(error) => Err(error).context(ApiSnafu { doing: format!("make VolumeBackup {namespace}/{name}") }),
    }
}

/// What a schedule wants of its backups.
async fn follow_schedule(
    context: &Context,
    snapshot: &VolumeSnapshot,
    namespace: &str,
    schedule: &str,
    backup: &mut VolumeBackup,
) -> Result<(), Error> {
    let labels = [SCHEDULE, CLAIM].into_iter().filter_map(|key| Some((key, snapshot.labels().get(key)?)));
    let labels: Vec<(String, String)> = labels.map(|(key, value)| (key.to_owned(), value.clone())).collect();
    backup.labels_mut().extend(labels);
    if let Some(at) = snapshot.annotations().get(SCHEDULED_AT) {
        backup.annotations_mut().insert(SCHEDULED_AT.to_owned(), at.clone());
    }
    let api: Api<BackupSchedule> = Api::namespaced(context.client.clone(), namespace);
    let found = api.get_opt(schedule).await.context(ApiSnafu { doing: "read a BackupSchedule" })?;
    if let Some(schedule) = found {
        backup.spec.deletion_policy = schedule.spec.deletion_policy;
    }
    Ok(())
}

fn namespace(snapshot: &VolumeSnapshot) -> Result<String, Error> {
    snapshot.namespace().context(IncompleteSnafu { what: "namespace" })
}

/// After a failure of the API.
pub fn failed(_: Arc<VolumeSnapshot>, _: &Error, _: Arc<WithClasses>) -> Action {
    Action::requeue(Duration::from_secs(5))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::crd::snapshot::{VolumeSnapshotClassSpec, VolumeSnapshotSpec, VolumeSnapshotStatus};
    use rstest::rstest;

    #[rstest]
    #[case(None, None, None)]
    #[case(Some("here"), None, Some("here"))]
    #[case(None, Some("there"), Some("there"))]
    #[case(Some("here"), Some("there"), Some("here"))]
    #[case(Some("none"), Some("there"), None)]
    #[case(None, Some("none"), None)]
    #[case(Some("here"), Some("none"), Some("here"))]
    fn the_label_wins(
        #[case] label: Option<&str>,
        #[case] class: Option<&str>,
        #[case] expected: Option<&str>,
    ) {
        let parameters = class.map(|name| (REPOSITORY.to_owned(), name.to_owned()));
        let parameters = parameters.into_iter().collect();
        let class =
            VolumeSnapshotClass::new("c", VolumeSnapshotClassSpec { parameters, ..Default::default() });
        let mut snapshot = VolumeSnapshot::new("s", VolumeSnapshotSpec::default());
        if let Some(label) = label {
            snapshot.labels_mut().insert(REPOSITORY.to_owned(), label.to_owned());
        }
        assert_eq!(wanted(&snapshot, Some(&class)), None, "it is not ready");
        snapshot.status = Some(VolumeSnapshotStatus { ready_to_use: Some(true), ..Default::default() });
        assert_eq!(wanted(&snapshot, Some(&class)).as_deref(), expected);
        snapshot.annotations_mut().insert(BACKUP.to_owned(), "made".to_owned());
        assert_eq!(wanted(&snapshot, Some(&class)), None, "it has one");
    }
}
