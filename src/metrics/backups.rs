//! Backups: how tries ended, how long they took, and what they moved.
//!
//! Counted by repository and never by volume: of repositories there are few. What is told of each claim is looked up from
//! the objects that there are (`kube/figures`), so that it goes when they go.

use super::{Buckets, JOB_SECONDS, Metrics};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use std::time::Duration;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfRepository {
    repository: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Ended {
    repository: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Retry {
    repository: String,
    reason: &'static str,
}

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is there, whole.
    Completed,
    /// It is not; perhaps it is tried again.
    Failed,
    /// It was not wanted any more, or another process goes on with it.
    Cancelled,
}

impl Outcome {
    /// As metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Completed => "completed",
            Outcome::Failed => "failed",
            Outcome::Cancelled => "cancelled",
        }
    }
}

/// What one backup has moved so far, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Read from the snapshot.
    pub read: u64,
    /// Of the volume, found changed.
    pub changed: u64,
    /// Put into the repository.
    pub uploaded: u64,
}

/// The backups that a process makes.
#[derive(Clone, Debug)]
pub struct BackupCounts {
    leads: Gauge,
    ended: Family<Ended, Histogram, Buckets>,
    retries: Family<Retry, Counter>,
    read: Family<OfRepository, Counter>,
    changed: Family<OfRepository, Counter>,
    uploaded: Family<OfRepository, Counter>,
}

/// Told to nobody.
impl Default for BackupCounts {
    fn default() -> Self {
        BackupCounts {
            leads: Gauge::default(),
            ended: Family::new_with_constructor(Buckets(&JOB_SECONDS)),
            retries: Family::default(),
            read: Family::default(),
            changed: Family::default(),
            uploaded: Family::default(),
        }
    }
}

impl BackupCounts {
    /// Among those metrics.
    pub fn new(metrics: &Metrics) -> Self {
        let counts = BackupCounts::default();
        let leads = "1: this process holds the Lease and makes the backups; 0: another one does";
        metrics.add("backup_leads", leads, &counts.leads);
        let ended = "Tries to make a backup, from the plan to what came of it";
        metrics.add("backup_duration_seconds", ended, &counts.ended);
        metrics.add("backup_retries", "Failed tries that are tried again", &counts.retries);
        metrics.add("backup_read_bytes", "What backups read from snapshots", &counts.read);
        metrics.add("backup_changed_bytes", "What backups found changed of volumes", &counts.changed);
        metrics.add("backup_uploaded_bytes", "What backups put into repositories", &counts.uploaded);
        counts
    }

    /// Whether this process makes the backups.
    pub fn leads(&self, leads: bool) {
        self.leads.set(leads.into());
    }

    /// A try came to its end.
    pub fn ended(&self, repository: &str, outcome: Outcome, took: Duration) {
        let labels = Ended { repository: repository.to_owned(), outcome: outcome.name() };
        self.ended.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// A try failed, for that reason in one word, and there will be another.
    pub fn retry(&self, repository: &str, reason: &'static str) {
        self.retries.get_or_create(&Retry { repository: repository.to_owned(), reason }).inc();
    }

    /// A backup that has moved nothing yet.
    pub fn moving(&self, repository: &str) -> Moving {
        let of = OfRepository { repository: repository.to_owned() };
        Moving {
            read: self.read.get_or_create_owned(&of),
            changed: self.changed.get_or_create_owned(&of),
            uploaded: self.uploaded.get_or_create_owned(&of),
            counted: Moved::default(),
        }
    }
}

/// Adds up what a backup moves while it runs.
#[derive(Debug)]
pub struct Moving {
    read: Counter,
    changed: Counter,
    uploaded: Counter,
    counted: Moved,
}

impl Moving {
    /// It has moved so much since it began.
    pub fn has(&mut self, now: Moved) {
        let before = std::mem::replace(&mut self.counted, now);
        self.read.inc_by(now.read.saturating_sub(before.read));
        self.changed.inc_by(now.changed.saturating_sub(before.changed));
        self.uploaded.inc_by(now.uploaded.saturating_sub(before.uploaded));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_and_what_they_move_add_up_by_repository() {
        let metrics = Metrics::new("test");
        let counts = BackupCounts::new(&metrics);
        counts.leads(true);
        for _ in 0..2 {
            let mut moving = counts.moving("r");
            moving.has(Moved { read: 10, changed: 4, uploaded: 1 });
            moving.has(Moved { read: 30, changed: 4, uploaded: 2 });
        }
        counts.ended("r", Outcome::Completed, Duration::from_secs(90));
        counts.retry("r", "StoreError");
        let text = metrics.text();
        for line in [
            "strata_backup_leads 1",
            "strata_backup_read_bytes_total{repository=\"r\"} 60",
            "strata_backup_changed_bytes_total{repository=\"r\"} 8",
            "strata_backup_uploaded_bytes_total{repository=\"r\"} 4",
            "strata_backup_duration_seconds_bucket{le=\"300.0\",repository=\"r\",outcome=\"completed\"} 1",
            "strata_backup_retries_total{repository=\"r\",reason=\"StoreError\"} 1",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line} is not in\n{text}");
        }
    }
}
