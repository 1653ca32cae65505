//! Which claims schedules look after, and when their next backups are due.

use super::crd::schedule::BackupSchedule;
use super::figures::OfClaim;
use super::schedule::Times;
use ::kube::ResourceExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Claims = BTreeMap<String, Timestamp>;

/// The claims that each schedule last selected, and since when they are there. In memory only: it is asked for again by
/// whoever leads next.
#[derive(Clone, Debug, Default)]
pub struct Wanted(Arc<Mutex<BTreeMap<(String, String), Claims>>>);

/// A claim's next backup.
pub(super) struct Due {
    pub of: OfClaim,
    pub schedule: String,
    pub at: Timestamp,
}

impl Wanted {
    fn known(&self) -> MutexGuard<'_, BTreeMap<(String, String), Claims>> {
        // Changed by whole inserts only.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was said already.
    pub(super) fn knows(&self, schedule: &BackupSchedule) -> bool {
        self.known().contains_key(&key(schedule))
    }

    /// These claims are what a schedule selects now.
    pub fn selects(&self, schedule: &BackupSchedule, claims: &[PersistentVolumeClaim]) {
        let made = |claim: &PersistentVolumeClaim| {
            claim.metadata.creation_timestamp.as_ref().map(|time| time.0).unwrap_or_default()
        };
        let claims = claims.iter().map(|claim| (claim.name_any(), made(claim))).collect();
        self.known().insert(key(schedule), claims);
    }

    /// When the next backup of each claim is due: at the first time of its schedule after the state that its newest backup holds.
    /// `last`: those states.
    pub(super) fn due(
        &self,
        schedules: &[Arc<BackupSchedule>],
        last: &BTreeMap<OfClaim, Timestamp>,
    ) -> Vec<Due> {
        let mut all = Vec::new();
        for schedule in schedules.iter().filter(|schedule| !schedule.spec.suspend) {
            let known = self.known();
            let (Some(claims), Ok(times)) = (known.get(&key(schedule)), times(schedule)) else { continue };
            let made = schedule.metadata.creation_timestamp.as_ref().map(|time| time.0).unwrap_or_default();
            for (claim, since) in claims {
                let of = OfClaim {
                    namespace: schedule.namespace().unwrap_or_default(),
                    claim: claim.clone(),
                    repository: schedule.spec.repository.clone(),
                };
                let after = last.get(&of).copied().unwrap_or_default().max(made).max(*since);
                let Some(at) = times.next(after) else { continue };
                all.push(Due { of, schedule: schedule.name_any(), at });
            }
        }
        all
    }
}

fn key(schedule: &BackupSchedule) -> (String, String) {
    (schedule.namespace().unwrap_or_default(), schedule.name_any())
}

fn times(schedule: &BackupSchedule) -> Result<Times, String> {
    Times::parse(&schedule.spec.schedule, schedule.spec.time_zone.as_deref())
}
