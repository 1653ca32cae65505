//! A limit on the bytes that are sent per second.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A budget of bytes that refills with time.
#[derive(Debug, Default)]
pub(super) struct RateLimit {
    /// Bytes per second.
    rate: Option<u64>,
    /// When all that was let through so far will have been sent.
    sent: Mutex<Option<Instant>>,
}

impl RateLimit {
    pub fn new(rate: Option<u64>) -> Self {
        RateLimit { rate, sent: Mutex::default() }
    }

    /// Waits until it is these bytes' turn.
    pub async fn pass(&self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        let turn = {
            let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = sent.unwrap_or_else(Instant::now).max(Instant::now());
            *sent = Some(turn + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64));
            turn
        };
        tokio::time::sleep_until(turn).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_rate_is_kept() {
        let (limit, began) = (RateLimit::new(Some(10_000)), Instant::now());
        for _ in 0..5 {
            limit.pass(500).await;
        }
        assert!(began.elapsed() >= Duration::from_millis(200));
        // Would take for ever at any rate.
        RateLimit::new(None).pass(u64::MAX).await;
    }
}
