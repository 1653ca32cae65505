//! Takes objects through fetching, unpacking, checking and whatever is done with them, side by side. Bounded by one
//! budget of bytes and a number of requests; a slow stage holds back the ones before it.

use super::budget::{Budget, Held};
use super::changed::gone;
use super::check::{Fault, Job, memory_of, unpack, verify};
use crate::backup::error::{BackupError, WorkerSnafu};
use crate::backup::store::{Store, StoreError};
use crate::backup::{Cancel, Canceller, Progress, blocking};
use bytes::Bytes;
use snafu::ResultExt;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// What becomes of a chunk that was checked.
pub(in crate::backup) trait Sink: Send + Sync + 'static {
    /// Takes it. Blocking; called from several threads.
    fn take(&self, job: &Job, data: &[u8]) -> Result<(), BackupError>;
    /// Takes note of one that is damaged; an error ends everything.
    fn lost(&self, job: &Job, fault: Fault) -> Result<(), BackupError>;
}

/// How much at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of chunks in memory, packed and unpacked; one chunk that needs more gets it, alone.
    pub memory: u64,
    /// Objects on their way at a time.
    pub concurrency: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // As many requests as hide the round trips to a store without being a burden to a small one.
        Limits { memory: 256 << 20, concurrency: 8 }
    }
}

/// What went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::backup) struct Tally {
    pub objects: u64,
    pub bytes_fetched: u64,
    pub memory_peak: u64,
}

struct Shared<S> {
    store: Arc<dyn Store>,
    sink: Arc<S>,
    cores: Arc<Semaphore>,
    progress: Progress,
    halted: Cancel,
}

/// Objects on their way. Whoever drops it, or is told of an error, can be sure that no sink is called any more once
/// `end` has returned.
pub(in crate::backup) struct Flow<S> {
    shared: Arc<Shared<S>>,
    budget: Budget,
    concurrency: usize,
    cancel: Cancel,
    halt: Halt,
    tasks: JoinSet<Result<u64, BackupError>>,
    tally: Tally,
}

/// Tells the tasks to stop when it is dropped.
struct Halt(Canceller);

impl Drop for Halt {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl<S: Sink> Flow<S> {
    pub fn new(
        store: Arc<dyn Store>,
        sink: Arc<S>,
        limits: Limits,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let (canceller, halted) = Canceller::new();
        let cores = Arc::new(Semaphore::new(cores));
        let shared = Arc::new(Shared { store, sink, cores, progress: progress.clone(), halted });
        Flow {
            shared,
            budget: Budget::new(limits.memory),
            concurrency: limits.concurrency.max(1),
            cancel: cancel.clone(),
            halt: Halt(canceller),
            tasks: JoinSet::new(),
            tally: Tally::default(),
        }
    }

    /// Sends one on its way, as soon as there is room.
    pub async fn push(&mut self, job: Job) -> Result<(), BackupError> {
        self.cancel.check()?;
        while self.tasks.len() >= self.concurrency {
            self.reap().await?;
        }
        let need = memory_of(&job.extent, job.stored);
        let held = loop {
            tokio::select! {
                held = self.budget.take(need) => break held,
                Some(ended) = self.tasks.join_next() => self.note(ended)?,
                () = self.cancel.asked() => return Err(BackupError::Cancelled),
            }
        };
        self.tasks.spawn(one(Arc::clone(&self.shared), job, held));
        Ok(())
    }

    /// Does something to the target that needs no object.
    pub async fn aside(
        &mut self,
        work: impl FnOnce() -> Result<(), BackupError> + Send + 'static,
    ) -> Result<(), BackupError> {
        self.cancel.check()?;
        // To its end, come what may.
        blocking(work).await
    }

    /// Waits for all that is on its way. After a failure, which is handed in, too: to the last one, for nobody
    /// may write to a target that is given up.
    pub async fn end(mut self, so_far: Result<(), BackupError>) -> Result<Tally, BackupError> {
        let mut result = so_far;
        while result.is_ok() && !self.tasks.is_empty() {
            result = self.reap().await;
        }
        if let Err(error) = result {
            drop(self.halt);
            while self.tasks.join_next().await.is_some() {}
            return Err(error);
        }
        self.tally.memory_peak = self.budget.peak();
        Ok(self.tally)
    }

    async fn reap(&mut self) -> Result<(), BackupError> {
        tokio::select! {
            Some(ended) = self.tasks.join_next() => self.note(ended),
            () = self.cancel.asked() => Err(BackupError::Cancelled),
        }
    }

    fn note(
        &mut self,
        ended: Result<Result<u64, BackupError>, tokio::task::JoinError>,
    ) -> Result<(), BackupError> {
        self.tally.bytes_fetched += ended.context(WorkerSnafu)??;
        self.tally.objects += 1;
        Ok(())
    }
}

async fn one<S: Sink>(shared: Arc<Shared<S>>, job: Job, held: Held) -> Result<u64, BackupError> {
    let got = tokio::select! {
        got = shared.store.get(&job.extent.key, job.extent.length) => got,
        () = shared.halted.asked() => return Err(BackupError::Cancelled),
    };
    let stored = match got {
        Ok(stored) => Ok(stored),
        Err(e @ StoreError::Missing { .. }) => match gone(&shared.store, &job.extent.key).await? {
            Some(backup) => Err(Fault::Gone(backup)),
            None => Err(Fault::Chunk(e.to_string())),
        },
        Err(e @ StoreError::TooLarge { .. }) => Err(Fault::Chunk(e.to_string())),
        Err(e) => return Err(e.into()),
    };
    let bytes = stored.as_ref().map_or(0, |stored| stored.len() as u64);
    shared.progress.add_transferred(bytes);
    // Never closed.
    let core = Arc::clone(&shared.cores).acquire_owned().await.ok();
    blocking(move || {
        shared.halted.check()?;
        let checked = stored.and_then(|stored| checked(&shared, &job, stored, &held));
        // What follows waits for a disk.
        drop(core);
        shared.halted.check()?;
        match checked {
            Ok(data) => shared.sink.take(&job, &data)?,
            Err(fault) => shared.sink.lost(&job, fault)?,
        }
        Ok(bytes)
    })
    .await
}

fn checked<S: Sink>(
    shared: &Shared<S>,
    job: &Job,
    stored: Bytes,
    held: &Held,
) -> Result<super::check::Chunk, Fault> {
    let data = unpack(&job.extent, stored, held).map_err(Fault::Chunk)?;
    let spare = Arc::clone(&shared.cores).try_acquire_owned();
    verify(job, &data, spare.is_ok())?;
    Ok(data)
}
