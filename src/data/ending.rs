//! The end of a data plane: no mount is left half done, and none is left at all where the mounts' processes end with it.

use super::shares::{BusySnafu, MountedShares, SharesError, TURN};
use crate::gluster::{self, Source};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// Between looks at whether a share is still used.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl MountedShares {
    /// From now on nothing new is mounted, and what is being mounted is given up. What is mounted is still answered.
    pub fn mount_no_more(&self) {
        self.ending.store(true, Ordering::SeqCst);
    }

    /// Waits until nothing is being mounted or unmounted, for so long. What is left then.
    pub fn settle(&self, patience: Duration) -> Vec<Source> {
        let end = Instant::now() + patience;
        let mut state = self.locked();
        while !state.busy.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.turns.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.busy.iter().filter_map(|source| source.parse().ok()).collect()
    }

    /// Unmounts what nobody uses, or stops using within `patience`, for a data plane with which the mounts' own processes
    /// end: a dead mount would stay. The shares are still wanted, and come back with the next data plane. Takes twice that
    /// long at most, and what the kernel takes.
    pub fn let_go(&self, patience: Duration) {
        self.mount_no_more();
        for source in self.settle(patience / 2) {
            tracing::warn!(share = %source, "its mount hangs, and is broken off");
            gluster::abandon(&source, &self.mounts());
        }
        for source in self.settle(patience / 2) {
            tracing::warn!(share = %source, "its mount was broken off, and may leave something behind");
        }
        let end = Instant::now() + patience;
        for share in self.list() {
            while let Err(error) = gluster::close(&share) {
                if Instant::now() >= end {
                    tracing::warn!(share = %share.source, %error, "a share stays mounted, and is dead from now on");
                    break;
                }
                thread::sleep(LOOK_AGAIN);
            }
        }
    }

    /// Unmounts all shares, for good. An error: one is in use, and all goes on.
    pub fn unmount_all(&self) -> Result<(), SharesError> {
        self.mount_no_more();
        let unmounted = match self.settle(TURN).into_iter().next() {
            Some(share) => BusySnafu { share }.fail(),
            None => self.list().iter().try_for_each(|share| self.unmount(&share.key)),
        };
        self.ending.store(unmounted.is_ok(), Ordering::SeqCst);
        unmounted
    }
}
