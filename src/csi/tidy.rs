//! Background work on volumes: merges and sweeps, a few at a time, one per volume.

use super::shares::Shares;
use crate::gluster::ShareKey;
use crate::trace;
use crate::volume::{Error, VolumeHandle, VolumeId, Volumes};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tracing::{Instrument, Span, field};

/// On one share. A merge is mostly waiting for it: more of them at a time would only slow the pods down. A
/// share that hangs keeps its own permits, and nobody else's.
const AT_A_TIME: usize = 2;
/// A volume that is busy is looked at again after this long, this many times; then the next round counts.
const RETRY_AFTER: Duration = Duration::from_secs(2);
const RETRIES: usize = 30;

/// Runs [`Volumes::tidy`] where it is due.
#[derive(Clone)]
pub struct Tidy {
    runtime: Handle,
    permits: Arc<Mutex<BTreeMap<ShareKey, Arc<Semaphore>>>>,
    /// Shares whose list of volumes is being read.
    listing: Arc<Mutex<BTreeSet<ShareKey>>>,
    /// Value: asked again meanwhile.
    running: Arc<Mutex<BTreeMap<VolumeHandle, bool>>>,
}

impl Tidy {
    /// `runtime` lends the threads.
    pub fn new(runtime: Handle) -> Self {
        Tidy { runtime, permits: Arc::default(), listing: Arc::default(), running: Arc::default() }
    }

    fn permits(&self, share: &ShareKey) -> Arc<Semaphore> {
        let mut permits = self.permits.lock().unwrap_or_else(PoisonError::into_inner);
        let of_share = permits.entry(share.clone()).or_insert_with(|| Arc::new(Semaphore::new(AT_A_TIME)));
        Arc::clone(of_share)
    }

    /// Tidies a volume soon. Under way already: once more afterwards.
    pub fn request(&self, volumes: &Volumes, volume: VolumeId) {
        let handle = volumes.handle(volume);
        {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(again) = running.get_mut(&handle) {
                *again = true;
                return;
            }
            running.insert(handle.clone(), false);
        }
        let (this, volumes) = (self.clone(), volumes.clone());
        let asker = Span::current();
        self.runtime.spawn(async move {
            loop {
                let job = trace::job("tidy");
                job.record("volume", field::display(volume));
                job.follows_from(&asker);
                this.tidy(&volumes, volume, &handle).instrument(job).await;
                for other in volumes.take_due() {
                    this.request(&volumes, other);
                }
                let mut running = this.running.lock().unwrap_or_else(PoisonError::into_inner);
                match running.get_mut(&handle) {
                    Some(again) if *again => *again = false,
                    _ => {
                        running.remove(&handle);
                        break;
                    }
                }
            }
        });
    }

    async fn tidy(&self, volumes: &Volumes, volume: VolumeId, handle: &VolumeHandle) {
        let permits = self.permits(&handle.share);
        for _ in 0..RETRIES {
            let Ok(permit) = permits.acquire().await else { return };
            let work = volumes.clone();
            let tidied = tokio::task::spawn_blocking(trace::within(move || work.tidy(volume))).await;
            drop(permit);
            match tidied {
                Ok(Ok(())) => return,
                // A node that cannot be asked may be starting.
                Ok(Err(
                    error @ (Error::Busy { .. } | Error::Pending { .. } | Error::NodeUnreachable { .. }),
                )) => {
                    tracing::debug!(share = %handle.share, %error, "background work waits");
                }
                Ok(Err(error)) => {
                    trace::failed();
                    tracing::warn!(share = %handle.share, %error, "background work failed; it will be tried again");
                    return;
                }
                Err(error) => {
                    trace::failed();
                    tracing::error!(share = %handle.share, %error, "background work broke off");
                    return;
                }
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// Asks for every volume of every open share that has work due. Each share is read on a thread of its own;
    /// one whose last reading still hangs is left out.
    pub fn sweep(&self, shares: &Shares) {
        for volumes in shares.open() {
            let key = volumes.share().key.clone();
            if !self.listing.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone()) {
                tracing::warn!(share = %volumes.share().source, "the last look for work there is not back yet");
                continue;
            }
            let listed = Listed { key, listing: Arc::clone(&self.listing) };
            let this = self.clone();
            self.runtime.spawn_blocking(move || {
                let _listed = listed;
                match volumes.volumes_to_tidy() {
                    Ok(due) => due.into_iter().for_each(|volume| this.request(&volumes, volume)),
                    Err(error) => {
                        tracing::warn!(share = %volumes.share().source, %error, "volumes cannot be listed");
                    }
                }
            });
        }
    }
}

/// Lets the next sweep look at a share again, also when this one broke off.
struct Listed {
    key: ShareKey,
    listing: Arc<Mutex<BTreeSet<ShareKey>>>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.listing.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
#[path = "tidy_tests.rs"]
mod tests;
