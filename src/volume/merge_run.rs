//! Running a merge, in a short-lived storage daemon of its own.
//!
//! While it copies it holds no lock on the volume. The job stops before its last step; that step is done under
//! the volume's lock, after a look whether anybody has asked the merge to stop.

use super::chain::{Link, images, relative};
use super::error::*;
use super::id::{LayerId, VolumeId};
use super::lock::Mode;
use super::merge::{Pair, daemon_name};
use super::record::{Direction, Merge, Record, State};
use super::references::list_ids;
use super::steps::{Step, reached};
use super::store::Locked;
use super::volumes::Volumes;
use crate::qsd::command::{self, Commit, JobStatus, Open, Stream};
use crate::qsd::qmp::Client;
use snafu::OptionExt;
use std::time::{Duration, Instant};

const REACH: Duration = Duration::from_secs(10);
/// How often a running job is looked at; also how soon a merge notices that it is to stop.
const POLL: Duration = Duration::from_millis(200);
/// A merge that copies for longer than this is given up and begun anew later (G9).
const LIMIT: Duration = Duration::from_secs(7200);
const JOB: &str = "merge";
const PREFIX: &str = "m";

impl Volumes {
    /// The background work on a volume: frees and merges layers until nothing is left to do, or until
    /// something else needs the volume. Can be called at any time, and again.
    pub fn tidy(&self, volume: VolumeId) -> Result<(), Error> {
        loop {
            self.sweep(volume)?;
            if !self.merge_one(volume)? {
                return Ok(());
            }
        }
    }

    /// The volumes for which [`Volumes::tidy`] has something to do, as far as their records tell.
    pub fn volumes_to_tidy(&self) -> Result<Vec<VolumeId>, Error> {
        let mut volumes: Vec<VolumeId> = list_ids(&self.layout.volumes())?;
        volumes.retain(|volume| match self.read(*volume) {
            Ok(None) => true,
            Ok(Some(record)) => wants_tidying(&record),
            // What is wrong with it is said to whoever asks for the volume.
            Err(_) => false,
        });
        Ok(volumes)
    }

    /// Merges one pair. False when there is none, or when it has to wait.
    fn merge_one(&self, volume: VolumeId) -> Result<bool, Error> {
        self.settle(volume)?;
        let graph = self.graph(Mode::Exclusive, volume)?;
        let mut locked = match self.lock(volume) {
            Err(Error::VolumeNotFound { .. }) => return Ok(false),
            locked => locked?,
        };
        // One left over from a process that died: only one process does background work at a time.
        locked.stop_merge()?;
        if locked.record.attachments.iter().any(|attachment| attachment.opened.is_some()) {
            // Its layers are open in the node's daemon: a second process cannot merge them.
            return Ok(false);
        }
        let Some((merge, pair)) = locked.begin_merge()? else { return Ok(false) };
        drop(graph);
        let chain = locked.merge_chain(&merge, pair)?;
        self.verify(&chain)?;
        drop(locked);
        let merged = self.run_merge(volume, &merge, &chain);
        let stopped = self.tools.daemons.stop(&daemon_name(&self.handle(volume)));
        let done = merged.and_then(|finished| stopped.map_err(Error::from).map(|()| finished));
        self.conclude(volume, &merge, done)
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

    /// Copies, and does the last step under the volume's lock. False when it was asked to stop.
    fn run_merge(&self, volume: VolumeId, merge: &Merge, chain: &[Link]) -> Result<bool, Error> {
        let name = daemon_name(&self.handle(volume));
        // One that is still there belongs to a merge that was broken off.
        self.tools.daemons.stop(&name)?;
        let daemon = self.tools.daemons.start(&name)?;
        let mut client = Client::connect(&daemon.qmp_socket, REACH)?;
        command::add_chain(&mut client, PREFIX, &images(chain), Open::ReadWrite)?;
        start_job(&mut client, merge, chain)?;
        let deadline = Instant::now() + LIMIT;
        loop {
            match job_status(&mut client, volume)? {
                JobStatus::Pending => break,
                JobStatus::Concluded => return job_outcome(&mut client, volume).map(|()| false),
                _ if Instant::now() > deadline => {
                    let doing = format!("a merge took longer than {} s and is begun anew", LIMIT.as_secs());
                    return PendingSnafu { volume, doing }.fail();
                }
                _ => std::thread::sleep(POLL),
            }
            if !self.still_wanted(volume, merge)? {
                return Ok(false);
            }
        }
        reached(Step::MergeCopied);
        self.finalize(client, volume, merge)
    }

    fn still_wanted(&self, volume: VolumeId, merge: &Merge) -> Result<bool, Error> {
        let record = self.read(volume)?;
        let current = record.and_then(|record| record.merge);
        Ok(current.is_some_and(|current| current.run == merge.run && !current.cancelled))
    }

    fn finalize(&self, mut client: Client, volume: VolumeId, merge: &Merge) -> Result<bool, Error> {
        let mut locked = loop {
            match self.lock(volume) {
                Err(Error::Busy { .. }) if self.still_wanted(volume, merge)? => {}
                Err(Error::Busy { .. } | Error::VolumeNotFound { .. }) => return Ok(false),
                locked => break locked?,
            }
        };
        if !self.still_wanted(volume, merge)? {
            return Ok(false);
        }
        locked.fence()?;
        command::job_finalize(&mut client, JOB)?;
        let deadline = Instant::now() + REACH;
        while job_status(&mut client, volume)? != JobStatus::Concluded && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        job_outcome(&mut client, volume)?;
        reached(Step::MergeFinalized);
        // A daemon talks to one client at a time, and the next one is to tell it to quit.
        drop(client);
        // Quitting flushes and closes the files, and frees their locks for the look at the headers.
        self.tools.daemons.stop(&daemon_name(&self.handle(volume)))?;
        locked.settle_merge()?;
        let done = locked.record.merge.is_none();
        tracing::info!(%volume, direction = ?merge.direction, "two layers were merged");
        Ok(done)
    }
}

impl Locked<'_> {
    /// What a merge's daemon opens, top first.
    fn merge_chain(&self, merge: &Merge, pair: Pair) -> Result<Vec<Link>, Error> {
        let top: LayerId = match merge.direction {
            Direction::Commit => pair.above.expect("a commit is chosen only under one layer"),
            Direction::Stream => pair.upper,
        };
        self.volumes.chain(&self.record, top)
    }
}

