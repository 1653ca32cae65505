//! Which backups and snapshots of a schedule go. Pure: the objects decide.

use crate::backup::{Basis, Candidate};
use crate::kube::crd::backup::{Phase, VolumeBackup};
use crate::kube::crd::schedule::Retention;
use crate::kube::crd::snapshot::VolumeSnapshot;
use crate::kube::names::{BACKUP_PHASE, CLAIM, SCHEDULED_AT};
use ::kube::ResourceExt;
use jiff::Timestamp;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Of backups that failed for good the newest stay, for people to look at.
const FAILED_KEPT: usize = 3;

/// The backups of each claim.
fn by_claim(backups: &[VolumeBackup]) -> BTreeMap<&str, Vec<&VolumeBackup>> {
    let mut claims: BTreeMap<&str, Vec<&VolumeBackup>> = BTreeMap::new();
    for backup in backups {
        let claim = backup.labels().get(CLAIM).map(String::as_str).unwrap_or_default();
        claims.entry(claim).or_default().push(backup);
    }
    claims
}

/// The next backups that go: one of each claim at a time, the newest first, so that what is made on it is made whole, or gone,
/// before what it is made on.
pub(super) fn next_to_go<'a>(backups: &'a [VolumeBackup], retention: &Retention) -> Vec<&'a VolumeBackup> {
    let next = by_claim(backups).into_values().filter_map(|mut backups| {
        if backups.iter().any(|backup| backup.metadata.deletion_timestamp.is_some()) {
            return None;
        }
        backups.sort_by_key(|backup| Reverse(time(backup)));
        let complete: Vec<&VolumeBackup> =
            backups.iter().copied().filter(|backup| phase(backup) == Phase::Completed).collect();
        going(&complete, retention).or_else(|| failed(&backups, complete.first().copied()))
    });
    next.collect()
}

/// The newest of the complete ones that no rule keeps.
fn going<'a>(complete: &[&'a VolumeBackup], retention: &Retention) -> Option<&'a VolumeBackup> {
    let rules = retention.rules();
    if rules.is_empty() {
        return None;
    }
    let candidates: Vec<Candidate> = complete.iter().filter_map(|backup| candidate(backup)).collect();
    let decisions = rules.decide(&candidates, retention.rebase);
    let gone = decisions.iter().find(|decision| decision.keep.is_empty())?;
    let is_it = |backup: &&&VolumeBackup| {
        backup.status.as_ref().and_then(|status| status.backup_id) == Some(gone.backup)
    };
    complete.iter().find(is_it).copied()
}

fn candidate(backup: &VolumeBackup) -> Option<Candidate> {
    let status = backup.status.as_ref()?;
    Some(Candidate {
        backup: status.backup_id?,
        basis: status.parent_id.map_or(Basis::Full, Basis::On),
        created: time(backup),
        good: status.verification.as_ref().is_none_or(|verification| verification.good),
    })
}

/// The newest of those that failed for good, are older than a good one, and are too many.
fn failed<'a>(backups: &[&'a VolumeBackup], good: Option<&VolumeBackup>) -> Option<&'a VolumeBackup> {
    let good = good?;
    let ended = |backup: &&&VolumeBackup| {
        let retries = backup.status.as_ref().is_some_and(|status| status.retry_at.is_some());
        phase(backup) == Phase::Failed && !retries && time(backup) < time(good)
    };
    backups.iter().filter(ended).nth(FAILED_KEPT).copied()
}

/// The snapshots that go: backed up, and not among the newest so many of their claim; or older than one of those, and
/// failed for good.
pub(super) fn snapshots_to_go(snapshots: &[VolumeSnapshot], keep: usize) -> Vec<&VolumeSnapshot> {
    let mut claims: BTreeMap<&str, Vec<&VolumeSnapshot>> = BTreeMap::new();
    for snapshot in snapshots.iter().filter(|snapshot| snapshot.metadata.deletion_timestamp.is_none()) {
        let claim = snapshot.labels().get(CLAIM).map(String::as_str).unwrap_or_default();
        claims.entry(claim).or_default().push(snapshot);
    }
    let mut going = Vec::new();
    for mut snapshots in claims.into_values() {
        snapshots.sort_by_key(|snapshot| Reverse(snapshot_time(snapshot)));
        let mut complete = 0;
        for snapshot in snapshots {
            match snapshot.annotations().get(BACKUP_PHASE).map(String::as_str) {
                Some("Completed") => {
                    complete += 1;
                    going.extend((complete > keep).then_some(snapshot));
                }
                Some("Failed") if complete > 0 => going.push(snapshot),
                _ => {}
            }
        }
    }
    going
}

