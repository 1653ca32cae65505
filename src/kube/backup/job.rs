//! The life of one backup in this process: held, waited for its turn, made; tried again where that can help.

use super::failure::{Failure, backoff};
use super::plan;
use super::queue::{Queue, Ticket};
use super::run::Try;
use super::source;
use super::status::StatusWriter;
use crate::backup::{Cancel, Canceller};
use crate::kube::context::Context;
use crate::kube::crd::backup::{Phase, VolumeBackup};
use crate::kube::crd::set_condition;
use crate::kube::crd::snapshot::VolumeSnapshot;
use crate::kube::error::has_code;
use crate::kube::names::{BACKUP_HANDLE, BACKUP_PHASE};
use crate::metrics::Outcome;
use crate::trace;
use crate::volume::Pinned;
use ::kube::api::{Patch, PatchParams};
use ::kube::{Api, ResourceExt};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Notify;

/// How others reach a job.
#[derive(Clone, Debug)]
pub(super) struct Reins {
    pub canceller: Canceller,
    pub cancel: Cancel,
    /// Something that it may have waited for has changed.
    pub poke: Arc<Notify>,
}

/// Works on one VolumeBackup until it is complete, has failed for good, or is told to stop.
pub(super) async fn run(context: Arc<Context>, queue: Queue, object: VolumeBackup, reins: Reins) {
    let mut writer = StatusWriter::new(context.client.clone(), &context.settings.identity, object);
    let mut held = None;
    // Told to stop, it leaves whatever it waits for; what it has begun ends by itself.
    loop {
        let ended = attempt(&context, &queue, &mut writer, &mut held, &reins).await;
        let failure = match ended {
            Ok(()) => {
                complete(&context, &mut writer).await;
                break;
            }
            Err(failure) if failure.is_cancelled || reins.cancel.is_asked() => break,
            Err(failure) => failure,
        };
        let retry = fail(&context, &mut writer, &failure).await;
        let Some(wait) = retry else { break };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = reins.poke.notified() => {}
            () = reins.cancel.asked() => break,
        }
    }
    if let Some(pinned) = held.take() {
        source::release(pinned).await;
    }
}

async fn attempt(
    context: &Arc<Context>,
    queue: &Queue,
    writer: &mut StatusWriter,
    held: &mut Option<Arc<Pinned>>,
    reins: &Reins,
) -> Result<(), Failure> {
    writer.refresh().await?;
    writer.status.holder = Some(context.settings.identity.clone());
    writer.status.observed_generation = writer.object.metadata.generation;
    // Held while it waits, too: its VolumeSnapshot may be deleted meanwhile. A hold that ran out is taken anew.
    if held.as_ref().is_some_and(|pinned| pinned.is_lost())
        && let Some(lost) = held.take()
    {
        source::release(lost).await;
    }
    let pinned = match held {
        Some(pinned) => Arc::clone(pinned),
        None => Arc::clone(held.insert(source::hold(context, writer).await?)),
    };
    let opened = plan::open(context, writer).await?;
    let ticket = Ticket {
        backup: Context::uid(&writer.object).to_owned(),
        taken: source::taken(writer),
        volume: pinned.volume.handle.volume.uuid(),
        repository: writer.object.spec.repository.clone(),
        limit: plan::limit(&opened),
        nodes: pinned.volume.nodes.clone(),
    };
    let _turn = tokio::select! {
        turn = queue.enter(ticket) => turn,
        () = reins.cancel.asked() => return Err(Failure::cancelled()),
    };
    // It may have waited for hours.
    let opened = plan::open(context, writer).await?;
    let attempt = Try { context, pinned: &pinned, canceller: &reins.canceller, cancel: &reins.cancel };
    let begun = Instant::now();
    let made = attempt.make(writer, opened).await;
    context.counts.ended(&writer.object.spec.repository, outcome(&made), begun.elapsed());
    made
}

fn outcome(made: &Result<(), Failure>) -> Outcome {
    match made {
        Ok(()) => Outcome::Completed,
        Err(failure) if failure.is_cancelled => Outcome::Cancelled,
        Err(_) => Outcome::Failed,
    }
}

async fn complete(context: &Context, writer: &mut StatusWriter) {
    let status = &mut writer.status;
    status.phase = Phase::Completed;
    status.message = None;
    status.progress = Some(100);
    status.completed_at = Some(Timestamp::now());
    status.failures = None;
    status.retry_at = None;
    status.holder = None;
    let handle = status.handle.clone().unwrap_or_default();
    set_condition(&mut status.conditions, "Complete", true, "Completed", &handle);
    writer.write_surely().await;
    tracing::info!(handle, "complete");
    let note = format!("the backup is complete: {handle}");
    context.events.of_backup(&writer.object, false, "BackupCompleted", &note).await;
    annotate(context, writer, &handle).await;
}

/// Notes a failure; how long to wait until it is tried again.
async fn fail(
    context: &Context,
    writer: &mut StatusWriter,
    failure: &Failure,
) -> Option<std::time::Duration> {
    let failures = writer.status.failures.unwrap_or(0).saturating_add(1);
    let wait = failure.can_heal.then(|| backoff(failures));
    let status = &mut writer.status;
    status.phase = Phase::Failed;
    status.message = Some(failure.message.clone());
    status.failures = Some(failures);
    let after = wait.and_then(|wait| SignedDuration::try_from(wait).ok());
    status.retry_at = after.and_then(|after| Timestamp::now().checked_add(after).ok());
    match wait {
        None => status.holder = None,
        Some(_) => context.counts.retry(&writer.object.spec.repository, failure.reason),
    }
    set_condition(&mut status.conditions, "Complete", false, failure.reason, &failure.message);
    trace::failed();
    tracing::warn!(reason = failure.reason, error = failure.message, "the backup failed");
    // With the API away this waits: nothing is lost by it, for the try has ended.
    writer.write_surely().await;
    context.events.of_backup(&writer.object, true, failure.reason, &failure.message).await;
    if wait.is_none() {
        annotate(context, writer, "").await;
    }
    wait
}

/// On the VolumeSnapshot, if it is still there.
async fn annotate(context: &Context, writer: &StatusWriter, handle: &str) {
    let Some(snapshot) = &writer.object.spec.volume_snapshot else { return };
    let namespace = writer.object.namespace().unwrap_or_default();
    let api: Api<VolumeSnapshot> = Api::namespaced(context.client.clone(), &namespace);
    let mut annotations = json!({BACKUP_PHASE: writer.status.phase});
    if !handle.is_empty() {
        annotations[BACKUP_HANDLE] = json!(handle);
    }
    let mut patch = json!({"metadata": {"annotations": annotations}});
    if let Some(uid) = &snapshot.uid {
        patch["metadata"]["uid"] = json!(uid);
    }
    match api.patch(&snapshot.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => {}
        // Gone, or another one of that name.
        Err(error) if has_code(&error, 404) || has_code(&error, 409) => {}
        Err(error) => {
            let error = crate::kube::error::said(&error);
            tracing::warn!(error, snapshot = snapshot.name, "a VolumeSnapshot was not annotated");
        }
    }
}
