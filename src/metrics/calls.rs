//! gRPC calls: how many, how they ended, how long they took.

use super::{Buckets, Metrics};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use std::time::Instant;

/// From an answer out of memory to the longest that kubelet waits.
const SECONDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Ended {
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Running {
    method: &'static str,
}

/// The calls that a process serves.
#[derive(Clone, Debug)]
pub struct Calls {
    ended: Family<Ended, Histogram, Buckets>,
    running: Family<Running, Gauge>,
}

/// Told to nobody.
impl Default for Calls {
    fn default() -> Self {
        Calls { ended: Family::new_with_constructor(Buckets(&SECONDS)), running: Family::default() }
    }
}

impl Calls {
    /// Among those metrics.
    pub fn new(metrics: &Metrics) -> Self {
        let calls = Calls::default();
        let ended = "CSI calls that were answered, by gRPC code";
        metrics.add("csi_call_duration_seconds", ended, &calls.ended);
        metrics.add("csi_calls_in_flight", "CSI calls that wait for their answer", &calls.running);
        calls
    }

    /// One begins; it counts as running until the result is dropped.
    pub fn begin(&self, method: &'static str) -> Call {
        let running = self.running.get_or_create_owned(&Running { method });
        running.inc();
        Call { begun: Instant::now(), method, calls: self.clone(), running }
    }
}

/// A call that is under way.
#[derive(Debug)]
pub struct Call {
    begun: Instant,
    method: &'static str,
    calls: Calls,
    running: Gauge,
}

impl Call {
    /// It was answered with that code.
    pub fn end(self, code: &'static str) {
        let took = self.begun.elapsed().as_secs_f64();
        self.calls.ended.get_or_create(&Ended { method: self.method, code }).observe(took);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.running.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_counts_while_it_runs_and_once_it_has_ended() {
        let metrics = Metrics::new("test");
        let calls = Calls::new(&metrics);
        let (one, two) = (calls.begin("CreateVolume"), calls.begin("CreateVolume"));
        assert!(metrics.text().contains("strata_csi_calls_in_flight{method=\"CreateVolume\"} 2\n"));
        one.end("OK");
        drop(two);
        let text = metrics.text();
        assert!(text.contains("strata_csi_calls_in_flight{method=\"CreateVolume\"} 0\n"), "{text}");
        let count = "strata_csi_call_duration_seconds_count{method=\"CreateVolume\",code=\"OK\"} 1\n";
        assert!(text.contains(count), "{text}");
    }
}
