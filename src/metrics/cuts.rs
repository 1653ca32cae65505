//! What snapshots of attached volumes cost their pods.

use super::{Buckets, Metrics};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use std::time::Duration;

/// From the switch alone to a freeze that the watchdog ends.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    consistency: &'static str,
}

/// The pauses of a node's cuts.
#[derive(Clone, Debug)]
pub struct Cuts(Family<Kind, Histogram, Buckets>);

/// Told to nobody.
impl Default for Cuts {
    fn default() -> Self {
        Cuts(Family::new_with_constructor(Buckets(&SECONDS)))
    }
}

impl Cuts {
    /// Among those metrics.
    pub fn new(metrics: &Metrics) -> Self {
        let cuts = Cuts::default();
        let help = "How long writers stood still for a snapshot of an attached volume";
        metrics.add("snapshot_pause_seconds", help, &cuts.0);
        cuts
    }

    /// A snapshot was taken.
    pub fn paused(&self, pause: Duration, filesystem_consistent: bool) {
        let consistency = if filesystem_consistent { "filesystem" } else { "crash" };
        self.0.get_or_create(&Kind { consistency }).observe(pause.as_secs_f64());
    }
}
