//! Wakes threads that found nothing to do.

use std::sync::{Condvar, Mutex, PoisonError};

/// Rung whenever something may have become possible: bytes arrived, memory is free, a chunk is waiting.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rings: Mutex<u64>,
    heard: Condvar,
}

impl Bell {
    /// How often it was rung so far: to be asked before looking whether there is something to do.
    pub fn rings(&self) -> u64 {
        *self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn ring(&self) {
        *self.rings.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.heard.notify_all();
    }

    /// Waits until it was rung more often than that.
    pub fn wait(&self, rings: u64) {
        let guard = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.heard.wait_while(guard, |now| *now == rings).unwrap_or_else(PoisonError::into_inner));
    }
}
