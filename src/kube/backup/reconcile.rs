//! What is due for one VolumeBackup.

use super::delete;
use super::owner::{Owner, owner};
use crate::kube::context::Context;
use crate::kube::crd::backup::{Phase, VolumeBackup};
use crate::kube::error::{ApiSnafu, Error, has_code};
use crate::kube::names::{FINALIZER, IMPORTED, named};
use crate::trace;
use ::kube::api::{Patch, PatchParams};
use ::kube::runtime::controller::Action;
use ::kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};
use snafu::ResultExt;
use std::sync::Arc;
use std::time::Duration;
use tracing::Instrument;

/// Looks at one VolumeBackup, whenever it changes and whenever its job has ended.
pub async fn reconcile(object: Arc<VolumeBackup>, context: Arc<Context>) -> Result<Action, Error> {
    let is_going = object.metadata.deletion_timestamp.is_some();
    let has_finalizer = object.finalizers().iter().any(|name| name == FINALIZER);
    if !is_going && has_finalizer && is_over(&object) {
        return Ok(Action::await_change());
    }
    let owner = owner(&object, &context).await?;
    if let Owner::Another(driver) = &owner {
        if object.spec.driver.is_none() {
            let note = format!("its snapshot is of {driver}: {} leaves it alone", context.settings.driver);
            context.events.say(object.object_ref(&()), false, "LeftAlone", &note).await;
        }
        return Ok(Action::await_change());
    }
    let uid = Context::uid(&object);
    if is_going {
        context.jobs.stop(uid).await;
        return match has_finalizer {
            true => {
                let span = trace::job("delete");
                span.record("object", named(&*object));
                delete::reconcile(&object, &context).instrument(span).await
            }
            false => Ok(Action::await_change()),
        };
    }
    let is_unclaimed = matches!(owner, Owner::Ours) && object.spec.driver.is_none();
    // Before the first byte is stored.
    if !has_finalizer || is_unclaimed {
        claim(&object, &context, is_unclaimed).await?;
    }
    if is_over(&object) {
        return Ok(Action::await_change());
    }
    context.jobs.start(&context, &object);
    if !is_told(&object) {
        context.jobs.poke(uid);
    }
    Ok(Action::await_change())
}

/// Whether its status is about its spec as it is.
fn is_told(object: &VolumeBackup) -> bool {
    object.status.as_ref().and_then(|status| status.observed_generation) == object.metadata.generation
}

/// Whether there is nothing to be made any more.
fn is_over(object: &VolumeBackup) -> bool {
    let status = object.status.clone().unwrap_or_default();
    match status.phase {
        // Its status is written by whoever imports it.
        _ if object.annotations().contains_key(IMPORTED) => true,
        Phase::Completed => true,
        Phase::Failed => status.retry_at.is_none() && is_told(object),
        _ => false,
    }
}

/// Keeps its data from being forgotten, and with `driver` other installations from it.
async fn claim(object: &VolumeBackup, context: &Context, driver: bool) -> Result<(), Error> {
    let mut finalizers = object.finalizers().to_vec();
    if !finalizers.iter().any(|name| name == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    let mut patch = json!({"metadata": {"finalizers": finalizers}});
    if driver {
        patch["spec"] = json!({"driver": context.settings.driver});
    }
    write(object, context, patch).await
}

/// Writes the list, unless anybody else has changed the object meanwhile.
pub(super) async fn write_finalizers(
    object: &VolumeBackup,
    context: &Context,
    finalizers: &[String],
) -> Result<(), Error> {
    write(object, context, json!({"metadata": {"finalizers": finalizers}})).await
}

async fn write(object: &VolumeBackup, context: &Context, mut patch: Value) -> Result<(), Error> {
    let api: Api<VolumeBackup> =
        Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    patch["metadata"]["resourceVersion"] = json!(object.metadata.resource_version);
    match api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await {
        Err(error) if has_code(&error, 404) => Ok(()),
        answer => answer.map(drop).context(ApiSnafu { doing: "claim a VolumeBackup, or let go of it" }),
    }
}

/// After a failure of the API; a conflict is over at once.
pub fn failed(object: Arc<VolumeBackup>, error: &Error, _: Arc<Context>) -> Action {
    tracing::debug!(backup = object.name_any(), %error, "a VolumeBackup is looked at again");
    Action::requeue(Duration::from_secs(2))
}
