//! What can happen, and how often.

use crate::machine::Machine;

/// A process that is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    Controller,
    Node,
    /// The data plane: storage daemons and mounts outlive it.
    Data,
}

#[derive(Clone, Debug)]
pub enum Step {
    Create {
        name: String,
        format: &'static str,
    },
    Attach {
        volume: String,
    },
    Detach {
        volume: String,
    },
    Write {
        volume: String,
        block: usize,
        blocks: usize,
        value: u8,
    },
    Discard {
        volume: String,
        block: usize,
        blocks: usize,
    },
    Snapshot {
        volume: String,
        name: String,
    },
    DeleteSnapshot {
        snapshot: String,
    },
    Clone {
        volume: String,
        name: String,
        gib: u64,
    },
    Restore {
        snapshot: String,
        name: String,
        gib: u64,
    },
    Grow {
        volume: String,
        gib: u64,
    },
    Delete {
        volume: String,
    },
    VerifySnapshot {
        snapshot: String,
    },
    VerifyVolume {
        volume: String,
    },
    /// The storage daemon of a volume in use: what was acknowledged as flushed is there when it is staged anew.
    KillDaemon {
        volume: String,
    },
    /// In the middle of the next step that asks the driver for something.
    Kill {
        victim: Victim,
        after_ms: u64,
    },
}

const MOST_VOLUMES: usize = 6;
const MOST_SNAPSHOTS: usize = 10;
pub const BLOCKS: usize = 48;
const MOST_GIB: u64 = 8;

impl Machine {
    /// The next step, from what there is.
    pub fn choose(&mut self) -> Step {
        loop {
            if let Some(step) = self.propose() {
                return step;
            }
        }
    }

    fn propose(&mut self) -> Option<Step> {
        let all: Vec<String> = self.volumes.keys().cloned().collect();
        let attached: Vec<String> = self.volumes_that(|volume| volume.device.is_some());
        let detached: Vec<String> = self.volumes_that(|volume| volume.device.is_none());
        let snapshots: Vec<String> = self.snapshots.keys().cloned().collect();
        let random = &mut self.random;
        let step = match random.below(100) {
            0..8 if all.len() < MOST_VOLUMES => {
                let format = if random.one_in(3) { "raw" } else { "qcow2" };
                Step::Create { name: self.fresh("volume"), format }
            }
            8..16 => Step::Attach { volume: random.pick(&detached)? },
            16..22 => Step::Detach { volume: random.pick(&attached)? },
            22..42 => {
                let (block, value) = (random.below(BLOCKS), random.below(255) as u8 + 1);
                let blocks = 1 + random.below((BLOCKS - block).min(12));
                Step::Write { volume: random.pick(&attached)?, block, blocks, value }
            }
            42..46 => {
                let block = random.below(BLOCKS);
                let blocks = 1 + random.below((BLOCKS - block).min(12));
                Step::Discard { volume: random.pick(&attached)?, block, blocks }
            }
            46..58 if snapshots.len() < MOST_SNAPSHOTS => {
                Step::Snapshot { volume: random.pick(&all)?, name: self.fresh("snapshot") }
            }
            58..68 => Step::DeleteSnapshot { snapshot: random.pick(&snapshots)? },
            68..72 if all.len() < MOST_VOLUMES => {
                let volume = random.pick(&all)?;
                let gib = self.volumes[&volume].gib + u64::from(self.random.one_in(3));
                Step::Clone { volume, name: self.fresh("clone"), gib }
            }
            72..76 if all.len() < MOST_VOLUMES => {
                let snapshot = random.pick(&snapshots)?;
                let gib = self.snapshots[&snapshot].gib + u64::from(self.random.one_in(3));
                Step::Restore { snapshot, name: self.fresh("restored"), gib }
            }
            76..79 => {
                let volume = random.pick(&all)?;
                let gib = self.volumes[&volume].gib + 1;
                if gib > MOST_GIB {
                    return None;
                }
                Step::Grow { volume, gib }
            }
            79..82 => Step::Delete { volume: random.pick(&detached)? },
            82..87 => Step::VerifySnapshot { snapshot: random.pick(&snapshots)? },
            87..91 => Step::VerifyVolume { volume: random.pick(&all)? },
            91..93 => Step::KillDaemon { volume: random.pick(&attached)? },
            93..100 => {
                let victim = random.pick(&[Victim::Controller, Victim::Node, Victim::Data])?;
                Step::Kill { victim, after_ms: random.below(120) as u64 }
            }
            _ => return None,
        };
        Some(step)
    }
}
