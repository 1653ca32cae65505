//! Pruning real repositories.

use crate::util::{Repository, noise, small};
use strata::backup::{Cancel, ErrorKind, ParentChoice, Progress, PruneOptions, PruneReport, Retention};
use uuid::Uuid;

/// A chain of daily backups, one day each from 2026-11-01 on.
pub async fn days(repository: &Repository, volume: Uuid, count: usize) -> Vec<(Uuid, Vec<u8>)> {
    let mut data = noise(2, 60_000);
    let mut points: Vec<(Uuid, Vec<u8>)> = Vec::new();
    for day in 0..count {
        data[day * 5000] ^= 1;
        let parent = points.last().map_or(ParentChoice::None, |(id, _)| ParentChoice::Backup(*id));
        let made = repository.create(&data, &small(volume, parent)).await.unwrap();
        set_time(repository, &made.prefix, &format!("2026-11-{:02} 12:00:00+00:00", day + 1));
        points.push((made.backup_id, data.clone()));
    }
    points
}

fn set_time(repository: &Repository, prefix: &str, time: &str) {
    let path = repository.file(&format!("{prefix}_metadata"));
    let text = std::fs::read_to_string(&path).unwrap();
    let line = text.lines().find(|line| line.contains("\"created_at\"")).unwrap();
    std::fs::write(&path, text.replace(line, &format!("  \"created_at\": \"{time}\","))).unwrap();
}

async fn prune(repository: &Repository, options: &PruneOptions) -> PruneReport {
    repository.engine.prune(options, &Progress::default(), &Cancel::never()).await.unwrap()
}

fn daily(days: u32) -> PruneOptions {
    PruneOptions { retention: Retention { daily: days, ..Retention::default() }, ..PruneOptions::default() }
}

async fn left(repository: &Repository) -> Vec<Uuid> {
    repository.engine.list(None).await.unwrap().iter().map(|info| info.backup_id).collect()
}

/// K11: what a kept backup needs stays, unless it is rebased; a dry run changes nothing; once is enough.
#[tokio::test]
async fn a_chain_is_pruned() {
    let repository = Repository::new();
    let volume = Uuid::new_v4();
    let points = days(&repository, volume, 5).await;
    let ids: Vec<Uuid> = points.iter().map(|(id, _)| *id).collect();
    let report = prune(&repository, &daily(2)).await;
    assert_eq!((report.kept, report.removed, left(&repository).await.len()), (5, 0, 5));
    assert_eq!(report.backups[0].reasons[0].to_string(), format!("needed by {}", ids[3]));
    let rebasing = PruneOptions { rebase: true, dry_run: true, ..daily(2) };
    let plan = prune(&repository, &rebasing).await;
    assert_eq!((plan.kept, plan.removed, left(&repository).await), (2, 3, ids.clone()));
    assert!(plan.backups[3].rebased && plan.backups[3].rebased_onto.is_none() && plan.bytes_freed > 0);
    let done = prune(&repository, &PruneOptions { dry_run: false, ..rebasing.clone() }).await;
    assert_eq!((done.removed, left(&repository).await), (3, ids[3..].to_vec()));
    for (backup, data) in &points[3..] {
        assert!(repository.restored(*backup).await == *data);
    }
    let again = prune(&repository, &PruneOptions { dry_run: false, ..rebasing }).await;
    assert_eq!((again.removed, again.backups.iter().any(|row| row.rebased)), (0, false));
}

/// K11: a broken off backup and a damaged one push no good one out, each volume counts by itself, and what is only
/// wished away with no rule at all is refused.
#[tokio::test]
async fn failed_backups_do_not_count() {
    let repository = Repository::new();
    let (volume, other) = (Uuid::new_v4(), Uuid::new_v4());
    let data = noise(1, 20_000);
    let mut ids = Vec::new();
    for day in 1..=4 {
        let made = repository.create(&data, &small(volume, ParentChoice::None)).await.unwrap();
        set_time(&repository, &made.prefix, &format!("2026-11-{day:02} 12:00:00+00:00"));
        ids.push((made.backup_id, made.prefix));
    }
    let lone = repository.create(&data, &small(other, ParentChoice::None)).await.unwrap().backup_id;
    // The third lost a chunk, the fourth its manifest.
    std::fs::remove_file(repository.file(&format!("{}-00001", ids[2].1))).unwrap();
    std::fs::remove_file(repository.file(&format!("{}_metadata", ids[3].1))).unwrap();
    let report = prune(&repository, &daily(1)).await;
    assert_eq!((report.kept, report.removed), (3, 1));
    let reasons = |id: Uuid| {
        let row = report.backups.iter().find(|row| row.backup_id == id).unwrap();
        row.reasons.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(reasons(ids[0].0), Vec::<String>::new());
    assert_eq!(
        (reasons(ids[1].0), reasons(ids[2].0), reasons(lone)),
        (vec!["daily".to_owned()], vec!["damaged".to_owned()], vec!["daily".to_owned()])
    );
    assert!(repository.restored(ids[1].0).await == data);
    let one = PruneOptions { volume: Some(other), ..daily(1) };
    assert_eq!(prune(&repository, &one).await.backups.len(), 1);
    let nothing =
        repository.engine.prune(&PruneOptions::default(), &Progress::default(), &Cancel::never()).await;
    assert_eq!(nothing.unwrap_err().kind(), ErrorKind::Usage);
}
