//! From the async edge to blocking work: off the async threads, and never longer than the caller waits.

use crate::trace;
use std::error::Error;
use std::time::Duration;
use tonic::Status;

/// Runs blocking work on a thread of its own kind and waits for it up to `limit`; then the answer is
/// `late`, while the work goes on to its end.
pub async fn offload<T: Send + 'static>(
    limit: Duration,
    late: impl FnOnce() -> Status,
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let task = tokio::task::spawn_blocking(trace::within(work));
    match tokio::time::timeout(limit, task).await {
        Ok(Ok(result)) => result,
        // A panic has ended the work, so this is one of the few cases that INTERNAL is true of.
        Ok(Err(join)) => Err(Status::internal(format!("the call broke off: {join}"))),
        Err(_) => Err(late()),
    }
}

/// An error with its causes, each said once.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[tokio::test]
    async fn work_goes_on_after_the_answer() {
        let done = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&done);
        let work = move || {
            std::thread::sleep(Duration::from_millis(200));
            flag.store(true, Ordering::SeqCst);
            Ok(())
        };
        let late = || Status::aborted("still running");
        let answer = offload(Duration::from_millis(20), late, work).await;
        assert_eq!(answer.unwrap_err().code(), tonic::Code::Aborted);
        assert!(!done.load(Ordering::SeqCst));
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert!(done.load(Ordering::SeqCst));
    }

    #[test]
    fn causes_are_said_once() {
        #[derive(Debug, snafu::Snafu)]
        enum Outer {
            #[snafu(display("cannot read /x: {source}"))]
            Repeats { source: std::io::Error },
            #[snafu(display("cannot read /x"))]
            Keeps { source: std::io::Error },
        }
        let inner = || std::io::Error::other("disk on fire");
        for outer in [Outer::Repeats { source: inner() }, Outer::Keeps { source: inner() }] {
            assert_eq!(chain(&outer), "cannot read /x: disk on fire");
        }
    }
}
