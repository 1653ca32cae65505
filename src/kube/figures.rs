//! What objects tell of backups, looked up at each scrape: a series goes when its objects go.

use super::crd::backup::{Phase, VolumeBackup};
use super::crd::is_for;
use super::crd::repository::BackupRepository;
use super::crd::schedule::BackupSchedule;
use super::due::{Due, Wanted};
use super::names::IMPORTED;
use crate::metrics::{Sample, Samples};
use ::kube::ResourceExt;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

const PHASES: [Phase; 5] = [Phase::Pending, Phase::Running, Phase::Completed, Phase::Failed, Phase::Deleting];

/// Everything that is known of backups.
#[derive(Debug, Default)]
pub struct Objects {
    /// The driver whose backups are told of.
    pub driver: String,
    /// All VolumeBackups.
    pub backups: Vec<Arc<VolumeBackup>>,
    /// All BackupRepositories.
    pub repositories: Vec<Arc<BackupRepository>>,
    /// All BackupSchedules.
    pub schedules: Vec<Arc<BackupSchedule>>,
    /// The claims that each schedule looks after.
    pub wanted: Wanted,
}

/// A claim's backups in one repository. By the claim's name, as kubelet and kube-state-metrics have it: a claim that is made
/// anew goes on with its series, and the number of series is that of claims, however many volumes come and go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OfClaim {
    pub namespace: String,
    pub claim: String,
    pub repository: String,
}

impl OfClaim {
    fn labels(&self) -> Vec<(&'static str, String)> {
        vec![
            ("namespace", self.namespace.clone()),
            ("persistentvolumeclaim", self.claim.clone()),
            ("repository", self.repository.clone()),
        ]
    }
}

/// What is told of them.
pub fn figures(objects: &Objects) -> Vec<Samples> {
    let all = of_repositories(objects).into_iter();
    all.chain(of_backups(objects)).chain([due(objects)]).collect()
}

fn gauge(name: &'static str, help: &'static str, samples: Vec<Sample>) -> Samples {
    Samples { name, help, samples }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_second() as f64
}

fn of_repositories(objects: &Objects) -> Vec<Samples> {
    let is_ours = |object: &&Arc<BackupRepository>| is_for(object.spec.driver.as_deref(), &objects.driver);
    let each = |value: &dyn Fn(&BackupRepository) -> Option<f64>| {
        let labels = |object: &BackupRepository| vec![("repository", object.name_any())];
        let sample = |object: &Arc<BackupRepository>| {
            value(object).map(|value| Sample { labels: labels(object), value })
        };
        objects.repositories.iter().filter(is_ours).filter_map(sample).collect::<Vec<Sample>>()
    };
    // One that nobody has looked at yet is neither up nor down.
    let checked =
        |object: &BackupRepository| object.status.clone().filter(|status| status.last_checked.is_some());
    let up = each(&|object| checked(object).map(|status| if status.reachable { 1.0 } else { 0.0 }));
    let last = each(&|object| checked(object)?.last_checked.map(seconds));
    let usage = |object: &BackupRepository| object.status.as_ref()?.usage.clone();
    let stored = each(&|object| usage(object).map(|usage| usage.bytes as f64));
    let backups = each(&|object| usage(object).map(|usage| usage.backups as f64));
    vec![
        gauge(
            "backup_repository_up",
            "1: the repository answered when it was last looked at; 0: it did not",
            up,
        ),
        gauge(
            "backup_repository_last_check_timestamp_seconds",
            "When it was last looked at, in Unix time",
            last,
        ),
        gauge("backup_repository_stored_bytes", "What the backups in it take", stored),
        gauge("backup_repository_backups", "Complete backups in it", backups),
    ]
}