fn start_job(client: &mut Client, merge: &Merge, chain: &[Link]) -> Result<(), Error> {
    let position = |id: LayerId| chain.iter().position(|link| link.layer.id == id);
    let missing = || Error::Invalid { reason: "a merge's layers are not in its chain".to_owned() };
    let lower = position(merge.lower).ok_or_else(missing)?;
    let upper = position(merge.upper).ok_or_else(missing)?;
    let node = |index: usize| command::node_name(PREFIX, &chain[index].path);
    match merge.direction {
        Direction::Commit => {
            let name = relative(&chain[0].path, &chain[lower].path);
            let commit = Commit {
                job: JOB,
                device: &node(0)?,
                top: &node(upper)?,
                base: &node(lower)?,
                backing_file: Some(&name),
                speed: 0,
            };
            Ok(command::commit(client, &commit)?)
        }
        Direction::Stream => {
            let below = chain.get(lower + 1);
            let name = below.map(|below| relative(&chain[upper].path, &below.path));
            let base = below.map(|_| node(lower + 1)).transpose()?;
            let stream = Stream {
                job: JOB,
                node: &node(upper)?,
                base: base.as_deref(),
                backing_file: name.as_deref(),
                speed: 0,
            };
            Ok(command::stream(client, &stream)?)
        }
    }
}

fn job_status(client: &mut Client, volume: VolumeId) -> Result<JobStatus, Error> {
    let jobs = command::jobs(client)?;
    let doing = "its merge has vanished".to_owned();
    Ok(jobs.iter().find(|job| job.id == JOB).context(PendingSnafu { volume, doing })?.status)
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

/// Success, or why the job failed.
fn job_outcome(client: &mut Client, volume: VolumeId) -> Result<(), Error> {
    let jobs = command::jobs(client)?;
    match jobs.iter().find(|job| job.id == JOB).and_then(|job| job.error.clone()) {
        Some(reason) => {
            PreconditionSnafu { volume, reason: format!("merging its layers failed: {reason}") }.fail()
        }
        None => Ok(()),
    }
}

/// Whether a glance at a record shows work to do.
fn wants_tidying(record: &Record) -> bool {
    let unwanted = |layer: &super::record::Layer| {
        record.active != Some(layer.id) && !record.snapshots.iter().any(|snapshot| snapshot.layer == layer.id)
    };
    record.state == State::Deleted
        || record.intent.is_some()
        || record.merge.is_some()
        || !record.trash.is_empty()
        || record.layers.iter().any(unwanted)
}
