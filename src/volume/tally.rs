//! What is on a share and what waits there, counted for whoever watches it.

use super::error::Error;
use super::id::VolumeId;
use super::volumes::Volumes;

/// How many volumes there are, and what waits on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// That are not deleted.
    pub volumes: usize,
    /// The layers of the one that has most.
    pub layers_max: usize,
    /// Work for the background.
    pub work: WorkTally,
    /// Whose record cannot be read.
    pub damaged: usize,
}

/// Volumes with work for the background: merges, or files to be removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkTally {
    /// That wait.
    pub waiting: usize,
    /// That are worked on.
    pub running: usize,
    /// Where it failed; it is tried again.
    pub failed: usize,
    /// When about the longest of them began to wait, in Unix time.
    pub oldest: Option<i64>,
    /// Bytes that running merges have copied, as far as they have said.
    pub copied: u64,
    /// Bytes that running merges copy in all, likewise.
    pub to_copy: u64,
}

impl Volumes {
    /// What is on the share and what waits there; some seconds old.
    pub fn tally(&self) -> Result<Tally, Error> {
        let (all, damaged) = self.work()?;
        let mut tally = Tally { damaged, ..Tally::default() };
        for (id, work) in all {
            if !work.deleted {
                tally.volumes += 1;
                tally.layers_max = tally.layers_max.max(work.layers);
            }
            if let Some(since) = work.waits {
                self.add_work(&mut tally.work, id, since, work.merges);
            }
        }
        Ok(tally)
    }

    fn add_work(&self, sum: &mut WorkTally, id: VolumeId, since: i64, merges: bool) {
        sum.oldest = Some(sum.oldest.map_or(since, |oldest| oldest.min(since)));
        // A hint: what cannot be read of it is said where it matters.
        match self.background(id).ok().flatten() {
            Some(note) if note.error.is_some() => sum.failed += 1,
            Some(note) if merges => {
                sum.running += 1;
                sum.copied += note.done;
                sum.to_copy += note.total;
            }
            _ if merges => sum.running += 1,
            _ => sum.waiting += 1,
        }
    }
}
