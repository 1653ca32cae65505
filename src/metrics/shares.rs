//! Shares: their space, and what waits on them.

use super::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfShare {
    share: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct InState {
    share: String,
    state: &'static str,
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
    pub merges: MergeFigures,
    /// Volumes whose record cannot be read.
    pub damaged: u64,
}

/// Background work on a share's volumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeFigures {
    /// Volumes that wait.
    pub waiting: u64,
    /// Volumes that are worked on.
    pub running: u64,
    /// Volumes where it failed; it is tried again.
    pub failed: u64,
    /// When the longest of these began to wait, in Unix time; 0: there is none.
    pub oldest: i64,
    /// Bytes that those which run have copied.
    pub copied: u64,
    /// Bytes that those which run copy in all.
    pub to_copy: u64,
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
    merges_by_state: Family<InState, Gauge>,
    merges_oldest: Gauges,
    merges_copied: Gauges,
    merges_to_copy: Gauges,
    damaged: Gauges,
}

impl ShareGauges {
    /// Among those metrics.
    pub fn new(metrics: &Metrics) -> Self {
        let gauges = ShareGauges::default();
        metrics.add("share_size_bytes", "The share's size", &gauges.total);
        metrics.add("share_free_bytes", "What is not in use of the share", &gauges.free);
        metrics.add("share_provisioned_bytes", "The capacities of its volumes together", &gauges.provisioned);
        metrics.add("share_volumes", "Volumes on the share", &gauges.volumes);
        metrics.add("share_layers_max", "Layers of the volume that has most", &gauges.layers_max);
        metrics.add("share_merges_pending", "Volumes whose layers wait to be merged, or are", &gauges.merges);
        metrics.add(
            "share_merge_oldest_timestamp_seconds",
            "Since when the longest of them waits, in Unix time; 0: none does",
            &gauges.merges_oldest,
        );
        metrics.add(
            "share_merge_copied_bytes",
            "What the merges that run have copied",
            &gauges.merges_copied,
        );
        metrics.add("share_merge_size_bytes", "What the merges that run copy in all", &gauges.merges_to_copy);
        metrics.add("share_damaged_volumes", "Volumes whose record cannot be read", &gauges.damaged);
        let by_state = "Volumes whose layers are to be merged, by what becomes of it";
        metrics.add("share_merges", by_state, &gauges.merges_by_state);
        gauges
    }

    /// What a look at a share found.
    pub fn found(&self, share: &str, figures: &ShareFigures) {
        let ShareFigures { total, free, provisioned, volumes, layers_max, merges, damaged } = *figures;
        self.set(share, &self.total, total);
        self.set(share, &self.free, free);
        self.set(share, &self.provisioned, provisioned);
        self.set(share, &self.volumes, volumes);
        self.set(share, &self.layers_max, layers_max);
        self.set(share, &self.merges, merges.waiting + merges.running + merges.failed);
        for (state, count) in
            [("waiting", merges.waiting), ("running", merges.running), ("failed", merges.failed)]
        {
            let labels = InState { share: share.to_owned(), state };
            self.merges_by_state.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.set(share, &self.merges_oldest, u64::try_from(merges.oldest).unwrap_or(0));
        self.set(share, &self.merges_copied, merges.copied);
        self.set(share, &self.merges_to_copy, merges.to_copy);
        self.set(share, &self.damaged, damaged);
    }

    fn set(&self, share: &str, gauges: &Gauges, value: u64) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        gauges.get_or_create(&OfShare { share: share.to_owned() }).set(value);
    }
}
