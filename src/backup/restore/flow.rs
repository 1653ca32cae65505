//! Takes objects through fetching, unpacking, checking and whatever is done with them, side by side. Bounded by one
//! budget of bytes and a number of objects; a slow stage holds back the ones before it.

use super::bell::Bell;
use super::check::{Fault, Job};
use super::chunk::Chunk;
use super::lane::{Lane, Need};
use super::ledger::{Grant, Ledger};
use super::source::Origin;
use super::worker::{Shared, work};
use crate::backup::error::{BackupError, WorkerSnafu};
use crate::backup::store::Store;
use crate::backup::{Cancel, Canceller, Progress, blocking};
use snafu::ResultExt;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinSet};

/// Beside the chunks: the program, a window of hashes, parts of the hash file on their way, the allocator's remains.
const OVERHEAD: u64 = 64 << 20;

/// What becomes of a chunk that was checked.
pub(in crate::backup) trait Sink: Send + Sync + 'static {
    /// Which of a chunk's bytes it wants to have at the end: ascending, disjoint.
    fn wants<'a>(&'a self, job: &'a Job) -> &'a [Range<u64>];
    /// Takes it. Blocking; called from several threads.
    fn take(&self, job: &Job, chunk: &Chunk) -> Result<(), BackupError>;
    /// Takes note of one that is damaged; an error ends everything.
    fn lost(&self, job: &Job, fault: Fault) -> Result<(), BackupError>;
}

/// How much at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory in all; one chunk that needs more gets it, alone.
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

/// Objects on their way. Whoever drops it, or is told of an error, can be sure that no sink is called any more once
/// `end` has returned.
pub(in crate::backup) struct Flow<S> {
    shared: Arc<Shared<S>>,
    ledger: Arc<Ledger>,
    concurrency: usize,
    cancel: Cancel,
    halt: Halt,
    workers: JoinSet<Result<Tally, BackupError>>,
    tally: Tally,
}

/// Tells the workers to stop when it is dropped.
struct Halt(Canceller, Arc<Bell>);

impl Drop for Halt {
    fn drop(&mut self) {
        self.0.cancel();
        self.1.ring();
    }
}

impl<S: Sink> Flow<S> {
    /// `beside`: memory that the caller takes for as long as this lasts.
    pub fn new(
        store: Arc<dyn Store>,
        sink: Arc<S>,
        limits: Limits,
        beside: u64,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Self {
        let bell = Arc::<Bell>::default();
        let (canceller, halted) = Canceller::new();
        let (progress, runtime) = (progress.clone(), Handle::current());
        let shared = Arc::new(Shared {
            origin: Origin { store, bell: Arc::clone(&bell), progress, runtime },
            sink,
            bell: Arc::clone(&bell),
            halted,
            queue: Mutex::new(VecDeque::new()),
            is_closed: AtomicBool::new(false),
        });
        let concurrency = limits.concurrency.max(1);
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let threads = cores.min(concurrency);
        let mut workers = JoinSet::new();
        for _ in 0..threads {
            let shared = Arc::clone(&shared);
            let span = tracing::Span::current();
            workers.spawn_blocking(move || span.in_scope(|| work(&shared, concurrency.div_ceil(threads))));
        }
        Flow {
            shared,
            ledger: Ledger::new(limits.memory.saturating_sub(OVERHEAD + beside), &bell),
            concurrency,
            cancel: cancel.clone(),
            halt: Halt(canceller, bell),
            workers,
            tally: Tally::default(),
        }
    }

    /// Who may ask it to stop.
    pub fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Sends one on its way, as soon as there is room.
    pub async fn push(&mut self, job: Job) -> Result<(), BackupError> {
        let wanted = self.shared.sink.wants(&job).to_vec();
        let grant = self.admitted(Need::of(&job.extent, job.stored, &wanted)).await?;
        let lane = Lane::begin(job, wanted, grant, self.shared.origin.clone())?;
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(lane);
        self.shared.bell.ring();
        Ok(())
    }

    async fn admitted(&mut self, need: Need) -> Result<Grant, BackupError> {
        loop {
            self.cancel.check()?;
            if self.ledger.accounts() < self.concurrency
                && let Some(grant) = self.ledger.admit(need.fixed, need.segments)
            {
                return Ok(grant);
            }
            tokio::select! {
                () = self.ledger.room().notified() => {}
                Some(ended) = self.workers.join_next() => self.note(ended)?,
                () = self.cancel.asked() => return Err(BackupError::Cancelled),
            }
        }
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
        self.shared.is_closed.store(true, Ordering::SeqCst);
        self.shared.bell.ring();
        while result.is_ok() && !self.workers.is_empty() {
            result = tokio::select! {
                Some(ended) = self.workers.join_next() => self.note(ended),
                () = self.cancel.asked() => Err(BackupError::Cancelled),
            };
        }
        if let Err(error) = result {
            drop(self.halt);
            while self.workers.join_next().await.is_some() {}
            return Err(error);
        }
        self.tally.memory_peak = self.ledger.peak();
        Ok(self.tally)
    }

    fn note(&mut self, ended: Result<Result<Tally, BackupError>, JoinError>) -> Result<(), BackupError> {
        let tally = ended.context(WorkerSnafu)??;
        self.tally.objects += tally.objects;
        self.tally.bytes_fetched += tally.bytes_fetched;
        Ok(())
    }
}