fn of_backups(objects: &Objects) -> Vec<Samples> {
    let mut phases: BTreeMap<(String, Phase), usize> = BTreeMap::new();
    let mut pending: BTreeMap<String, Timestamp> = BTreeMap::new();
    let mut claims: BTreeMap<OfClaim, Claim> = BTreeMap::new();
    for backup in ours(objects) {
        let (repository, phase) = (backup.spec.repository.clone(), phase(backup));
        for one in PHASES {
            *phases.entry((repository.clone(), one)).or_default() += usize::from(one == phase);
        }
        let made = backup.metadata.creation_timestamp.as_ref().map(|time| time.0).unwrap_or_default();
        if phase == Phase::Pending {
            let oldest = pending.entry(repository).or_insert(made);
            *oldest = made.min(*oldest);
        }
        if let Some(claim) = claim_of(backup) {
            claims.entry(claim).or_default().add(backup, phase, made);
        }
    }
    let by_phase = |((repository, phase), count): ((String, Phase), usize)| Sample {
        labels: vec![("repository", repository), ("phase", phase.to_string())],
        value: count as f64,
    };
    let of_repository =
        |(repository, value): (String, f64)| Sample { labels: vec![("repository", repository)], value };
    let mut failing: BTreeMap<String, f64> = BTreeMap::new();
    for (of, claim) in &claims {
        *failing.entry(of.repository.clone()).or_default() += f64::from(u8::from(claim.fails()));
    }
    let success = |(of, claim): (&OfClaim, &Claim)| {
        claim.completed.map(|at| Sample { labels: of.labels(), value: seconds(at) })
    };
    vec![
        gauge("backups", "VolumeBackups by phase", phases.into_iter().map(by_phase).collect()),
        gauge(
            "backup_oldest_pending_timestamp_seconds",
            "When the oldest VolumeBackup that has not begun was made, in Unix time",
            pending.into_iter().map(|(repository, at)| of_repository((repository, seconds(at)))).collect(),
        ),
        gauge(
            "backup_failing_claims",
            "Claims whose newest VolumeBackup has failed",
            failing.into_iter().map(of_repository).collect(),
        ),
        gauge(
            "backup_last_success_timestamp_seconds",
            "When a backup of the claim was last completed, in Unix time",
            claims.iter().filter_map(success).collect(),
        ),
    ]
}

fn due(objects: &Objects) -> Samples {
    let mut last: BTreeMap<OfClaim, Timestamp> = BTreeMap::new();
    for backup in ours(objects).filter(|backup| phase(backup) == Phase::Completed) {
        if let (Some(claim), Some(state)) = (claim_of(backup), state_of(backup)) {
            let newest = last.entry(claim).or_insert(state);
            *newest = state.max(*newest);
        }
    }
    let sample = |Due { of, schedule, at }: Due| Sample {
        labels: of.labels().into_iter().chain([("schedule", schedule)]).collect(),
        value: seconds(at),
    };
    let due = objects.wanted.due(&objects.schedules, &last);
    let help = "When by its schedule the claim's next backup is due, in Unix time; in the past: it is late";
    gauge("backup_due_timestamp_seconds", help, due.into_iter().map(sample).collect())
}

/// Not those of another installation, nor those that were made elsewhere.
fn ours(objects: &Objects) -> impl Iterator<Item = &VolumeBackup> {
    let is_ours = |backup: &&VolumeBackup| {
        is_for(backup.spec.driver.as_deref(), &objects.driver) && !backup.annotations().contains_key(IMPORTED)
    };
    objects.backups.iter().map(Arc::as_ref).filter(is_ours)
}

fn phase(backup: &VolumeBackup) -> Phase {
    backup.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

fn claim_of(backup: &VolumeBackup) -> Option<OfClaim> {
    let claim = backup.status.as_ref()?.claim.clone()?;
    let (namespace, repository) = (backup.namespace()?, backup.spec.repository.clone());
    Some(OfClaim { namespace, claim, repository })
}

/// The moment that a backup holds.
fn state_of(backup: &VolumeBackup) -> Option<Timestamp> {
    let status = backup.status.as_ref()?;
    status.snapshot_time.or(status.started_at).or(status.completed_at)
}

/// What is known of the backups of one claim.
#[derive(Debug, Default)]
struct Claim {
    completed: Option<Timestamp>,
    /// The newest that has come to an end, or to a failure.
    newest: Option<(Timestamp, Phase)>,
}

impl Claim {
    fn add(&mut self, backup: &VolumeBackup, phase: Phase, made: Timestamp) {
        if phase == Phase::Completed {
            let at = backup.status.as_ref().and_then(|status| status.completed_at);
            self.completed = self.completed.max(at);
        }
        let tells = matches!(phase, Phase::Completed | Phase::Failed);
        if tells && self.newest.is_none_or(|(newest, _)| newest <= made) {
            self.newest = Some((made, phase));
        }
    }

    fn fails(&self) -> bool {
        self.newest.is_some_and(|(_, phase)| phase == Phase::Failed)
    }
}

#[cfg(test)]
#[path = "figures_tests.rs"]
mod tests;
