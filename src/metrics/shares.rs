//! Shares: their space, and what waits on them.

use super::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfShare {
    share: String,
}

/// What was found on a share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShareFigures {
    /// Bytes in all.
    pub total: u64,
    /// Bytes not in use.
    pub free: u64,
    /// The capacities of its volumes, in bytes.
    pub provisioned: u64,
    /// Volumes.
    pub volumes: u64,
    /// Layers of the volume that has most.
    pub layers_max: u64,
    /// Volumes whose layers wait to be merged, or are.
    pub merges: u64,
    /// Volumes whose record cannot be read.
    pub damaged: u64,
}

type Gauges = Family<OfShare, Gauge>;

/// One value of each share.
#[derive(Clone, Debug, Default)]
pub struct ShareGauges {
    total: Gauges,
    free: Gauges,
    provisioned: Gauges,
    volumes: Gauges,
    layers_max: Gauges,
    merges: Gauges,
    damaged: Gauges,
}

impl ShareGauges {
    /// Among those metrics.
    pub fn new(metrics: &Metrics) -> Self {
        let gauges = ShareGauges::default();
        metrics.register(|registry| gauges.register(registry));
        gauges
    }

    fn register(&self, registry: &mut Registry) {
        let mut add = |name: &str, help: &str, gauges: &Gauges| registry.register(name, help, gauges.clone());
        add("share_size_bytes", "The share's size", &self.total);
        add("share_free_bytes", "What is not in use of the share", &self.free);
        add("share_provisioned_bytes", "The capacities of its volumes together", &self.provisioned);
        add("share_volumes", "Volumes on the share", &self.volumes);
        add("share_layers_max", "Layers of the volume that has most", &self.layers_max);
        add("share_merges_pending", "Volumes whose layers wait to be merged, or are", &self.merges);
        add("share_damaged_volumes", "Volumes whose record cannot be read", &self.damaged);
    }

    /// What a look at a share found.
    pub fn found(&self, share: &str, figures: &ShareFigures) {
        let ShareFigures { total, free, provisioned, volumes, layers_max, merges, damaged } = *figures;
        self.set(share, &self.total, total);
        self.set(share, &self.free, free);
        self.set(share, &self.provisioned, provisioned);
        self.set(share, &self.volumes, volumes);
        self.set(share, &self.layers_max, layers_max);
        self.set(share, &self.merges, merges);
        self.set(share, &self.damaged, damaged);
    }

    fn set(&self, share: &str, gauges: &Gauges, value: u64) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        gauges.get_or_create(&OfShare { share: share.to_owned() }).set(value);
    }
}
