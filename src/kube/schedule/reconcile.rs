//! What is due for one BackupSchedule.

use super::cron::Times;
use super::retention::{next_to_go, snapshots_to_go};
use super::take::{select, take};
use crate::kube::context::Context;
use crate::kube::crd::backup::{Phase, VolumeBackup};
use crate::kube::crd::schedule::{BackupSchedule, BackupScheduleStatus};
use crate::kube::crd::set_condition;
use crate::kube::crd::snapshot::{VolumeSnapshot, VolumeSnapshotClass};
use crate::kube::error::{ApiSnafu, Error, has_code};
use crate::kube::job::as_job;
use crate::kube::names::SCHEDULE;
use crate::kube::pages::list_all;
use crate::kube::trigger::WithClasses;
use ::kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use ::kube::runtime::controller::Action;
use ::kube::runtime::reflector::ObjectRef;
use ::kube::{Api, ResourceExt};
use jiff::SignedDuration;
use serde_json::json;
use snafu::ResultExt;
use std::sync::Arc;
use std::time::Duration;

/// A machine that slept is not told that time has passed.
const LONGEST: Duration = Duration::from_secs(3600);
const DEFAULT_CLASS: &str = "snapshot.storage.kubernetes.io/is-default-class";

/// Looks at one schedule: when it changes, when its time comes, and when one of its backups has ended.
pub async fn reconcile(schedule: Arc<BackupSchedule>, with: Arc<WithClasses>) -> Result<Action, Error> {
    if schedule.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    as_job("schedule", &*schedule, look(&schedule, &with)).await
}

async fn look(schedule: &BackupSchedule, with: &WithClasses) -> Result<Action, Error> {
    let context = &with.context;
    let mut status = schedule.status.clone().unwrap_or_default();
    let is_same = status.observed_generation == schedule.metadata.generation;
    let announced = status.next_schedule_time.filter(|_| is_same);
    status.observed_generation = schedule.metadata.generation;
    let times = match times(schedule, with) {
        Ok(Some(times)) => times,
        // Another installation's.
        Ok(None) => return Ok(Action::await_change()),
        Err(message) => {
            if status.message.as_ref() != Some(&message) {
                tracing::warn!(error = message, "the schedule is not kept");
            }
            set_condition(&mut status.conditions, "Valid", false, "Invalid", &message);
            status.message = Some(message);
            status.next_schedule_time = None;
            write(context, schedule, &status).await?;
            return Ok(Action::requeue(LONGEST / 60));
        }
    };
    set_condition(&mut status.conditions, "Valid", true, "Valid", "schedule and class are understood");
    status.message = None;
    let namespace = schedule.namespace().unwrap_or_default();
    let label = ListParams::default().labels(&format!("{SCHEDULE}={}", schedule.name_any()));
    let snapshots: Api<VolumeSnapshot> = Api::namespaced(context.client.clone(), &namespace);
    let taken = list_all(&snapshots, &label).await.context(ApiSnafu { doing: "list VolumeSnapshots" })?;
    let now = context.clock.now();
    let created = schedule.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    // Also a clock that is behind the API server's reaches the time that was announced.
    let announced = announced.and_then(|next| next.checked_sub(SignedDuration::from_nanos(1)).ok());
    let after = status.last_schedule_time.unwrap_or_else(|| created.min(now));
    let after = announced.map_or(after, |announced| after.min(announced));
    let due = times.due(after, now).filter(|_| !schedule.spec.suspend);
    if let Some(due) = due {
        let done = take(context, schedule, &taken, due).await?;
        status.last_schedule_time = Some(due);
        status.claims = Some(done.claims);
        status.left_out = Some(done.left_out);
        tracing::info!(%due, claims = done.claims, left_out = done.left_out, "taken");
    }
    if !context.wanted.knows(schedule) {
        select(context, schedule).await?;
    }
    status.next_schedule_time = times.next(now).filter(|_| !schedule.spec.suspend);
    write(context, schedule, &status).await?;
    tidy(context, schedule, &namespace, &label, &taken).await?;
    let wait = status.next_schedule_time.and_then(|next| Duration::try_from(next.duration_since(now)).ok());
    Ok(Action::requeue(wait.map_or(LONGEST, |wait| wait.clamp(Duration::from_secs(1), LONGEST))))
}

/// When it is due; None: it is not for us.
fn times(schedule: &BackupSchedule, with: &WithClasses) -> Result<Option<Times>, String> {
    if !is_ours(schedule, &with.classes.state(), &with.context.settings.driver)? {
        return Ok(None);
    }
    Times::parse(&schedule.spec.schedule, schedule.spec.time_zone.as_deref()).map(Some)
}

/// Whether its snapshots are of our driver, by their class. Each driver may have a default class.
fn is_ours(
    schedule: &BackupSchedule,
    classes: &[Arc<VolumeSnapshotClass>],
    driver: &str,
) -> Result<bool, String> {
    let is_default = |class: &VolumeSnapshotClass| {
        class.annotations().get(DEFAULT_CLASS).map(String::as_str) == Some("true")
    };
    let name = schedule.spec.volume_snapshot_class_name.as_deref();
    let is_meant = |class: &&Arc<VolumeSnapshotClass>| match name {
        Some(name) => class.name_any() == name,
        None => is_default(class),
    };
    let drivers: Vec<&str> =
        classes.iter().filter(is_meant).map(|class| class.spec.driver.as_str()).collect();
    match name {
        _ if !drivers.is_empty() => Ok(drivers.contains(&driver)),
        Some(name) => Err(format!("there is no VolumeSnapshotClass {name}")),
        None => Err("there is no default VolumeSnapshotClass: name one".to_owned()),
    }
}

