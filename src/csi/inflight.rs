//! One call per volume or name at a time in this process.
//!
//! The domain's lock on the share would sort two calls out as well, but each waiting one holds a thread.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use tonic::Status;

/// What is being worked on.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlight {
    keys: Arc<Mutex<HashSet<String>>>,
}

/// Held until the work really ends, also when its caller has had an answer long before.
#[derive(Debug)]
pub(super) struct Guard {
    keys: InFlight,
    key: String,
}

impl InFlight {
    /// The right to work on `key`, or ABORTED: the sidecar asks again.
    pub(super) fn begin(&self, key: impl Into<String>) -> Result<Guard, Status> {
        let key = key.into();
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if !keys.insert(key.clone()) {
            return Err(Status::aborted(format!("an earlier call for {key} is still running; ask again")));
        }
        Ok(Guard { keys: self.clone(), key })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.keys.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G14: one operation at a time on a volume, many volumes in parallel.
    #[test]
    fn a_second_call_is_aborted_until_the_first_ends() {
        let calls = InFlight::default();
        let first = calls.begin("a").unwrap();
        assert_eq!(calls.begin("a").unwrap_err().code(), tonic::Code::Aborted);
        let _other = calls.begin("b").unwrap();
        drop(first);
        calls.begin("a").unwrap();
    }

    #[test]
    fn a_panic_gives_the_right_back() {
        let calls = InFlight::default();
        let guard = calls.begin("a").unwrap();
        let ended = std::thread::spawn(move || {
            let _guard = guard;
            panic!("as expected by this test");
        });
        assert!(ended.join().is_err());
        calls.begin("a").unwrap();
    }
}
