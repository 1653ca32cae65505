//! The time, which tests set themselves.

use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;
use tokio::sync::watch;

/// What schedules and retries go by.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
    /// A word each time that this clock jumps.
    fn jumps(&self) -> BoxStream<'static, ()>;
}

/// The machine's.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
    fn jumps(&self) -> BoxStream<'static, ()> {
        stream::pending().boxed()
    }
}

/// One that stands still until it is set.
#[derive(Clone, Debug)]
pub struct SetClock(watch::Sender<Timestamp>);

impl SetClock {
    /// Beginning at some time.
    pub fn new(now: Timestamp) -> Self {
        SetClock(watch::Sender::new(now))
    }

    /// Sets it.
    pub fn set(&self, now: Timestamp) {
        self.0.send_replace(now);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        *self.0.borrow()
    }
    fn jumps(&self) -> BoxStream<'static, ()> {
        let seen = self.0.subscribe();
        stream::unfold(seen, |mut seen| async move { seen.changed().await.ok().map(|()| ((), seen)) }).boxed()
    }
}
