//! Running a merge, in the daemon that has the volume open or in a short-lived one of its own.
//!
//! While it copies it holds no lock on the volume. The job stops before its last step; that step is done under
//! the volume's lock, after a look whether anybody has asked the merge to stop.

use super::agents::{MergeReport, MergeStep};
use super::error::*;
use super::id::{LayerId, VolumeId};
use super::lock::Mode;
use super::merge::{Begun, candidates};
use super::merge_site::MergeSite;
use super::record::{Merge, Record, State};
use super::references::sources;
use super::restore::is_forsaken;
use super::steps::{Step, reached};
use super::store::{Locked, exists};
use super::volumes::Volumes;
use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

const REACH: Duration = Duration::from_secs(10);
/// How often a running job is looked at; also how soon a merge notices that it is to stop.
const POLL: Duration = Duration::from_millis(200);
/// A merge that copies for longer than this is given up and begun anew later (G9).
const LIMIT: Duration = Duration::from_secs(7200);
/// How often the note about a running merge is renewed.
const NOTE: Duration = Duration::from_secs(2);

impl Volumes {
    /// The background work on a volume: frees and merges layers until nothing is left to do, or until
    /// something else needs the volume. Can be called at any time, and again.
    pub fn tidy(&self, volume: VolumeId) -> Result<(), Error> {
        if let Some(record) = self.read(volume)?.filter(|record| record.state == State::Restoring) {
            return self.tidy_restore(&record);
        }
        loop {
            self.sweep(volume)?;
            let before = self.stands_on(volume)?;
            if !self.merge_one(volume)? {
                // What a process that died had told of its work.
                self.note_nothing(volume);
                return Ok(());
            }
            // What it no longer stands on may be free now.
            for source in before.difference(&self.stands_on(volume)?) {
                self.sweep(*source)?;
            }
        }
    }

    fn stands_on(&self, volume: VolumeId) -> Result<BTreeSet<VolumeId>, Error> {
        Ok(self.read(volume)?.as_ref().map(sources).unwrap_or_default())
    }

    /// The volumes for which [`Volumes::tidy`] has something to do, as far as their records tell.
    pub fn volumes_to_tidy(&self) -> Result<Vec<VolumeId>, Error> {
        let mut volumes = self.list()?;
        volumes.retain(|volume| match self.read(*volume) {
            // What is to stay in the folder of a deleted volume is no work.
            Ok(None) => self.leftovers(*volume).is_ok_and(|leftovers| leftovers.is_some()),
            Ok(Some(record)) if record.state == State::Restoring => is_forsaken(&record),
            Ok(Some(record)) => {
                self.has_work_beside_clones(&record)
                    || exists(&self.layout.background(*volume)).unwrap_or(true)
                    || self.wants_flattening(&record).is_ok_and(|wanted| wanted)
            }
            // What is wrong with it is said to whoever asks for the volume.
            Err(_) => false,
        });
        Ok(volumes)
    }

    /// What clones stand on waits for them. They are read only where something waits.
    fn has_work_beside_clones(&self, record: &Record) -> bool {
        self.has_work(record, &HashSet::new())
            && self.clones_of(record.id).map_or(true, |(outside, _)| self.has_work(record, &outside))
    }

    /// Whether a record shows work that can be done now: a boundary that waits for the next cut is none, nor is what a
    /// snapshot holds of a deleted volume. `outside`: the layers that other volumes stand on, as far as they were looked for.
    pub(super) fn has_work(&self, record: &Record, outside: &HashSet<LayerId>) -> bool {
        record.intent.is_some()
            || record.merge.is_some()
            || !record.trash.is_empty()
            || record.state == State::Deleted && record.layers.is_empty()
            || self.pins.holding(record).len() < record.pins.len()
            || self.unreferenced(record, outside).is_some()
            || !candidates(record, outside).is_empty()
    }

