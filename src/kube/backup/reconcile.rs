//! What is due for one VolumeBackup.

use super::delete;
use crate::kube::context::Context;
use crate::kube::crd::backup::{Phase, VolumeBackup};
use crate::kube::error::{ApiSnafu, Error, has_code};
use crate::kube::names::{FINALIZER, IMPORTED, named};
use crate::trace;
use ::kube::api::{Patch, PatchParams};
use ::kube::runtime::controller::Action;
use ::kube::{Api, ResourceExt};
use serde_json::json;
use snafu::ResultExt;
use std::sync::Arc;
use std::time::Duration;
use tracing::Instrument;

/// Looks at one VolumeBackup, whenever it changes and whenever its job has ended.
pub async fn reconcile(object: Arc<VolumeBackup>, context: Arc<Context>) -> Result<Action, Error> {
    let uid = Context::uid(&object);
    // Another installation's.
    if object.spec.driver.as_ref().is_some_and(|driver| *driver != context.settings.driver) {
        return Ok(Action::await_change());
    }
    if object.metadata.deletion_timestamp.is_some() {
        context.jobs.stop(uid).await;
        return match object.finalizers().iter().any(|name| name == FINALIZER) {
            true => {
                let span = trace::job("delete");
                span.record("object", named(&*object));
                delete::reconcile(&object, &context).instrument(span).await
            }
            false => Ok(Action::await_change()),
        };
    }
    // Before the first byte is stored.
    if !object.finalizers().iter().any(|name| name == FINALIZER) {
        add_finalizer(&object, &context).await?;
    }
    // Its status is written by whoever imports it.
    if object.annotations().contains_key(IMPORTED) {
        return Ok(Action::await_change());
    }
    let status = object.status.clone().unwrap_or_default();
    let is_told = status.observed_generation == object.metadata.generation;
    match status.phase {
        Phase::Completed => return Ok(Action::await_change()),
        Phase::Failed if status.retry_at.is_none() && is_told => return Ok(Action::await_change()),
        _ => {}
    }
    context.jobs.start(&context, &object);
    if !is_told {
        context.jobs.poke(uid);
    }
    Ok(Action::await_change())
}

async fn add_finalizer(object: &VolumeBackup, context: &Context) -> Result<(), Error> {
    let mut finalizers = object.finalizers().to_vec();
    finalizers.push(FINALIZER.to_owned());
    write_finalizers(object, context, &finalizers).await
}

/// Writes the list, unless anybody else has changed the object meanwhile.
pub(super) async fn write_finalizers(
    object: &VolumeBackup,
    context: &Context,
    finalizers: &[String],
) -> Result<(), Error> {
    let api: Api<VolumeBackup> =
        Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let patch = json!({"metadata": {
        "finalizers": finalizers,
        "resourceVersion": object.metadata.resource_version,
    }});
    match api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await {
        Err(error) if has_code(&error, 404) => Ok(()),
        answer => answer.map(drop).context(ApiSnafu { doing: "write the finalizers of a VolumeBackup" }),
    }
}

/// After a failure of the API; a conflict is over at once.
pub fn failed(object: Arc<VolumeBackup>, error: &Error, _: Arc<Context>) -> Action {
    tracing::debug!(backup = object.name_any(), %error, "a VolumeBackup is looked at again");
    Action::requeue(Duration::from_secs(2))
}