fn phase(backup: &VolumeBackup) -> Phase {
    backup.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

/// The time of the schedule that a backup is of; else that of its snapshot.
fn time(backup: &VolumeBackup) -> Option<Timestamp> {
    let scheduled = backup.annotations().get(SCHEDULED_AT).and_then(|at| at.parse().ok());
    scheduled.or_else(|| backup.status.as_ref().and_then(|status| status.snapshot_time))
}

fn snapshot_time(snapshot: &VolumeSnapshot) -> Option<Timestamp> {
    let scheduled = snapshot.annotations().get(SCHEDULED_AT).and_then(|at| at.parse().ok());
    scheduled.or_else(|| snapshot.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::crd::backup::{VolumeBackupSpec, VolumeBackupStatus};
    use crate::kube::crd::snapshot::VolumeSnapshotSpec;
    use uuid::Uuid;

    fn backup(day: u32, phase: Phase, parent: Option<u32>) -> VolumeBackup {
        let mut backup = VolumeBackup::new(&format!("b{day}"), VolumeBackupSpec::default());
        backup.labels_mut().insert(CLAIM.to_owned(), "c".to_owned());
        backup.annotations_mut().insert(SCHEDULED_AT.to_owned(), format!("2026-01-{day:02}T00:00:00Z"));
        let id = |day: u32| Uuid::from_u128(u128::from(day));
        backup.status = Some(VolumeBackupStatus {
            phase,
            backup_id: Some(id(day)),
            parent_id: parent.map(id),
            ..VolumeBackupStatus::default()
        });
        backup
    }

    fn names(going: Vec<&VolumeBackup>) -> Vec<String> {
        going.iter().map(|backup| backup.name_any()).collect()
    }

    fn keep(last: u32, rebase: bool) -> Retention {
        Retention { keep_last: last, rebase, ..Retention::default() }
    }

    #[test]
    fn only_complete_ones_count_and_the_newest_that_goes_is_the_first() {
        use Phase::{Completed, Failed, Running};
        let all = [
            backup(1, Completed, None),
            backup(2, Completed, Some(1)),
            backup(3, Completed, Some(2)),
            backup(4, Failed, None),
            backup(5, Running, None),
        ];
        assert_eq!(names(next_to_go(&all, &keep(1, true))), ["b2"]);
        assert_eq!(names(next_to_go(&all, &keep(3, true))), Vec::<String>::new());
        assert_eq!(
            names(next_to_go(&all, &keep(1, false))),
            Vec::<String>::new(),
            "the last one needs the others"
        );
        assert_eq!(names(next_to_go(&all, &keep(0, true))), Vec::<String>::new(), "no rule");
    }

    #[test]
    fn the_last_good_one_stays_and_one_deletion_is_awaited() {
        let mut all = [backup(1, Phase::Completed, None), backup(2, Phase::Failed, None)];
        assert!(next_to_go(&all, &keep(1, true)).is_empty());
        let mut damaged = backup(3, Phase::Completed, None);
        let verification = crate::kube::crd::backup::Verification { good: false, ..Default::default() };
        damaged.status.as_mut().unwrap().verification = Some(verification);
        let [first, _] = &all;
        assert!(next_to_go(&[first.clone(), damaged], &keep(1, true)).is_empty());
        all[0].metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now()));
        assert!(next_to_go(&all, &keep(1, true)).is_empty());
    }

    #[test]
    fn old_failures_go_once_there_is_a_good_one() {
        let mut all: Vec<_> = (1..=5).map(|day| backup(day, Phase::Failed, None)).collect();
        assert!(next_to_go(&all, &keep(1, true)).is_empty());
        all.push(backup(6, Phase::Completed, None));
        assert_eq!(names(next_to_go(&all, &keep(1, true))), ["b2"]);
    }

    #[test]
    fn snapshots_that_were_backed_up_go_but_for_the_newest() {
        let snapshot = |day: u32, phase: Option<&str>| {
            let mut snapshot = VolumeSnapshot::new(&format!("s{day}"), VolumeSnapshotSpec::default());
            snapshot.annotations_mut().insert(SCHEDULED_AT.to_owned(), format!("2026-01-{day:02}T00:00:00Z"));
            snapshot.annotations_mut().extend(phase.map(|p| (BACKUP_PHASE.to_owned(), p.to_owned())));
            snapshot
        };
        let all = [
            snapshot(1, Some("Completed")),
            snapshot(2, Some("Failed")),
            snapshot(3, Some("Completed")),
            snapshot(4, Some("Failed")),
            snapshot(5, None),
        ];
        let going: Vec<String> = snapshots_to_go(&all, 1).iter().map(|s| s.name_any()).collect();
        assert_eq!(going, ["s2", "s1"]);
        assert!(snapshots_to_go(&all, 2).iter().all(|s| s.name_any() == "s2"));
    }
}
