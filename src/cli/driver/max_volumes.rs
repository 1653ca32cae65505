//! How many volumes a node takes.

use anyhow::{Context, Result, ensure};
use clap::Args;
use procfs::{Current, Meminfo};

/// What one volume is planned with: its storage daemon takes 11 MiB, its caches up to 40 MiB (of a volume of 256 GiB), and each layer of its
/// chain some more.
const OF_ONE: u64 = 64 << 20;
/// Of the node's memory, the rest is for pods.
const PART_OF_MEMORY: u64 = 4;
const AT_LEAST: u64 = 8;
/// Beyond this the kernel's mounts and the kubelet become slow before memory runs out.
const AT_MOST: u64 = 256;

/// How many volumes a node takes.
#[derive(Clone, Debug, Args)]
pub struct MaxVolumesArg {
    /// The most volumes that this node has at a time; the scheduler is told, and NodeStageVolume refuses more. By default a
    /// quarter of the memory at 64 MiB each, from 8 to 256: a volume takes a process, and loop devices have no limit.
    #[arg(long, env = "STRATA_MAX_VOLUMES", value_name = "NUMBER")]
    max_volumes: Option<u64>,
}

impl MaxVolumesArg {
    /// The number, as given or as the node's memory has it.
    pub fn number(&self) -> Result<usize> {
        if let Some(number) = self.max_volumes {
            ensure!((1..=4096).contains(&number), "--max-volumes {number}: from 1 to 4096");
            return Ok(number as usize);
        }
        let memory = Meminfo::current().context("cannot read the size of the memory; give --max-volumes")?;
        Ok(fitting(memory.mem_total) as usize)
    }

    /// The same argument for a child process.
    pub fn to_args(&self) -> Vec<String> {
        self.max_volumes.iter().map(|number| format!("--max-volumes={number}")).collect()
    }
}

fn fitting(memory: u64) -> u64 {
    (memory / PART_OF_MEMORY / OF_ONE).clamp(AT_LEAST, AT_MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_follows_the_memory_within_bounds() {
        assert_eq!([1, 4, 16, 1024].map(|gib| fitting(gib << 30)), [8, 16, 64, 256]);
    }
}
