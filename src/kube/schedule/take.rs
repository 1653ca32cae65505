//! Snapshots of the claims that a schedule selects.

use crate::kube::context::Context;
use crate::kube::crd::schedule::{BackupSchedule, ClaimSelector, Operator};
use crate::kube::crd::snapshot::{VolumeSnapshot, VolumeSnapshotSource, VolumeSnapshotSpec};
use crate::kube::error::{ApiSnafu, Error, has_code};
use crate::kube::names::{self, BACKUP_PHASE, CLAIM, REPOSITORY, SCHEDULE, SCHEDULED_AT};
use crate::kube::pages::list_all;
use ::kube::api::{ListParams, PostParams};
use ::kube::{Api, ResourceExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use snafu::ResultExt;

/// How many claims were looked at.
pub(super) struct Taken {
    pub claims: u32,
    pub left_out: u32,
}

/// Takes a snapshot of each selected claim whose last one has been dealt with. Done already: nothing.
pub(super) async fn take(
    context: &Context,
    schedule: &BackupSchedule,
    snapshots: &[VolumeSnapshot],
    due: Timestamp,
) -> Result<Taken, Error> {
    let namespace = schedule.namespace().unwrap_or_default();
    let mut taken = Taken { claims: 0, left_out: 0 };
    for claim in select(context, schedule).await? {
        taken.claims += 1;
        let snapshot = snapshot(schedule, &claim, due);
        if is_busy(snapshots, &claim, &snapshot.name_any()) {
            taken.left_out += 1;
            continue;
        }
        let api: Api<VolumeSnapshot> = Api::namespaced(context.client.clone(), &namespace);
        match api.create(&PostParams::default(), &snapshot).await {
            Err(error) if has_code(&error, 409) => {}
            made => drop(made.context(ApiSnafu { doing: "take a VolumeSnapshot" })?),
        }
    }
    Ok(taken)
}

/// The claims that a schedule looks after now, which is noted for whoever watches.
pub(super) async fn select(
    context: &Context,
    schedule: &BackupSchedule,
) -> Result<Vec<PersistentVolumeClaim>, Error> {
    let namespace = schedule.namespace().unwrap_or_default();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &namespace);
    let selected = ListParams::default().labels(&selector(&schedule.spec.selector));
    let found =
        list_all(&claims, &selected).await.context(ApiSnafu { doing: "list the claims of a schedule" })?;
    let mut ours = Vec::new();
    for claim in found {
        if is_ours(context, &claim).await? {
            ours.push(claim);
        }
    }
    context.wanted.selects(schedule, &ours);
    Ok(ours)
}

/// Whether a claim is bound to a volume of our driver.
async fn is_ours(context: &Context, claim: &PersistentVolumeClaim) -> Result<bool, Error> {
    let is_bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    let Some(volume) = volume.filter(|_| is_bound && claim.metadata.deletion_timestamp.is_none()) else {
        return Ok(false);
    };
    let volumes: Api<PersistentVolume> = Api::all(context.client.clone());
    let found = volumes.get_opt(volume).await.context(ApiSnafu { doing: "read a PersistentVolume" })?;
    let driver = found.and_then(|found| Some(found.spec?.csi?.driver));
    Ok(driver.as_deref() == Some(context.settings.driver.as_str()))
}

/// Whether an earlier snapshot of the claim still waits for its backup, whatever it waits for.
fn is_busy(snapshots: &[VolumeSnapshot], claim: &PersistentVolumeClaim, own: &str) -> bool {
    let uid = claim.metadata.uid.as_deref();
    snapshots.iter().any(|snapshot| {
        snapshot.labels().get(CLAIM).map(String::as_str) == uid
            && snapshot.name_any() != own
            && snapshot.metadata.deletion_timestamp.is_none()
            && !matches!(
                snapshot.annotations().get(BACKUP_PHASE).map(String::as_str),
                Some("Completed" | "Failed")
            )
    })
}

fn snapshot(schedule: &BackupSchedule, claim: &PersistentVolumeClaim, due: Timestamp) -> VolumeSnapshot {
    let (name, spec) = (schedule.name_any(), &schedule.spec);
    let claim_uid = claim.metadata.uid.clone().unwrap_or_default();
    let schedule_uid = schedule.metadata.uid.as_deref().unwrap_or_default();
    let stamp = due.strftime("%Y%m%d%H%M").to_string();
    let what = format!("{schedule_uid} {claim_uid} {due}");
    let source = VolumeSnapshotSource {
        persistent_volume_claim_name: Some(claim.name_any()),
        ..VolumeSnapshotSource::default()
    };
    let mut snapshot = VolumeSnapshot::new(
        &names::derived(&format!("{name}-{stamp}-{}", claim.name_any()), &what),
        VolumeSnapshotSpec { source, volume_snapshot_class_name: spec.volume_snapshot_class_name.clone() },
    );
    snapshot.labels_mut().extend([
        (REPOSITORY.to_owned(), spec.repository.clone()),
        (SCHEDULE.to_owned(), name),
        (CLAIM.to_owned(), claim_uid),
    ]);
    snapshot.annotations_mut().insert(SCHEDULED_AT.to_owned(), due.to_string());
    snapshot
}

/// As the API's list takes it.
fn selector(selector: &ClaimSelector) -> String {
    let mut parts: Vec<String> =
        selector.match_labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    parts.extend(selector.match_expressions.iter().map(|requirement| {
        let (key, values) = (&requirement.key, requirement.values.join(","));
        match requirement.operator {
            Operator::In => format!("{key} in ({values})"),
            Operator::NotIn => format!("{key} notin ({values})"),
            Operator::Exists => key.clone(),
            Operator::DoesNotExist => format!("!{key}"),
        }
    }));
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::crd::schedule::Requirement;

    #[test]
    fn a_selector_as_the_api_takes_it() {
        let requirement = |key: &str, operator, values: &[&str]| Requirement {
            key: key.to_owned(),
            operator,
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        };
        let all = ClaimSelector {
            match_labels: [("app".to_owned(), "db".to_owned())].into(),
            match_expressions: vec![
                requirement("tier", Operator::In, &["a", "b"]),
                requirement("env", Operator::NotIn, &["test"]),
                requirement("keep", Operator::Exists, &[]),
                requirement("drop", Operator::DoesNotExist, &[]),
            ],
        };
        assert_eq!(selector(&all), "app=db,tier in (a,b),env notin (test),keep,!drop");
        assert_eq!(selector(&ClaimSelector::default()), "");
    }
}
