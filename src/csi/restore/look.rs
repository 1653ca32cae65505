//! Looking at a backup's manifests, once for all who ask at the same time. A look outlives whoever has asked for it, so
//! that a store which needs longer than a call may take is not asked from the beginning each time.

use super::Inner;
use super::refusal::Refusal;
use crate::backup::BackupPoint;
use crate::volume::BackupHandle;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What nobody has come for in so long is old.
const KEPT: Duration = Duration::from_secs(60);

type Found = Result<BackupPoint, Refusal>;
type Look = Shared<BoxFuture<'static, Found>>;

/// The looks that are under way, and the answers that nobody has waited for.
#[derive(Debug, Default)]
pub(super) struct Looks(Arc<Mutex<BTreeMap<BackupHandle, (Instant, Look)>>>);

impl Looks {
    /// The one that is under way, or a new one.
    pub fn look(&self, inner: &Arc<Inner>, handle: &BackupHandle) -> BoxFuture<'static, Found> {
        let look = {
            let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            looks.retain(|_, (begun, look)| look.peek().is_none() || begun.elapsed() < KEPT);
            let begin = || (Instant::now(), begin(inner, handle));
            looks.entry(handle.clone()).or_insert_with(begin).1.clone()
        };
        let (looks, handle) = (Arc::clone(&self.0), handle.clone());
        async move {
            let found = look.clone().await;
            // It was waited for: the next one asks anew.
            let mut looks = looks.lock().unwrap_or_else(PoisonError::into_inner);
            if looks.get(&handle).is_some_and(|(_, other)| other.ptr_eq(&look)) {
                looks.remove(&handle);
            }
            found
        }
        .boxed()
    }
}

fn begin(inner: &Arc<Inner>, handle: &BackupHandle) -> Look {
    let (repositories, handle) = (Arc::clone(&inner.repositories), handle.clone());
    let look = inner.runtime.spawn(async move {
        let repository =
            repositories.open(&handle.repository).await.map_err(|error| Refusal::from(&error))?;
        let found = repository.engine.point(handle.volume, handle.backup).await;
        found.map_err(|error| Refusal::from(&error))
    });
    let ended = |end: Result<Found, tokio::task::JoinError>| {
        end.unwrap_or_else(|error| Err(Refusal::failed(format!("the look broke off: {error}"))))
    };
    look.map(ended).boxed().shared()
}
