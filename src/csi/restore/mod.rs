//! Backups as CSI snapshots: looked up, and brought back into volumes by jobs of this process.
//!
//! What a restore is on the share, and who may work at it, is the domain's (`volume/restore.rs`); what it reads is the
//! engine's (`backup/restore`). Here the two meet. Any controller serves any call: a job that died with its process is
//! begun anew by whichever is asked next.

mod job;
mod look;
mod refusal;
mod usage;

pub(super) use usage::{fits, parameters};

use crate::backup::repositories::Repositories;
use crate::backup::{BackupPoint, Progress};
use crate::metrics::RestoreCounts;
use crate::volume::{
    BackupHandle, CreateVolume, Error, Restored, VolumeHandle, VolumeId, VolumeView, Volumes,
};
use look::Looks;
use refusal::Refusal;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tonic::Status;

/// In this process. Each has the memory that its repository's settings give it.
const AT_A_TIME: usize = 2;
/// A small restore is over by then, and its caller need not ask again.
const WAIT: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The restores of this process.
#[derive(Clone)]
pub struct Restores(Arc<Inner>);

struct Inner {
    runtime: Handle,
    repositories: Arc<dyn Repositories>,
    looks: Looks,
    running: Mutex<BTreeMap<VolumeHandle, Progress>>,
    counts: RestoreCounts,
    slots: Semaphore,
}

impl Restores {
    /// `runtime` runs the jobs, which are counted there.
    pub fn new(runtime: Handle, repositories: Arc<dyn Repositories>, counts: RestoreCounts) -> Self {
        Restores(Arc::new(Inner {
            runtime,
            repositories,
            looks: Looks::default(),
            running: Mutex::default(),
            counts,
            slots: Semaphore::new(AT_A_TIME),
        }))
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<VolumeHandle, Progress>> {
        // Changed by whole inserts and removals only.
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the manifests of a backup tell; not within that time: UNAVAILABLE, and whoever asks again soon gets what
    /// came of it. Blocking.
    pub(super) fn look(&self, handle: &BackupHandle, wait: Duration) -> Result<BackupPoint, Refusal> {
        let looked = self.0.looks.look(&self.0, handle);
        self.0.runtime.block_on(async {
            match tokio::time::timeout(wait, looked).await {
                Ok(found) => found,
                Err(_) => Err(Refusal::late(handle, wait)),
            }
        })
    }

    /// Sees to it that a restore goes on, waits a little, and answers the volume or how far it is. Blocking.
    pub(super) fn bring_back(&self, volumes: &Volumes, request: &CreateVolume) -> Result<VolumeView, Status> {
        let deadline = Instant::now() + WAIT;
        let id = VolumeId::from_name(&request.name);
        let handle = volumes.handle(id);
        job::see_to(self, volumes, id);
        while self.running().contains_key(&handle) && Instant::now() < deadline {
            std::thread::sleep(LOOK_EVERY);
        }
        match volumes.find_restored(request)? {
            Some(Restored::Ready(view)) => Ok(view),
            Some(Restored::Underway(volume)) => {
                let doing = self.how_far(volumes, volume, request);
                Err(Error::Pending { volume, doing }.into())
            }
            None => Err(Error::Pending { volume: id, doing: "it was deleted meanwhile".to_owned() }.into()),
        }
    }

    fn how_far(&self, volumes: &Volumes, volume: VolumeId, request: &CreateVolume) -> String {
        let own = self.running().get(&volumes.handle(volume)).map(Progress::state);
        let own = own.filter(|state| state.total > 0).map(|state| (state.done, state.total));
        let noted = || volumes.restore_note(volume).ok().flatten().map(|note| (note.restored, note.of));
        let source = request.source.as_ref().map(ToString::to_string).unwrap_or_default();
        match own.or_else(noted) {
            Some((done, total)) => {
                let percent = 100 * done.min(total) / total.max(1);
                format!("{percent} % of {source} is restored ({done} of {total} bytes)")
            }
            None => format!("0 % of {source} is restored: it is about to begin"),
        }
    }
}
