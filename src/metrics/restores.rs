//! Restores of backups into volumes.

use super::{Buckets, JOB_SECONDS, Metrics, Outcome};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use std::time::Instant;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Ended {
    outcome: &'static str,
}

/// The restores of a controller.
#[derive(Clone, Debug)]
pub struct RestoreCounts {
    ended: Family<Ended, Histogram, Buckets>,
    waiting: Gauge,
    running: Gauge,
    restored: Counter,
}

/// Told to nobody.
impl Default for RestoreCounts {
    fn default() -> Self {
        RestoreCounts {
            ended: Family::new_with_constructor(Buckets(&JOB_SECONDS)),
            waiting: Gauge::default(),
            running: Gauge::default(),
            restored: Counter::default(),
        }
    }
}

impl RestoreCounts {
    /// Among those metrics.
    pub fn new(metrics: &Metrics) -> Self {
        let counts = RestoreCounts::default();
        let ended = "Restores of backups into volumes that came to an end in this process";
        metrics.add("restore_duration_seconds", ended, &counts.ended);
        metrics.add("restores_waiting", "Restores that wait for their turn in this process", &counts.waiting);
        metrics.add("restores_running", "Restores under way in this process", &counts.running);
        metrics.add("restore_bytes", "What restores brought back of volumes", &counts.restored);
        counts
    }

    /// One waits for its turn, until the result is dropped.
    pub fn wait(&self) -> Held {
        Held::of(&self.waiting)
    }

    /// One begins; it counts as running until the result is dropped.
    pub fn begin(&self) -> Restore {
        Restore { begun: Instant::now(), counts: self.clone(), counted: 0, _running: Held::of(&self.running) }
    }
}

/// Counts for as long as it lives.
#[derive(Debug)]
pub struct Held(Gauge);

impl Held {
    fn of(gauge: &Gauge) -> Held {
        gauge.inc();
        Held(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A restore that is under way.
#[derive(Debug)]
pub struct Restore {
    begun: Instant,
    counts: RestoreCounts,
    counted: u64,
    _running: Held,
}

impl Restore {
    /// So many bytes of the volume are back since it began.
    pub fn has(&mut self, bytes: u64) {
        let before = std::mem::replace(&mut self.counted, bytes);
        self.counts.restored.inc_by(bytes.saturating_sub(before));
    }

    /// It ended so.
    pub fn end(self, outcome: Outcome) {
        let labels = Ended { outcome: outcome.name() };
        self.counts.ended.get_or_create(&labels).observe(self.begun.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_counts_while_it_waits_while_it_runs_and_once_it_has_ended() {
        let metrics = Metrics::new("test");
        let counts = RestoreCounts::new(&metrics);
        let waiting = counts.wait();
        assert!(metrics.text().contains("\nstrata_restores_waiting 1\n"));
        drop(waiting);
        let mut restore = counts.begin();
        restore.has(5);
        restore.has(9);
        assert!(metrics.text().contains("\nstrata_restores_running 1\n"));
        restore.end(Outcome::Completed);
        let text = metrics.text();
        for line in [
            "strata_restores_waiting 0",
            "strata_restores_running 0",
            "strata_restore_bytes_total 9",
            "strata_restore_duration_seconds_count{outcome=\"completed\"} 1",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line} is not in\n{text}");
        }
    }
}
