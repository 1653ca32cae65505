//! What an operator can set about chains and the background work on them.

/// Limits. The defaults come from measurement: docs/figures.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A chain of more layers than this is shortened in the background.
    pub soft_depth: usize,
    /// An operation that would make a chain longer than this is refused.
    pub hard_depth: usize,
    /// Bytes per second that a merge may copy; 0 is unlimited.
    pub merge_speed: u64,
    /// What the capacities of a share's volumes may come to, in percent of its size.
    pub oversubscription_percent: u64,
    /// Of a share's size, what new volumes leave free, so that snapshots and those that are there can grow.
    pub reserve_percent: u64,
    /// Deltas of deleted snapshots that are kept, so that a backup on one of them reads only what changed.
    pub tombstones: usize,
    /// Days that such a delta is kept.
    pub tombstone_days: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            soft_depth: 32,
            hard_depth: 128,
            merge_speed: 0,
            oversubscription_percent: 2000,
            reserve_percent: 5,
            tombstones: 1000,
            tombstone_days: 400,
        }
    }
}
