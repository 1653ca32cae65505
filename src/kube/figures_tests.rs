use super::*;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::{Value, json};

fn parsed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn backup(name: &str, made: &str, status: Value) -> Arc<VolumeBackup> {
    Arc::new(parsed(json!({
        "metadata": {"name": name, "namespace": "shop", "creationTimestamp": made},
        "spec": {"repository": "vault"},
        "status": status,
    })))
}

fn told(objects: &Objects, name: &str) -> BTreeMap<String, f64> {
    let all = figures(objects).into_iter().find(|samples| samples.name == name).unwrap();
    let key = |labels: Vec<(&str, String)>| {
        labels.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
    };
    all.samples.into_iter().map(|sample| (key(sample.labels), sample.value)).collect()
}

fn at(text: &str) -> f64 {
    seconds(text.parse().unwrap())
}

#[test]
fn a_claim_is_told_by_its_newest_good_backup_and_fails_by_its_newest_one() {
    let done = |snapshot: &str, completed: &str| json!({"phase": "Completed", "claim": "db", "snapshotTime": snapshot, "completedAt": completed});
    let mut objects = Objects {
        backups: vec![
            backup("a", "2026-03-01T03:00:00Z", done("2026-03-01T03:00:00Z", "2026-03-01T03:09:00Z")),
            backup("b", "2026-03-02T03:00:00Z", done("2026-03-02T03:00:00Z", "2026-03-02T03:07:00Z")),
            backup("c", "2026-03-03T03:00:00Z", json!({"phase": "Failed", "claim": "db"})),
            backup("d", "2026-03-03T03:00:00Z", json!({"phase": "Pending", "claim": "web"})),
        ],
        ..Objects::default()
    };
    let of_claim = "namespace=shop,persistentvolumeclaim=db,repository=vault".to_owned();
    let success = told(&objects, "backup_last_success_timestamp_seconds");
    assert_eq!(success, [(of_claim, at("2026-03-02T03:07:00Z"))].into());
    let of_repository = "repository=vault".to_owned();
    assert_eq!(told(&objects, "backup_failing_claims"), [(of_repository.clone(), 1.0)].into());
    let pending = told(&objects, "backup_oldest_pending_timestamp_seconds");
    assert_eq!(pending, [(of_repository.clone(), at("2026-03-03T03:00:00Z"))].into());
    let phases = told(&objects, "backups");
    assert_eq!(phases["repository=vault,phase=Completed"], 2.0);
    assert_eq!(phases["repository=vault,phase=Running"], 0.0);
    let next = done("2026-03-04T03:00:00Z", "2026-03-04T03:01:00Z");
    objects.backups.push(backup("e", "2026-03-04T03:00:00Z", next));
    assert_eq!(told(&objects, "backup_failing_claims"), [(of_repository, 0.0)].into());
    objects.backups.clear();
    assert!(told(&objects, "backup_last_success_timestamp_seconds").is_empty(), "it goes with its objects");
}

/// What another installation made, or what was found in a repository, is none of its successes.
#[test]
fn only_own_backups_are_told() {
    let status = json!({"phase": "Completed", "claim": "db", "completedAt": "2026-03-01T03:09:00Z"});
    let own = backup("a", "2026-03-01T03:00:00Z", status);
    let mut of_another = VolumeBackup::clone(&own);
    of_another.spec.driver = Some("csi.example".to_owned());
    let mut imported = VolumeBackup::clone(&own);
    imported.annotations_mut().insert(IMPORTED.to_owned(), "true".to_owned());
    let told = |backup: VolumeBackup| {
        let backups = vec![Arc::new(backup)];
        let objects = Objects { driver: "csi.strata.dev".to_owned(), backups, ..Objects::default() };
        told(&objects, "backup_last_success_timestamp_seconds").len()
    };
    let counts = [told(VolumeBackup::clone(&own)), told(of_another), told(imported)];
    assert_eq!(counts, [1, 0, 0]);
}

#[test]
fn a_backup_is_due_at_the_first_time_after_what_the_last_one_holds() {
    let schedule = |suspend: bool| -> Arc<BackupSchedule> {
        Arc::new(parsed(json!({
            "metadata": {"name": "daily", "namespace": "shop", "creationTimestamp": "2026-03-01T12:00:00Z"},
            "spec": {"schedule": "0 3 * * *", "selector": {}, "repository": "vault", "suspend": suspend},
        })))
    };
    let claim = |name: &str, made: &str| -> PersistentVolumeClaim {
        parsed(json!({"metadata": {"name": name, "namespace": "shop", "creationTimestamp": made}}))
    };
    // Late by its completion: what counts is what it holds.
    let done = json!({"phase": "Completed", "claim": "db", "snapshotTime": "2026-03-05T03:00:00Z",
        "completedAt": "2026-03-06T08:00:00Z"});
    let mut objects = Objects {
        backups: vec![backup("a", "2026-03-05T03:00:00Z", done)],
        schedules: vec![schedule(false)],
        ..Objects::default()
    };
    assert!(told(&objects, "backup_due_timestamp_seconds").is_empty(), "nobody has said which claims");
    let claims = [claim("db", "2026-01-01T00:00:00Z"), claim("new", "2026-03-08T00:00:00Z")];
    assert!(!objects.wanted.knows(&objects.schedules[0]));
    objects.wanted.selects(&objects.schedules[0], &claims);
    assert!(objects.wanted.knows(&objects.schedules[0]));
    let of =
        |claim: &str| format!("namespace=shop,persistentvolumeclaim={claim},repository=vault,schedule=daily");
    let expected = [(of("db"), at("2026-03-06T03:00:00Z")), (of("new"), at("2026-03-08T03:00:00Z"))].into();
    assert_eq!(told(&objects, "backup_due_timestamp_seconds"), expected);
    objects.schedules = vec![schedule(true)];
    assert!(
        told(&objects, "backup_due_timestamp_seconds").is_empty(),
        "nothing is due while it is suspended"
    );
}

#[test]
fn a_repository_is_up_or_down_once_it_was_looked_at() {
    let repository = |name: &str, status: Value| -> Arc<BackupRepository> {
        Arc::new(parsed(json!({"metadata": {"name": name}, "spec": {}, "status": status})))
    };
    let usage = json!({"backups": 3, "volumes": 2, "bytes": 77});
    let checked = "2026-03-01T03:00:00Z";
    let objects = Objects {
        repositories: vec![
            repository("good", json!({"reachable": true, "lastChecked": checked, "usage": usage})),
            repository("away", json!({"reachable": false, "lastChecked": checked})),
            repository("new", json!({"reachable": false})),
        ],
        ..Objects::default()
    };
    let of = |name: &str| format!("repository={name}");
    let up = told(&objects, "backup_repository_up");
    assert_eq!(up, [(of("good"), 1.0), (of("away"), 0.0)].into());
    assert_eq!(told(&objects, "backup_repository_stored_bytes"), [(of("good"), 77.0)].into());
    let last = told(&objects, "backup_repository_last_check_timestamp_seconds");
    assert_eq!(last[&of("away")], at(checked));
}
