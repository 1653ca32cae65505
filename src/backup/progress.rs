//! How far an operation is, and asking it to stop.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// What a request that is on its way has when its operation is to stop.
const LANDING: Duration = Duration::from_secs(5);

/// What an operation has done so far. Cheap to clone, all clones count together.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    total: AtomicU64,
    done: AtomicU64,
    transferred: AtomicU64,
    read: AtomicU64,
    changed: AtomicU64,
    began: OnceLock<Instant>,
}

/// A moment of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgressState {
    /// Bytes of the volume to deal with.
    pub total: u64,
    /// Bytes of the volume dealt with.
    pub done: u64,
    /// Bytes put into or fetched from the repository.
    pub transferred: u64,
    /// Bytes read from the source.
    pub read: u64,
    /// Bytes of the volume that are stored, for they had changed.
    pub changed: u64,
    /// Since it was known how much there is to do.
    pub elapsed: Duration,
}

impl ProgressState {
    /// How far it is, 0 to 100.
    pub fn percent(&self) -> f64 {
        if self.total == 0 { 0.0 } else { 100.0 * self.done.min(self.total) as f64 / self.total as f64 }
    }

    /// Bytes of the volume per second, so far.
    pub fn rate(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 { self.done as f64 / seconds } else { 0.0 }
    }

    /// How long the rest will take at that rate; nothing while there is none.
    pub fn remaining(&self) -> Option<Duration> {
        let left = self.total.saturating_sub(self.done) as f64;
        let rate = self.rate();
        if rate > 0.0 { Duration::try_from_secs_f64(left / rate).ok() } else { None }
    }
}

impl Progress {
    /// As it is now.
    pub fn state(&self) -> ProgressState {
        ProgressState {
            total: self.0.total.load(Ordering::Relaxed),
            done: self.0.done.load(Ordering::Relaxed),
            transferred: self.0.transferred.load(Ordering::Relaxed),
            read: self.0.read.load(Ordering::Relaxed),
            changed: self.0.changed.load(Ordering::Relaxed),
            elapsed: self.0.began.get().map_or(Duration::ZERO, Instant::elapsed),
        }
    }

    /// How much there is to do.
    pub fn set_total(&self, bytes: u64) {
        self.0.began.get_or_init(Instant::now);
        self.0.total.store(bytes, Ordering::Relaxed);
    }

    /// More of it is done.
    pub fn add_done(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// It begins again: nothing is done of what is to do.
    pub(super) fn restart(&self) {
        for counter in [&self.0.done, &self.0.transferred, &self.0.read, &self.0.changed] {
            counter.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn add_read(&self, bytes: u64) {
        self.0.read.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn add_changed(&self, bytes: u64) {
        self.0.changed.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn add_transferred(&self, bytes: u64) {
        self.0.transferred.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The side that asks to stop.
#[derive(Clone, Debug)]
pub struct Canceller(watch::Sender<bool>);

/// The side that is asked.
#[derive(Clone, Debug)]
pub struct Cancel(watch::Receiver<bool>);

impl Canceller {
    /// A pair of both sides.
    pub fn new() -> (Canceller, Cancel) {
        let (sender, receiver) = watch::channel(false);
        (Canceller(sender), Cancel(receiver))
    }

    /// Asks to stop. The operation cleans up and then ends.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }
}

impl Cancel {
    /// Nobody will ever ask.
    pub fn never() -> Cancel {
        Canceller::new().1
    }

    /// Whether it was asked for.
    pub fn is_asked(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is asked for; for ever, when nobody is left who could.
    pub async fn asked(&self) {
        if self.0.clone().wait_for(|asked| *asked).await.is_err() {
            std::future::pending().await
        }
    }

    /// What `work` answers, unless it is asked to stop first.
    pub(super) async fn or<T, E>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, super::BackupError>
    where
        super::BackupError: From<E>,
    {
        tokio::select! {
            biased;
            done = work => Ok(done?),
            () = self.asked() => Err(super::BackupError::Cancelled),
        }
    }

    /// The same for what changes the repository: once it is asked to stop, that has some seconds more. What lands in
    /// them can be removed; what does not is cut, so that a store that stalls holds nobody.
    pub(super) async fn or_soon<T, E>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, super::BackupError>
    where
        super::BackupError: From<E>,
    {
        let over = async {
            self.asked().await;
            tokio::time::sleep(LANDING).await;
        };
        tokio::select! {
            biased;
            done = work => Ok(done?),
            () = over => Err(super::BackupError::Cancelled),
        }
    }

    /// An error once it was asked for: looked at before every chunk (B9).
    pub(super) fn check(&self) -> Result<(), super::BackupError> {
        if self.is_asked() { Err(super::BackupError::Cancelled) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_again_counts_anew() {
        let progress = Progress::default();
        progress.set_total(400);
        progress.add_done(1);
        progress.add_read(2);
        progress.add_changed(3);
        progress.add_transferred(4);
        progress.restart();
        let ProgressState { total, done, read, changed, transferred, .. } = progress.state();
        assert_eq!([total, done, read, changed, transferred], [400, 0, 0, 0, 0]);
    }

    /// B8: what is shown follows from what is counted.
    #[test]
    fn a_true_percentage() {
        let state =
            ProgressState { total: 400, done: 100, elapsed: Duration::from_secs(5), ..Default::default() };
        assert_eq!((state.percent(), state.rate()), (25.0, 20.0));
        assert_eq!(state.remaining(), Some(Duration::from_secs(15)));
        let begun = ProgressState { total: 400, ..Default::default() };
        assert_eq!((begun.percent(), begun.remaining()), (0.0, None));
    }
}
