//! How many calls may be under way on one share. The kernel does not give back a thread that waits for a share
//! that hangs; so each share has its own few, and the others, and what needs no share, keep the rest.

use crate::volume::{Error, Volumes};
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};
use tonic::Status;

/// A share of three servers on ten disks does no more at once.
const AT_A_TIME: usize = 64;
/// Those who wait for their turn hold a thread too.
const WAITING: usize = 16;
/// So long a full share is waited for; a sidecar that hears of it asks again later.
const WAIT: Duration = Duration::from_secs(2);

/// The calls on one share.
#[derive(Debug)]
pub(super) struct Lane {
    name: String,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    under_way: usize,
    waiting: usize,
    /// Glances that have not come back in time.
    late: usize,
}

/// The right to work on a share; given back when the work has really ended.
#[derive(Debug)]
pub(super) struct Permit(Arc<Lane>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.state().under_way -= 1;
        self.0.freed.notify_one();
    }
}

/// The volumes of a share, and the right to work on it.
pub(super) struct OnShare {
    volumes: Volumes,
    _permit: Permit,
}

impl Deref for OnShare {
    type Target = Volumes;
    fn deref(&self) -> &Volumes {
        &self.volumes
    }
}

impl Lane {
    pub(super) fn new(name: impl Into<String>) -> Arc<Self> {
        Arc::new(Lane { name: name.into(), state: Mutex::default(), freed: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Counters, each changed in one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place among the calls of this share, or UNAVAILABLE. Blocking, for a short time.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Permit, Status> {
        self.enter_within(WAIT)
    }

    fn enter_within(self: &Arc<Self>, wait: Duration) -> Result<Permit, Status> {
        let deadline = Instant::now() + wait;
        let mut state = self.state();
        if state.under_way >= AT_A_TIME && state.waiting >= WAITING {
            return Err(self.full());
        }
        state.waiting += 1;
        while state.under_way >= AT_A_TIME {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.waiting -= 1;
                return Err(self.full());
            }
            state = self.freed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.waiting -= 1;
        state.under_way += 1;
        Ok(Permit(Arc::clone(self)))
    }

    fn full(&self) -> Status {
        Status::unavailable(format!(
            "{AT_A_TIME} calls on {} are under way, and it does not keep up or does not answer: \
             check its servers; ask again later",
            self.name
        ))
    }

    /// The volumes of this share, to work on.
    pub(super) fn on(self: &Arc<Self>, volumes: Volumes) -> Result<OnShare, Status> {
        Ok(OnShare { volumes, _permit: self.enter()? })
    }

    /// A look at a share that must not hold up what concerns other shares. None: it does not answer within that
    /// time. Who looks after one that found that out, and while that one still waits, is told at once.
    pub(super) fn glance<T: Send + 'static>(
        self: &Arc<Self>,
        volumes: &Volumes,
        limit: Duration,
        look: impl FnOnce(&Volumes) -> Result<T, Error> + Send + 'static,
    ) -> Option<Result<T, Error>> {
        if self.state().late > 0 {
            return None;
        }
        let on_share = self.on(volumes.clone()).ok()?;
        let late = Late::default();
        let (answer, answered) = mpsc::sync_channel(1);
        let ended = Ended(Arc::clone(self), late.clone());
        let span = tracing::Span::current();
        std::thread::spawn(move || {
            let (_ended, _span) = (ended, span.entered());
            // Nobody listens any more when this is late.
            let _ = answer.send(look(&on_share));
        });
        answered.recv_timeout(limit).ok().or_else(|| {
            tracing::warn!(share = self.name, "no answer within {} s", limit.as_secs());
            late.set(self, true);
            None
        })
    }
}

/// Whether one glance is counted as late. It ends on one thread while another one gives up on it.
#[derive(Clone, Default)]
struct Late(Arc<Mutex<Option<bool>>>);

impl Late {
    /// The first word counts, but for that one that was late comes back some day.
    fn set(&self, lane: &Lane, late: bool) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (*said, late) {
            (None, true) => lane.state().late += 1,
            (Some(true), false) => lane.state().late -= 1,
            _ => {}
        }
        *said = Some(late && *said != Some(false));
    }
}

/// Says so also when the look broke off.
struct Ended(Arc<Lane>, Late);

impl Drop for Ended {
    fn drop(&mut self) {
        self.1.set(&self.0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_share_refuses_at_once_or_after_a_short_wait_and_goes_on_when_there_is_room() {
        let lane = Lane::new("s");
        let mut permits: Vec<Permit> = (0..AT_A_TIME).map(|_| lane.enter().unwrap()).collect();
        let refused = lane.enter_within(Duration::from_millis(50)).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable);
        let waiting = {
            let lane = Arc::clone(&lane);
            std::thread::spawn(move || lane.enter_within(Duration::from_secs(20)).map(drop))
        };
        while lane.state().waiting == 0 {
            std::thread::yield_now();
        }
        permits.pop();
        waiting.join().unwrap().unwrap();
        drop(permits);
        assert_eq!(lane.state().under_way, 0);
    }

    #[test]
    fn more_than_may_wait_are_refused_at_once() {
        let lane = Lane::new("s");
        let _permits: Vec<Permit> = (0..AT_A_TIME).map(|_| lane.enter().unwrap()).collect();
        lane.state().waiting = WAITING;
        let begun = Instant::now();
        lane.enter_within(Duration::from_secs(60)).unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}
