//! The backups that this process works on.

use super::job::{self, Reins};
use super::queue::{Bounds, Queue};
use crate::backup::Canceller;
use crate::kube::context::Context;
use crate::kube::crd::backup::VolumeBackup;
use crate::kube::names::named;
use crate::trace;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tracing::Instrument;

/// The backups that this process works on.
pub struct Jobs {
    queue: Queue,
    running: Arc<Mutex<HashMap<String, Running>>>,
    changed: Arc<Notify>,
}

struct Running {
    repository: String,
    reins: Reins,
}

/// Says that a job has ended, also when it broke off.
struct Ended {
    uid: String,
    running: Arc<Mutex<HashMap<String, Running>>>,
    changed: Arc<Notify>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.uid);
        self.changed.notify_waiters();
    }
}

impl Jobs {
    /// None yet.
    pub fn new(workers: usize, per_node: Option<usize>) -> Jobs {
        let bounds = Bounds { workers, per_node: per_node.unwrap_or(usize::MAX) };
        Jobs { queue: Queue::new(bounds), running: Arc::default(), changed: Arc::default() }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, Running>> {
        // Changed by whole inserts and removals only.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to work on a backup; does nothing where that is under way.
    pub(super) fn start(&self, context: &Arc<Context>, object: &VolumeBackup) {
        let uid = Context::uid(object).to_owned();
        let mut running = self.running();
        if running.contains_key(&uid) {
            return;
        }
        let (canceller, cancel) = Canceller::new();
        let reins = Reins { canceller, cancel, poke: Arc::default() };
        let repository = object.spec.repository.clone();
        running.insert(uid.clone(), Running { repository, reins: reins.clone() });
        drop(running);
        let ended = Ended { uid, running: Arc::clone(&self.running), changed: Arc::clone(&self.changed) };
        let (context, queue, object) = (Arc::clone(context), self.queue.clone(), object.clone());
        let span = trace::job("backup");
        span.record("object", named(&object));
        let work = async move {
            let _ended = ended;
            job::run(context, queue, object, reins).await;
        };
        tokio::spawn(work.instrument(span));
    }

    /// Tells a job to stop, and waits until it has.
    pub(super) async fn stop(&self, uid: &str) {
        if let Some(job) = self.running().get(uid) {
            job.reins.canceller.cancel();
        }
        self.wait_until(|running| !running.contains_key(uid)).await;
    }

    async fn wait_until(&self, fits: impl Fn(&HashMap<String, Running>) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no word is missed.
            changed.as_mut().enable();
            if fits(&self.running()) {
                return;
            }
            changed.await;
        }
    }

    /// The spec of one has changed: what it waits for may be there.
    pub(super) fn poke(&self, uid: &str) {
        if let Some(job) = self.running().get(uid) {
            job.reins.poke.notify_one();
        }
    }

    /// A repository has changed: those that failed for it try again.
    pub fn poke_all(&self, repository: &str) {
        let running = self.running();
        running
            .values()
            .filter(|job| job.repository == repository)
            .for_each(|job| job.reins.poke.notify_one());
    }

    /// Tells all to stop, and waits for that up to `limit`. What they have uploaded stays for whoever goes on.
    pub async fn stop_all(&self, limit: Duration) {
        self.running().values().for_each(|job| job.reins.canceller.cancel());
        let all = self.wait_until(HashMap::is_empty);
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!("not all backups have stopped in time; the next process goes on with them");
        }
    }
}
