//! What a process tells of itself, in Prometheus' text format. Names and units are those of `docs/operations.md`.
//!
//! Each group of metrics belongs to whoever counts: it is made over a [`Metrics`] and handed on. There is nothing global.

mod backups;
mod calls;
mod cuts;
mod daemons;
mod looked;
mod restores;
mod serve;
mod shares;

pub use backups::{BackupCounts, Moved, Moving, Outcome};
pub use calls::Calls;
pub use cuts::Cuts;
pub use daemons::{DaemonFigures, daemon_samples};
pub use looked::{Sample, Samples};
pub use restores::{Held, Restore, RestoreCounts};
pub use serve::serve;
pub use shares::{MergeFigures, ShareFigures, ShareGauges};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::MetricConstructor;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What all names begin with.
const PREFIX: &str = "strata";
/// Whether a share can be used: looked up by who knows.
pub const SHARE_UP: &str = "share_up";
/// Of an answer to a scrape.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Of jobs: from what is over at once to a day.
const JOB_SECONDS: [f64; 12] =
    [1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0, 86400.0];

/// A histogram's bounds.
#[derive(Clone, Debug)]
struct Buckets(&'static [f64]);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// All metrics of a process.
#[derive(Clone)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Of a process in that role; when it began and which version it is are told already.
    pub fn new(role: &'static str) -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let version = Info::new([("version", env!("CARGO_PKG_VERSION")), ("role", role)]);
        registry.register("build", "The program", version);
        let now = jiff::Timestamp::now().as_second();
        let started = ConstGauge::new(now);
        registry.register("started_timestamp_seconds", "When the process began, in Unix time", started);
        Metrics(Arc::new(Mutex::new(registry)))
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a metric to it, which is still counted by whoever has it.
    fn add(&self, name: &str, help: &str, metric: &(impl Metric + Clone)) {
        self.registry().register(name, help, metric.clone());
    }

    /// All of them as of now.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry()).expect("a text in memory takes everything");
        text
    }
}