    /// Merges one pair, or flattens. False when there is nothing to do, or when it has to wait.
    fn merge_one(&self, volume: VolumeId) -> Result<bool, Error> {
        let Some(_turn) = self.merge_turn(volume)? else {
            return PendingSnafu { volume, doing: "its layers are being merged already".to_owned() }.fail();
        };
        // Before the graph lock, which no node that does not answer may keep from others: what was begun is
        // finished, a merge of a process that died is stopped, and a clone gets the layer to be copied into.
        let record = match self.lock(volume) {
            Err(Error::VolumeNotFound { .. }) => return Ok(false),
            locked => {
                let mut locked = locked?;
                locked.stop_merge()?;
                locked.prepare_flattening()?;
                locked.record.clone()
            }
        };
        // Without a lock, for the map of a large layer takes its time; and while we have the turn no merge begins.
        let seen = self.record_deltas(&record)?;
        let graph = self.graph(Mode::Exclusive, volume)?;
        let mut locked = match self.lock_settled(volume) {
            Err(Error::VolumeNotFound { .. }) => return Ok(false),
            locked => locked?,
        };
        let Some(begun) = locked.begin_merge(&seen)? else { return Ok(false) };
        drop(graph);
        self.verify(&begun.chain)?;
        drop(locked);
        self.note_progress(volume, &begun.merge, 0, 0);
        let done = self.run_merge(volume, &begun);
        let done = self.conclude(volume, &begun.merge, done);
        match &done {
            Err(error) if !is_stopped(error) => self.note_failure(volume, &begun.merge, error),
            _ => self.note_nothing(volume),
        }
        if matches!(done, Ok(true)) {
            // There is a tombstone more.
            self.prune_deltas(volume)?;
        }
        done
    }

    /// Whatever came of the copying: the headers tell what the record has to say.
    fn conclude(&self, volume: VolumeId, merge: &Merge, done: Result<bool, Error>) -> Result<bool, Error> {
        let deadline = Instant::now() + REACH;
        loop {
            match self.lock(volume) {
                Err(Error::Busy { .. }) if Instant::now() < deadline => {}
                Err(Error::VolumeNotFound { .. }) => return Ok(false),
                locked => {
                    let mut locked = locked?;
                    let ours = locked.record.merge.as_ref().filter(|other| other.run == merge.run);
                    let stopped = ours.is_none_or(|ours| ours.cancelled);
                    if ours.is_some() {
                        locked.stop_merge()?;
                    }
                    return outcome(volume, done, stopped);
                }
            }
        }
    }

    /// Copies, and does the last step under the volume's lock. False when it was asked to stop. Nothing of it
    /// runs any more when this returns, unless its node cannot be reached.
    fn run_merge(&self, volume: VolumeId, begun: &Begun) -> Result<bool, Error> {
        reached(Step::MergeUnlocked);
        let Some(locked) = self.lock_while_wanted(volume, &begun.merge)? else { return Ok(false) };
        // Under the lock: whoever stopped the merge before it ran was told that nothing of it does, and went on.
        locked.fence()?;
        let mut site = MergeSite::open(self, volume, &begun.merge, &begun.chain)?;
        let started = site.step(&begun.merge, MergeStep::Start(begun.work.clone()));
        drop(locked);
        let copied =
            started.and_then(|report| self.copy(volume, begun, &mut site, report)).and_then(|copied| {
                if !copied {
                    return Ok(false);
                }
                reached(Step::MergeCopied);
                self.finish_merge(volume, &begun.merge, &mut site)
            });
        let closed = if matches!(copied, Ok(true)) { Ok(()) } else { site.close(&begun.merge) };
        copied.and_then(|finished| closed.map(|()| finished))
    }

