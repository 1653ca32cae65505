//! A thread that takes several chunks through unpacking and checking at the same time, step by step: their MD5s, each
//! a chain of operations that wait for one another, cost little more together than one of them.

use super::bell::Bell;
use super::changed::gone;
use super::check::Fault;
use super::flow::{Sink, Tally};
use super::lane::{Done, Lane};
use super::source::Origin;
use super::unpack::Stop;
use crate::backup::Cancel;
use crate::backup::error::BackupError;
use md5_lanes::update_together;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What the threads share.
pub(super) struct Shared<S> {
    pub origin: Origin,
    pub sink: Arc<S>,
    pub bell: Arc<Bell>,
    pub halted: Cancel,
    /// Chunks that are being fetched, for whoever has a lane free.
    pub queue: Mutex<VecDeque<Lane>>,
    /// No more will come.
    pub is_closed: AtomicBool,
}

impl<S> Shared<S> {
    fn take(&self) -> Option<Lane> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// Works until there is no more, with up to `most` chunks at a time.
pub(super) fn work<S: Sink>(shared: &Shared<S>, most: usize) -> Result<Tally, BackupError> {
    let mut lanes: Vec<Lane> = Vec::new();
    let mut tally = Tally::default();
    loop {
        let rings = shared.bell.rings();
        let is_closed = shared.is_closed.load(Ordering::SeqCst);
        shared.halted.check()?;
        // One at a time: others want some, too.
        let taken = if lanes.len() < most { shared.take() } else { None };
        let took = taken.is_some();
        lanes.extend(taken);
        if lanes.is_empty() && is_closed && !took {
            return Ok(tally);
        }
        let moved = fill(shared, &mut lanes, &mut tally)?;
        digest(&mut lanes);
        let mut at = 0;
        while at < lanes.len() {
            match lanes[at].is_full() && lanes[at].next() {
                true => finish(shared, lanes.remove(at).end(None), &mut tally)?,
                false => at += 1,
            }
        }
        if !moved && !took {
            shared.bell.wait(rings);
        }
    }
}

/// Unpacks a step of each chunk that has come so far. Answers whether anything happened.
fn fill<S: Sink>(shared: &Shared<S>, lanes: &mut Vec<Lane>, tally: &mut Tally) -> Result<bool, BackupError> {
    let (mut at, mut moved) = (0, false);
    while at < lanes.len() {
        let fault = match lanes[at].fill() {
            Ok(full) => {
                moved |= full;
                at += 1;
                continue;
            }
            Err(Stop::Damaged(fault)) => fault,
            Err(Stop::Missing(error)) => {
                let runtime = &shared.origin.runtime;
                match runtime.block_on(gone(&shared.origin.store, &lanes[at].job.extent.key))? {
                    Some(backup) => Fault::Gone(backup),
                    None => Fault::Chunk(error.to_string()),
                }
            }
            Err(Stop::Failed(error)) => return Err(error),
        };
        finish(shared, lanes.remove(at).end(Some(fault)), tally)?;
        moved = true;
    }
    Ok(moved)
}

/// Digests the steps of all chunks that have one, together.
fn digest(lanes: &mut [Lane]) {
    let mut steps: Vec<_> = lanes.iter_mut().filter_map(Lane::step).collect();
    update_together(&mut steps);
}

fn finish<S: Sink>(shared: &Shared<S>, done: Done, tally: &mut Tally) -> Result<(), BackupError> {
    shared.halted.check()?;
    let Done { job, checked, fetched, .. } = &done;
    match checked {
        Ok(chunk) => shared.sink.take(job, chunk)?,
        Err(fault) => shared.sink.lost(job, fault.clone())?,
    }
    tally.objects += 1;
    tally.bytes_fetched += fetched;
    Ok(())
}
