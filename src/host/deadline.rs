//! A bound for work that the kernel may never finish, such as touching a mount whose server is gone.

use snafu::Snafu;
use std::sync::mpsc;
use std::time::Duration;

/// The work took too long and was left to itself.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub), display("{what} did not finish within {:.0} s", limit.as_secs_f32()))]
pub struct TimedOut {
    /// What was tried.
    pub what: String,
    /// The bound.
    pub limit: Duration,
}

/// Does the work on a thread of its own and waits that long for it. A thread that is late cannot be
/// ended: it stays until the kernel lets it go, so the work must not hold anything that others wait for.
pub fn within<T: Send + 'static>(
    limit: Duration,
    what: impl Into<String>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TimedOut> {
    let (answer, wait) = mpsc::sync_channel(1);
    let span = tracing::Span::current();
    let worker = std::thread::spawn(move || {
        let _span = span.entered();
        // Nobody listens any more when this is late.
        let _ = answer.send(work());
    });
    match wait.recv_timeout(limit) {
        Ok(value) => Ok(value),
        Err(mpsc::RecvTimeoutError::Timeout) => TimedOutSnafu { what, limit }.fail(),
        Err(mpsc::RecvTimeoutError::Disconnected) => match worker.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("the worker ends only after it has answered"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_time_is_handed_over() {
        assert_eq!(within(Duration::from_secs(5), "adding", || 1 + 1).unwrap(), 2);
    }

    #[test]
    fn what_is_late_is_named() {
        let late =
            within(Duration::from_millis(20), "sleeping", || std::thread::sleep(Duration::from_secs(1)));
        assert!(late.unwrap_err().to_string().starts_with("sleeping did not finish"));
    }
}
