//! The end of a VolumeBackup: what it stored goes first.
//!
//! A backup that others are made on is left alone until those are gone: nothing that a deletion does may cost the data of
//! another object. With `dependents: Rebase` those are made whole without it first; broken off at any point each of them can be
//! restored, and the next try goes on.

use super::failure::Failure;
use super::reconcile::write_finalizers;
use super::status::StatusWriter;
use crate::backup::{BackupError, Cancel, Progress, RebaseReport};
use crate::kube::context::Context;
use crate::kube::crd::backup::{DeletionPolicy, Dependents, Phase, VolumeBackup};
use crate::kube::crd::{is_for, set_condition};
use crate::kube::error::{ApiSnafu, Error, has_code, said};
use crate::kube::names::FINALIZER;
use crate::kube::pages::list_all;
use crate::kube::repository;
use ::kube::api::{ListParams, Patch, PatchParams};
use ::kube::runtime::controller::Action;
use ::kube::{Api, ResourceExt};
use serde_json::json;
use snafu::ResultExt;
use std::time::Duration;
use uuid::Uuid;

/// In case a word of what was waited for is lost.
const AGAIN: Duration = Duration::from_secs(60);

/// Removes the data, then the finalizer. No job works on it any more.
pub(super) async fn reconcile(object: &VolumeBackup, context: &Context) -> Result<Action, Error> {
    let mut writer = StatusWriter::new(context.client.clone(), &context.settings.identity, object.clone());
    match remove_data(context, &mut writer).await {
        Ok(()) => {}
        Err(failure) if failure.is_cancelled => return Ok(Action::await_change()),
        Err(failure) => {
            tell(context, &mut writer, &failure).await;
            return Ok(Action::requeue(AGAIN));
        }
    }
    let others: Vec<String> =
        writer.object.finalizers().iter().filter(|name| *name != FINALIZER).cloned().collect();
    write_finalizers(&writer.object, context, &others).await?;
    look_at_those_that_wait(context, object).await
}

async fn remove_data(context: &Context, writer: &mut StatusWriter) -> Result<(), Failure> {
    writer.refresh().await?;
    let status = &writer.status;
    let is_complete = status.handle.is_some();
    let spec = &writer.object.spec;
    let Some(id) = status.backup_id else { return Ok(()) };
    if is_complete && spec.deletion_policy == DeletionPolicy::Retain {
        return Ok(());
    }
    if writer.status.phase != Phase::Deleting {
        writer.status.phase = Phase::Deleting;
        writer.write().await?;
    }
    match remove(context, writer, id).await {
        // What is left of an unfinished backup is no backup; `strata backup gc` finds it.
        Err(failure) if spec_retains(writer) => {
            tracing::warn!(backup = %id, error = failure.message, "an unfinished backup may have left objects");
            Ok(())
        }
        removed => removed,
    }
}

fn spec_retains(writer: &StatusWriter) -> bool {
    writer.object.spec.deletion_policy == DeletionPolicy::Retain
}

async fn remove(context: &Context, writer: &StatusWriter, id: Uuid) -> Result<(), Failure> {
    // Whatever its namespace may do by now.
    let repository = &writer.object.spec.repository;
    let engine =
        repository::open(&context.client, &context.settings.namespace, repository, None).await?.engine;
    let volume = writer.status.volume_id;
    let removed = match writer.object.spec.dependents {
        Dependents::Wait => engine.delete_of(volume, id).await,
        Dependents::Rebase => {
            engine.delete_rebasing_of(volume, id, &Progress::default(), &Cancel::never()).await
        }
    };
    match removed {
        Ok(report) => {
            tell_rebased(context, writer, &report.rebased).await;
            Ok(())
        }
        Err(BackupError::NoSuchBackup { .. }) => Ok(()),
        Err(error @ BackupError::HasDependents { .. }) => {
            let message = format!(
                "{error}. It is removed once those VolumeBackups are deleted, or with spec.dependents: Rebase"
            );
            Err(Failure::heals("HasDependents", message))
        }
        Err(error) => Err(error.into()),
    }
}

/// What those are made on now that were made on it.
async fn tell_rebased(context: &Context, writer: &StatusWriter, rebased: &[RebaseReport]) {
    if rebased.is_empty() {
        return;
    }
    let namespace = writer.object.namespace().unwrap_or_default();
    let api: Api<VolumeBackup> = Api::namespaced(context.client.clone(), &namespace);
    let all = match list_all(&api, &ListParams::default()).await {
        Ok(all) => all,
        Err(error) => {
            tracing::warn!(error = said(&error), "rebased backups still tell of their old parent");
            return;
        }
    };
    for report in rebased {
        let is_it = |other: &&VolumeBackup| {
            other.status.as_ref().and_then(|status| status.backup_id) == Some(report.backup_id)
        };
        let Some(other) = all.iter().find(is_it) else { continue };
        let patch = Patch::Merge(json!({"status": {"parentId": report.parent_id}}));
        if let Err(error) = api.patch_status(&other.name_any(), &PatchParams::default(), &patch).await {
            tracing::warn!(error = said(&error), "a rebased backup still tells of its old parent");
        }
    }
}

async fn tell(context: &Context, writer: &mut StatusWriter, failure: &Failure) {
    let is_new = writer.status.message.as_ref() != Some(&failure.message);
    let status = &mut writer.status;
    status.message = Some(failure.message.clone());
    set_condition(&mut status.conditions, "Deletable", false, failure.reason, &failure.message);
    if let Err(failure) = writer.write().await {
        tracing::warn!(error = failure.message, "the status was not written");
    }
    if is_new {
        context.events.of_backup(&writer.object, true, failure.reason, &failure.message).await;
    }
}

/// What is waited for may have been this one.
async fn look_at_those_that_wait(context: &Context, object: &VolumeBackup) -> Result<Action, Error> {
    let api: Api<VolumeBackup> =
        Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let all = list_all(&api, &ListParams::default()).await;
    let all = all.context(ApiSnafu { doing: "list VolumeBackups" })?;
    let waits = |other: &&VolumeBackup| {
        other.metadata.deletion_timestamp.is_some()
            && other.metadata.uid != object.metadata.uid
            && is_for(other.spec.driver.as_deref(), &context.settings.driver)
    };
    // A change of theirs has them looked at.
    let patch = Patch::Merge(json!({"status": {"message": null}}));
    for other in all.iter().filter(waits) {
        match api.patch_status(&other.name_any(), &PatchParams::default(), &patch).await {
            Err(error) if !has_code(&error, 404) => {
                tracing::debug!(error = said(&error), "a VolumeBackup waits a little longer");
            }
            _ => {}
        }
    }
    Ok(Action::await_change())
}