    fn copy(
        &self,
        volume: VolumeId,
        begun: &Begun,
        site: &mut MergeSite<'_>,
        mut report: MergeReport,
    ) -> Result<bool, Error> {
        let deadline = Instant::now() + LIMIT;
        let mut noted = Instant::now();
        loop {
            match report {
                MergeReport::Copied => return Ok(true),
                MergeReport::Running { done, total } => {
                    if noted.elapsed() > NOTE {
                        self.note_progress(volume, &begun.merge, done, total);
                        noted = Instant::now();
                    }
                }
                other => return ended(volume, other),
            }
            if Instant::now() > deadline {
                let doing = format!("a merge took longer than {} s and is begun anew", LIMIT.as_secs());
                return PendingSnafu { volume, doing }.fail();
            }
            std::thread::sleep(POLL);
            if !self.still_wanted(volume, &begun.merge)? {
                return Ok(false);
            }
            report = site.step(&begun.merge, MergeStep::Look)?;
        }
    }

    fn still_wanted(&self, volume: VolumeId, merge: &Merge) -> Result<bool, Error> {
        let record = self.read(volume)?;
        let current = record.and_then(|record| record.merge);
        Ok(current.is_some_and(|current| current.run == merge.run && !current.cancelled))
    }

    /// The volume's lock, unless the merge was stopped meanwhile.
    fn lock_while_wanted(&self, volume: VolumeId, merge: &Merge) -> Result<Option<Locked<'_>>, Error> {
        let locked = loop {
            match self.lock(volume) {
                Err(Error::Busy { .. }) if self.still_wanted(volume, merge)? => {}
                Err(Error::Busy { .. } | Error::VolumeNotFound { .. }) => return Ok(None),
                locked => break locked?,
            }
        };
        let current = locked.record.merge.as_ref();
        let wanted = current.is_some_and(|current| current.run == merge.run && !current.cancelled);
        Ok(wanted.then_some(locked))
    }

    fn finish_merge(&self, volume: VolumeId, merge: &Merge, site: &mut MergeSite<'_>) -> Result<bool, Error> {
        let Some(mut locked) = self.lock_while_wanted(volume, merge)? else { return Ok(false) };
        locked.fence()?;
        match site.step(merge, MergeStep::Finish)? {
            MergeReport::Finished => {}
            other => return ended(volume, other),
        }
        reached(Step::MergeFinalized);
        locked.settle_merge(true)?;
        tracing::info!(%volume, direction = ?merge.direction, attached = merge.at.is_some(), "layers were merged");
        Ok(locked.record.merge.is_none())
    }
}

/// What an end of the job that is none of ours means.
fn ended(volume: VolumeId, report: MergeReport) -> Result<bool, Error> {
    match report {
        // Another process has one of the layers open.
        MergeReport::Failed { reason } if reason.contains("lock") => PendingSnafu {
            volume,
            doing: format!("layers that are to be merged are open elsewhere: {reason}"),
        }
        .fail(),
        MergeReport::Failed { reason } => {
            PreconditionSnafu { volume, reason: format!("merging its layers failed: {reason}") }.fail()
        }
        MergeReport::NotOpen => {
            PendingSnafu { volume, doing: "its node is about to open or close it".to_owned() }.fail()
        }
        other => PendingSnafu { volume, doing: format!("its merge has vanished ({other:?})") }.fail(),
    }
}

/// Broken off for something else, to be begun anew; no failure.
fn is_stopped(error: &Error) -> bool {
    matches!(error, Error::Pending { .. } | Error::Busy { .. })
}

/// What the caller hears of a merge. One that was stopped is begun anew soon, whatever error its end made.
fn outcome(volume: VolumeId, done: Result<bool, Error>, stopped: bool) -> Result<bool, Error> {
    match done {
        Ok(true) => Ok(true),
        Err(error) if !stopped => Err(error),
        other => {
            tracing::debug!(%volume, ?other, "a merge was stopped");
            let doing = "a merge of its layers was stopped for something else".to_owned();
            PendingSnafu { volume, doing }.fail()
        }
    }
}
