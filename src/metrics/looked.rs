//! Figures that are looked up at each scrape, and not kept.

use super::Metrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Of what.
    pub labels: Vec<(&'static str, String)>,
    /// How much.
    pub value: f64,
}

/// The figures of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    /// Without the prefix of all names; with the unit at its end.
    pub name: &'static str,
    /// What they mean.
    pub help: &'static str,
    /// One for each set of labels.
    pub samples: Vec<Sample>,
}

struct Look<F>(F);

impl<F> fmt::Debug for Look<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Look")
    }
}

impl Metrics {
    /// Tells, at each scrape, what `look` finds. It must not wait for anything.
    pub fn look(&self, look: impl Fn() -> Vec<Samples> + Send + Sync + 'static) {
        self.registry().register_collector(Box::new(Look(look)));
    }
}

impl<F: Fn() -> Vec<Samples> + Send + Sync + 'static> Collector for Look<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for Samples { name, help, samples } in (self.0)() {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for sample in samples {
                let labels: Vec<(&str, &str)> =
                    sample.labels.iter().map(|(key, value)| (*key, value.as_str())).collect();
                ConstGauge::new(sample.value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_looked_up_at_each_scrape() {
        let metrics = Metrics::new("test");
        let scrapes = std::sync::atomic::AtomicU32::new(0);
        metrics.look(move || {
            let value = f64::from(scrapes.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
            let labels = vec![("share", "a:/v".to_owned()), ("kind", "x".to_owned())];
            vec![Samples { name: "room_bytes", help: "Room", samples: vec![Sample { labels, value }] }]
        });
        assert!(metrics.text().contains("\nstrata_room_bytes{share=\"a:/v\",kind=\"x\"} 0.0\n"));
        let text = metrics.text();
        assert!(text.contains("\nstrata_room_bytes{share=\"a:/v\",kind=\"x\"} 1.0\n"), "{text}");
    }
}
