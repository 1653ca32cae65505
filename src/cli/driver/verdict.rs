//! The verdict on this node's data path, sought until there is one.

use crate::attach::selftest::{Report, SelfTestError};
use crate::csi::Verdict;
use crate::host::fsio;
use crate::qsd::DaemonError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The first and the longest wait between two tries: a data plane that is being replaced is back in seconds,
/// and a node on which nothing works should not be busy with trying.
pub(super) const PACE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Remembers that the test was passed, and with which data plane.
pub(super) struct Passed(PathBuf);

impl Passed {
    /// In a folder of the node's own.
    pub(super) fn new(dir: &Path) -> Self {
        Passed(dir.join("selftest-passed"))
    }

    /// The test of an earlier process of this node, with the data plane that still runs.
    pub(super) fn before(&self, instance: &str) -> Option<Report> {
        let noted = std::fs::read_to_string(&self.0).ok()?;
        (!instance.is_empty() && noted == instance).then_some(Report { bytes: 0, took: Duration::ZERO })
    }

    pub(super) fn note(&self, instance: &str) {
        if let Err(error) = fsio::write_atomic(&self.0, instance.as_bytes()) {
            tracing::warn!(%error, "the next start will test the data path again");
        }
    }
}

/// Runs the test until it has a verdict. A try that was hindered says nothing about the data path.
pub(super) fn reach(
    (first, longest): (Duration, Duration),
    test: impl Fn() -> Result<Report, SelfTestError> + Send + Sync + 'static,
) -> watch::Receiver<Verdict> {
    let (tell, verdict) = watch::channel(Verdict::Open(None));
    let test = Arc::new(test);
    tokio::spawn(async move {
        let mut wait = first;
        loop {
            let test = Arc::clone(&test);
            let reached = match tokio::task::spawn_blocking(move || test()).await {
                Ok(outcome) => judge(outcome),
                Err(error) => Verdict::Open(Some(format!("the test broke off: {error}"))),
            };
            let settled = !matches!(reached, Verdict::Open(_));
            // Nobody listens any more when the process ends.
            if tell.send(reached).is_err() || settled {
                return;
            }
            tokio::time::sleep(wait).await;
            wait = longest.min(wait * 2);
        }
    });
    verdict
}

fn judge(outcome: Result<Report, SelfTestError>) -> Verdict {
    match outcome {
        Ok(report) => {
            tracing::info!(
                // 0: an earlier process of this node has tested what still runs.
                mib = report.bytes >> 20,
                took_ms = report.took.as_millis(),
                "the data path keeps what is written to it"
            );
            Verdict::Sound
        }
        Err(error) if is_final(&error) => {
            tracing::error!(%error, "no volume is staged on this node");
            Verdict::Unsound(error.to_string())
        }
        Err(error) => {
            tracing::warn!(%error, "the data path could not be tested; trying again");
            Verdict::Open(Some(error.to_string()))
        }
    }
}

/// Whether trying again could only hide what was found.
fn is_final(error: &SelfTestError) -> bool {
    matches!(
        error,
        SelfTestError::Corrupted { .. } | SelfTestError::Start { source: DaemonError::Unusable { .. } }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    const QUICK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(4));

    fn hindered() -> SelfTestError {
        SelfTestError::Start {
            source: DaemonError::Unreachable { reason: "it is being replaced".to_owned() },
        }
    }

    /// How it ends, and after how many tries.
    async fn reached(outcome: fn(u32) -> Result<Report, SelfTestError>) -> (Verdict, u32) {
        let tries = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&tries);
        let mut verdict = reach(QUICK, move || outcome(counted.fetch_add(1, Ordering::SeqCst)));
        let settled = verdict.wait_for(|verdict| !matches!(verdict, Verdict::Open(_)));
        let settled = tokio::time::timeout(Duration::from_secs(10), settled).await;
        let settled = settled.expect("no verdict").expect("the test broke off").clone();
        (settled, tries.load(Ordering::SeqCst))
    }

    #[tokio::test]
    async fn a_hindrance_is_no_verdict() {
        let outcome = |tries| match tries {
            0..5 => Err(hindered()),
            _ => Ok(Report { bytes: 1, took: Duration::ZERO }),
        };
        assert_eq!(reached(outcome).await, (Verdict::Sound, 6));
    }

    /// Only of the data plane that still runs.
    #[test]
    fn a_test_that_was_passed_is_remembered_for_its_data_plane() {
        let dir = tempfile::tempdir().unwrap();
        let passed = Passed::new(dir.path());
        assert!(passed.before("one").is_none());
        passed.note("one");
        assert!(Passed::new(dir.path()).before("one").is_some());
        assert!(passed.before("two").is_none() && passed.before("").is_none());
    }

    #[tokio::test]
    async fn what_lost_writes_once_is_not_tried_again() {
        let (verdict, tries) = reached(|_| Err(SelfTestError::Corrupted { offset: 4096 })).await;
        assert!(matches!(verdict, Verdict::Unsound(reason) if reason.contains("4096")));
        assert_eq!(tries, 1);
        let unusable = DaemonError::Unusable { reason: "a version that corrupts".to_owned() };
        assert!(is_final(&SelfTestError::Start { source: unusable }));
    }
}
