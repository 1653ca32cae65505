//! A restore under way in this process.

use super::Restores;
use super::refusal::Refusal;
use crate::backup::{Cancel, Canceller, Progress, RestoreOptions};
use crate::metrics::{Outcome, Restore};
use crate::trace;
use crate::volume::{Error, RestoreTurn, VolumeHandle, VolumeId, Volumes};
use std::sync::Arc;
use std::time::Duration;
use tracing::Instrument;

/// How often it is looked whether the volume is still wanted, and told how far its restore is.
const WATCH: Duration = Duration::from_secs(1);

/// Begins a restore, unless it runs here already.
pub(super) fn see_to(restores: &Restores, volumes: &Volumes, volume: VolumeId) {
    let handle = volumes.handle(volume);
    let progress = Progress::default();
    {
        let mut running = restores.running();
        if running.contains_key(&handle) {
            return;
        }
        running.insert(handle.clone(), progress.clone());
    }
    let running = Running { restores: restores.clone(), handle };
    let volumes = volumes.clone();
    let job = trace::job("restore");
    job.record("volume", tracing::field::display(volume));
    job.follows_from(tracing::Span::current());
    let work = async move { run(&running, volumes, volume, &progress).await };
    restores.0.runtime.spawn(work.instrument(job));
}

/// Takes itself off the list, also when it broke off.
struct Running {
    restores: Restores,
    handle: VolumeHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.restores.running().remove(&self.handle);
    }
}

async fn run(running: &Running, volumes: Volumes, volume: VolumeId, progress: &Progress) {
    let counts = &running.restores.0.counts;
    let waiting = counts.wait();
    let Ok(_slot) = running.restores.0.slots.acquire().await else { return };
    drop(waiting);
    let turn = match blocking(move || volumes.restore_turn(volume)).await {
        Ok(Some(turn)) => Arc::new(turn),
        Ok(None) => {
            tracing::debug!("another controller restores it, or it is done");
            return;
        }
        Err(error) => {
            tracing::warn!(%error, "a restore did not begin; it is tried again when it is asked for");
            return;
        }
    };
    tracing::Span::current().record("backup", tracing::field::display(&turn.backup));
    tracing::info!(bytes = turn.bytes, "a restore begins");
    let mut counted = counts.begin();
    let (canceller, cancel) = Canceller::new();
    let watch = tokio::spawn(watch(Arc::clone(&turn), canceller, progress.clone()).in_current_span());
    let fetched = fetch(running, &turn, progress, &cancel, &mut counted).await;
    watch.abort();
    let ended = blocking(move || match fetched {
        Ok(()) => turn.finish().map(|_| true).inspect_err(|error| {
            if !matches!(error, Error::Fenced { .. }) {
                let Refusal { kind, message, .. } = Refusal::from(error);
                turn.fail(kind, &message);
            }
        }),
        Err(Refusal { kind, message, .. }) => {
            turn.fail(kind, &message);
            Ok(false)
        }
    });
    let ended = ended.await;
    counted.end(match &ended {
        _ if cancel.is_asked() => Outcome::Cancelled,
        Ok(true) => Outcome::Completed,
        _ => Outcome::Failed,
    });
    match ended {
        Ok(_) => tracing::info!("a restore has ended"),
        Err(error) => {
            trace::failed();
            tracing::warn!(%error, "a restore has ended without its volume");
        }
    }
}

/// Fetches and verifies all of it into the turn's file.
async fn fetch(
    running: &Running,
    turn: &RestoreTurn,
    progress: &Progress,
    cancel: &Cancel,
    counted: &mut Restore,
) -> Result<(), Refusal> {
    let from = &turn.backup;
    let repository = running.restores.0.repositories.open(&from.repository).await;
    let repository = repository.map_err(|error| Refusal::from(&error))?;
    let options = RestoreOptions {
        format: turn.format(),
        volume: Some(from.volume),
        to_share: true,
        limits: repository.limits,
        ..RestoreOptions::new(from.backup, turn.target())
    };
    let restore = repository.engine.restore(&options, progress, cancel);
    tokio::pin!(restore);
    let mut ticks = tokio::time::interval(WATCH);
    let restored = loop {
        tokio::select! {
            restored = &mut restore => break restored,
            _ = ticks.tick() => counted.has(progress.state().done),
        }
    };
    counted.has(progress.state().done);
    let report = restored.map_err(|error| Refusal::from(&error))?;
    if report.bytes_total != turn.bytes {
        let (found, before) = (report.bytes_total, turn.bytes);
        return Err(Refusal::failed(format!(
            "{from} has {found} bytes now, and had {before} when it was begun"
        )));
    }
    Ok(())
}

/// Until it is aborted.
async fn watch(turn: Arc<RestoreTurn>, canceller: Canceller, progress: Progress) {
    loop {
        tokio::time::sleep(WATCH).await;
        let (looked, state) = (Arc::clone(&turn), progress.state());
        let wanted = blocking(move || {
            let wanted = looked.is_wanted()?;
            if wanted && state.total > 0 {
                looked.note(state.done, state.total);
            }
            Ok(wanted)
        });
        match wanted.await {
            Ok(true) => {}
            Ok(false) => {
                tracing::info!("a restore is not wanted any more");
                canceller.cancel();
                return;
            }
            // The share is away for a moment, or for longer: then writing to it fails.
            Err(error) => tracing::debug!(%error, "whether it is wanted is unknown"),
        }
    }
}

/// Nothing touches a share on an async thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(trace::within(work)).await.unwrap_or_else(|error| {
        Err(Error::Invalid { reason: format!("a part of the restore broke off: {error}") })
    })
}
