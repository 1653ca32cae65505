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
}

impl PolicyArgs {
    /// The limits, checked.
    pub fn policy(&self) -> Result<Policy> {
        let (soft_depth, hard_depth) = (self.soft_depth, self.hard_depth);
        // A base, a frozen layer and an active one are the least that a snapshot takes.
        ensure!(soft_depth >= 3, "--soft-depth {soft_depth}: 3 layers are the least");
        ensure!(hard_depth >= soft_depth, "--hard-depth {hard_depth} is below --soft-depth {soft_depth}");
        ensure!(self.merge_speed <= 1 << 20, "--merge-speed is given in MiB per second");
        Ok(Policy { soft_depth, hard_depth, merge_speed: self.merge_speed * MIB })
    }

    /// The same arguments for a child process.
    pub fn to_args(&self) -> Vec<String> {
        vec![
            format!("--soft-depth={}", self.soft_depth),
            format!("--hard-depth={}", self.hard_depth),
            format!("--merge-speed={}", self.merge_speed),
        ]
    }
}
