//! Labels, annotations and names that objects are found by.

use ::kube::{Resource, ResourceExt};
use uuid::Uuid;

/// On a VolumeSnapshot, or in its class's parameters: the BackupRepository; [`NO_REPOSITORY`] opts out.
pub const REPOSITORY: &str = "strata.dev/repository";
/// Opts out.
pub const NO_REPOSITORY: &str = "none";
/// On a VolumeSnapshot: the VolumeBackup that was made for it. It gets no second one.
pub const BACKUP: &str = "strata.dev/backup";
/// On a VolumeSnapshot: how its backup ended.
pub const BACKUP_PHASE: &str = "strata.dev/backup-phase";
/// On a VolumeSnapshot: what restores its backup.
pub const BACKUP_HANDLE: &str = "strata.dev/backup-handle";
/// On VolumeSnapshots and VolumeBackups: the BackupSchedule that made them.
pub const SCHEDULE: &str = "strata.dev/schedule";
/// On VolumeSnapshots and VolumeBackups of a schedule: the claim's uid.
pub const CLAIM: &str = "strata.dev/claim-uid";
/// On VolumeSnapshots and VolumeBackups of a schedule: its time.
pub const SCHEDULED_AT: &str = "strata.dev/scheduled-at";
/// On a VolumeBackup: it was made of what a repository held.
pub const IMPORTED: &str = "strata.dev/imported";
/// On a VolumeBackup: its stored data are removed before it goes.
pub const FINALIZER: &str = "strata.dev/backup-data";

/// Of names that follow from others.
const NAMESPACE: Uuid = Uuid::from_u128(0x1f6a_7c3e_92d4_4b0e_8a55_c0de_5a7a_0001);
/// A Kubernetes name has at most 253 characters.
const LONGEST: usize = 200;

/// An object as lines of the log, and owners of pins, have it: its kind and name.
pub(super) fn named<K: Resource<DynamicType = ()>>(object: &K) -> String {
    let namespace = object.namespace().map(|namespace| format!("{namespace}/")).unwrap_or_default();
    format!("{} {namespace}{}", K::kind(&()), object.name_any())
}

/// A name that is the same for the same snapshot, however often it is asked for.
pub fn backup_name(snapshot: &str, uid: &str) -> String {
    derived(snapshot, uid)
}

/// `base`, cut to a fit, and a mark that stands for `what`.
pub fn derived(base: &str, what: &str) -> String {
    let mark = Uuid::new_v5(&NAMESPACE, what.as_bytes()).simple().to_string();
    let base: String = base.chars().take(LONGEST).collect();
    format!("{}-{}", base.trim_end_matches(['-', '.']), &mark[..10])
}

/// The id in the repository of one backup made in one way: the same bytes each time that it is begun again.
pub fn backup_id(what: &str) -> Uuid {
    Uuid::new_v5(&NAMESPACE, what.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_what_they_stand_for() {
        let name = backup_name("daily", "uid-1");
        assert_eq!(name, backup_name("daily", "uid-1"));
        assert!(name.starts_with("daily-") && name.len() == 16, "{name}");
        assert_ne!(name, backup_name("daily", "uid-2"));
        assert!(backup_name(&"x".repeat(253), "u").len() <= 253);
        assert!(backup_name(&format!("{}.{}", "x".repeat(199), "y"), "u").contains("x-"));
    }
}
