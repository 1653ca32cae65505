//! Limits on chains and on the background work, as arguments.

use crate::volume::Policy;
use anyhow::{Result, ensure};
use clap::Args;

const MIB: u64 = 1 << 20;

/// Limits on chains and on the background work.
#[derive(Clone, Debug, Args)]
pub struct PolicyArgs {
    /// A chain of more layers than this is shortened in the background: a clone gets its own copy of what it stands on.
    #[arg(long, env = "STRATA_SOFT_DEPTH", value_name = "LAYERS", default_value_t = Policy::default().soft_depth)]
    soft_depth: usize,
    /// Snapshots and clones that would make a chain longer than this are refused.
    #[arg(long, env = "STRATA_HARD_DEPTH", value_name = "LAYERS", default_value_t = Policy::default().hard_depth)]
    hard_depth: usize,
    /// MiB per second that a merge of layers may copy; 0 is unlimited.
    #[arg(long, env = "STRATA_MERGE_SPEED", value_name = "MIB", default_value_t = Policy::default().merge_speed / MIB)]
    merge_speed: u64,
    /// Deltas of deleted snapshots that each volume keeps, so that a backup on one of them reads only what changed.
    #[arg(long, env = "STRATA_TOMBSTONES", value_name = "COUNT", default_value_t = Policy::default().tombstones)]
    tombstones: usize,
    /// Days that a delta of a deleted snapshot is kept.
    #[arg(long, env = "STRATA_TOMBSTONE_DAYS", value_name = "DAYS", default_value_t = Policy::default().tombstone_days)]
    tombstone_days: u64,
    #[command(flatten)]
    room: RoomArgs,
}

/// Limits on what new volumes may take.
#[derive(Clone, Debug, Args)]
pub struct RoomArgs {
    /// What the capacities of a share's volumes may come to, as a multiple of its size: volumes are thin, and most are
    /// never full.
    #[arg(long, env = "STRATA_OVERSUBSCRIPTION", value_name = "RATIO", default_value_t = Policy::default().oversubscription_percent as f64 / 100.0)]
    oversubscription: f64,
    /// Percent of a share's size that new volumes leave free, so that snapshots and the volumes that are there can grow.
    #[arg(long, env = "STRATA_RESERVE", value_name = "PERCENT", default_value_t = Policy::default().reserve_percent)]
    reserve: u64,
}

impl RoomArgs {
    /// The limits, checked; all others are those of `policy`.
    pub fn apply(&self, policy: Policy) -> Result<Policy> {
        let ratio = self.oversubscription;
        ensure!((0.01..=10_000.0).contains(&ratio), "--oversubscription {ratio}: from 0.01 to 10000");
        ensure!(self.reserve < 100, "--reserve {}: percent, below 100", self.reserve);
        let oversubscription_percent = (ratio * 100.0).round() as u64;
        Ok(Policy { oversubscription_percent, reserve_percent: self.reserve, ..policy })
    }
}

impl PolicyArgs {
    /// The limits, checked.
    pub fn policy(&self) -> Result<Policy> {
        let (soft_depth, hard_depth) = (self.soft_depth, self.hard_depth);
        // A base, a frozen layer and an active one are the least that a snapshot takes.
        ensure!(soft_depth >= 3, "--soft-depth {soft_depth}: 3 layers are the least");
        ensure!(hard_depth >= soft_depth, "--hard-depth {hard_depth} is below --soft-depth {soft_depth}");
        ensure!(self.merge_speed <= 1 << 20, "--merge-speed is given in MiB per second");
        let merge_speed = self.merge_speed * MIB;
        let (tombstones, tombstone_days) = (self.tombstones, self.tombstone_days);
        ensure!(tombstones <= 5000, "--tombstones {tombstones}: 5000 are the most");
        let policy =
            Policy { soft_depth, hard_depth, merge_speed, tombstones, tombstone_days, ..Policy::default() };
        self.room.apply(policy)
    }

    /// The same arguments for a child process.
    pub fn to_args(&self) -> Vec<String> {
        vec![
            format!("--soft-depth={}", self.soft_depth),
            format!("--hard-depth={}", self.hard_depth),
            format!("--merge-speed={}", self.merge_speed),
            format!("--tombstones={}", self.tombstones),
            format!("--tombstone-days={}", self.tombstone_days),
            format!("--oversubscription={}", self.room.oversubscription),
            format!("--reserve={}", self.room.reserve),
        ]
    }
}