/// Removes what no rule keeps.
async fn tidy(
    context: &Context,
    schedule: &BackupSchedule,
    namespace: &str,
    label: &ListParams,
    taken: &[VolumeSnapshot],
) -> Result<(), Error> {
    let snapshots: Api<VolumeSnapshot> = Api::namespaced(context.client.clone(), namespace);
    for snapshot in snapshots_to_go(taken, schedule.spec.keep_snapshots as usize) {
        let answer = snapshots.delete(&snapshot.name_any(), &only(snapshot.metadata.uid.clone())).await;
        deleted(answer.map(drop))?;
    }
    let Some(retention) = &schedule.spec.retention else { return Ok(()) };
    let backups: Api<VolumeBackup> = Api::namespaced(context.client.clone(), namespace);
    let all = list_all(&backups, label).await.context(ApiSnafu { doing: "list VolumeBackups" })?;
    for backup in next_to_go(&all, retention) {
        let name = backup.name_any();
        if retention.rebase {
            let patch = Patch::Merge(json!({"spec": {"dependents": "Rebase"}}));
            deleted(backups.patch(&name, &PatchParams::default(), &patch).await.map(drop))?;
        }
        tracing::info!(backup = name, "no rule keeps it");
        deleted(backups.delete(&name, &only(backup.metadata.uid.clone())).await.map(drop))?;
    }
    Ok(())
}

/// This object, not another one of its name.
fn only(uid: Option<String>) -> DeleteParams {
    let preconditions = Preconditions { uid, resource_version: None };
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }
}

/// Gone already is as good.
fn deleted(answer: ::kube::Result<()>) -> Result<(), Error> {
    match answer {
        Err(error) if has_code(&error, 404) || has_code(&error, 409) => Ok(()),
        other => other.context(ApiSnafu { doing: "delete what no rule keeps" }),
    }
}

async fn write(
    context: &Context,
    schedule: &BackupSchedule,
    status: &BackupScheduleStatus,
) -> Result<(), Error> {
    if schedule.status.as_ref() == Some(status) {
        return Ok(());
    }
    let api: Api<BackupSchedule> =
        Api::namespaced(context.client.clone(), &schedule.namespace().unwrap_or_default());
    let mut patch = json!({"status": status});
    // What is no longer so is taken away by a null.
    patch["status"]["message"] = json!(status.message);
    patch["status"]["nextScheduleTime"] = json!(status.next_schedule_time);
    match api.patch_status(&schedule.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await {
        Err(error) if has_code(&error, 404) => Ok(()),
        answer => answer.map(drop).context(ApiSnafu { doing: "write the status of a BackupSchedule" }),
    }
}

/// The schedule of a backup that has ended or is going.
pub fn of_backup(backup: VolumeBackup) -> Option<ObjectRef<BackupSchedule>> {
    let phase = backup.status.as_ref().map(|status| status.phase).unwrap_or_default();
    let is_over = matches!(phase, Phase::Completed | Phase::Failed | Phase::Deleting);
    let schedule = backup.labels().get(SCHEDULE).filter(|_| is_over)?;
    Some(ObjectRef::new(schedule).within(&backup.namespace()?))
}

/// After a failure of the API.
pub fn failed(_: Arc<BackupSchedule>, _: &Error, _: Arc<WithClasses>) -> Action {
    Action::requeue(Duration::from_secs(5))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::crd::schedule::BackupScheduleSpec;
    use crate::kube::crd::snapshot::VolumeSnapshotClassSpec;
    use rstest::rstest;

    /// Of two drivers with a default class each, and more.
    #[rstest]
    #[case(None, "ours", Ok(true))]
    #[case(None, "theirs", Ok(true))]
    #[case(None, "nobodys", Ok(false))]
    #[case(Some("b"), "ours", Ok(true))]
    #[case(Some("b"), "theirs", Ok(false))]
    #[case(Some("none"), "ours", Err("there is no VolumeSnapshotClass none"))]
    fn a_schedule_is_for_the_driver_of_its_class(
        #[case] name: Option<&str>,
        #[case] driver: &str,
        #[case] expected: Result<bool, &str>,
    ) {
        let class = |name: &str, driver: &str, default: bool| {
            let spec = VolumeSnapshotClassSpec { driver: driver.to_owned(), ..Default::default() };
            let mut class = VolumeSnapshotClass::new(name, spec);
            class.annotations_mut().insert(DEFAULT_CLASS.to_owned(), default.to_string());
            Arc::new(class)
        };
        let classes = [class("x", "theirs", true), class("a", "ours", true), class("b", "ours", false)];
        let volume_snapshot_class_name = name.map(str::to_owned);
        let spec = BackupScheduleSpec { volume_snapshot_class_name, ..Default::default() };
        let schedule = BackupSchedule::new("s", spec);
        assert_eq!(is_ours(&schedule, &classes, driver), expected.map_err(str::to_owned));
        let without = is_ours(&BackupSchedule::new("s", Default::default()), &[], driver);
        assert!(without.unwrap_err().contains("no default"));
    }
}
