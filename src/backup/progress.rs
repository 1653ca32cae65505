//! How far an operation is, and asking it to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// What an operation has done so far. Cheap to clone, all clones count together.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    total: AtomicU64,
    done: AtomicU64,
    transferred: AtomicU64,
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
}

impl Progress {
    /// As it is now.
    pub fn state(&self) -> ProgressState {
        ProgressState {
            total: self.0.total.load(Ordering::Relaxed),
            done: self.0.done.load(Ordering::Relaxed),
            transferred: self.0.transferred.load(Ordering::Relaxed),
        }
    }

    /// How much there is to do.
    pub fn set_total(&self, bytes: u64) {
        self.0.total.store(bytes, Ordering::Relaxed);
    }

    /// More of it is done.
    pub fn add_done(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Ordering::Relaxed);
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
    pub(super) async fn asked(&self) {
        if self.0.clone().wait_for(|asked| *asked).await.is_err() {
            std::future::pending().await
        }
    }

    /// An error once it was asked for: looked at before every chunk (B9).
    pub(super) fn check(&self) -> Result<(), super::BackupError> {
        if self.is_asked() { Err(super::BackupError::Cancelled) } else { Ok(()) }
    }
}
