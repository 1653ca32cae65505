//! Whether a repository answers, and what it holds.

use super::open::{open, usage};
use crate::kube::context::Context;
use crate::kube::crd::repository::{BackupRepository, BackupRepositoryStatus, RepositoryUsage};
use crate::kube::crd::{is_for, set_condition};
use crate::kube::error::{ApiSnafu, Error};
use crate::kube::job::as_job;
use ::kube::api::{Patch, PatchParams};
use ::kube::runtime::controller::Action;
use ::kube::{Api, ResourceExt};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use snafu::ResultExt;
use std::sync::Arc;
use std::time::Duration;

/// One that answers is listed whole each time, so seldom.
const WELL: Duration = Duration::from_secs(600);
const AWAY: Duration = Duration::from_secs(60);

/// Looks at a repository when its object is new or changed, and now and then.
pub async fn reconcile(object: Arc<BackupRepository>, context: Arc<Context>) -> Result<Action, Error> {
    let status = object.status.clone().unwrap_or_default();
    let name = object.name_any();
    if !is_for(object.spec.driver.as_deref(), &context.settings.driver) {
        // Backups of ours that wait for it learn of it all the same.
        if status.reachable {
            context.jobs.poke_all(&name);
        }
        return Ok(Action::await_change());
    }
    let pace = if status.reachable { WELL } else { AWAY };
    if status.observed_generation == object.metadata.generation
        && let Some(left) = left(status.last_checked, pace, Timestamp::now())
    {
        return Ok(Action::requeue(left));
    }
    as_job("repository", &*object, update(&context, &name, &object, status)).await
}

async fn update(
    context: &Context,
    name: &str,
    object: &BackupRepository,
    status: BackupRepositoryStatus,
) -> Result<Action, Error> {
    let next = look(context, name, object, status.clone()).await;
    match &next.message {
        Some(error) if status.message != next.message => {
            tracing::warn!(error, "the repository does not answer");
        }
        None if !status.reachable => tracing::info!("the repository answers"),
        _ => {}
    }
    let pace = if next.reachable { WELL } else { AWAY };
    let api: Api<BackupRepository> = Api::all(context.client.clone());
    let mut patch = json!({"status": next});
    // What is no longer so is taken away by a null.
    patch["status"]["message"] = json!(next.message);
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .context(ApiSnafu { doing: format!("write the status of BackupRepository {name}") })?;
    // Those that waited for it try again.
    if next.reachable {
        context.jobs.poke_all(name);
    }
    Ok(Action::requeue(pace))
}

/// How long the last look still counts.
fn left(last: Option<Timestamp>, pace: Duration, now: Timestamp) -> Option<Duration> {
    let age = now.duration_since(last?);
    let left = SignedDuration::try_from(pace).ok()? - age;
    // A clock that was set back must not stop the looks for ever.
    Duration::try_from(left).ok().filter(|left| !left.is_zero() && *left <= pace)
}

async fn look(
    context: &Context,
    name: &str,
    object: &BackupRepository,
    before: BackupRepositoryStatus,
) -> BackupRepositoryStatus {
    let found = match open(&context.client, &context.settings.namespace, name, None).await {
        Err(error) => Err((error.reason(), error.to_string())),
        Ok(opened) => {
            let looked = async {
                opened.engine.ensure().await?;
                usage(&opened.engine).await
            };
            looked.await.map_err(|error| ("StoreError", error.to_string()))
        }
    };
    let mut conditions = before.conditions;
    match &found {
        Ok(_) => set_condition(
            &mut conditions,
            "Reachable",
            true,
            "Answers",
            "it answered when it was last looked at",
        ),
        Err((reason, message)) => set_condition(&mut conditions, "Reachable", false, reason, message),
    }
    let (usage, message) = match found {
        Ok((backups, volumes, bytes)) => (Some(RepositoryUsage { backups, volumes, bytes }), None),
        Err((_, message)) => (before.usage, Some(message)),
    };
    BackupRepositoryStatus {
        reachable: message.is_none(),
        last_checked: Some(Timestamp::now()),
        message,
        usage,
        observed_generation: object.metadata.generation,
        conditions,
    }
}

/// After a failure of the API.
pub fn failed(_: Arc<BackupRepository>, _: &Error, _: Arc<Context>) -> Action {
    Action::requeue(Duration::from_secs(15))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_counts_for_a_while() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let at = |text: &str| Some(text.parse().unwrap());
        assert_eq!(left(None, WELL, now), None);
        assert_eq!(left(at("2026-01-01T00:05:00Z"), WELL, now), Some(Duration::from_secs(300)));
        assert_eq!(left(at("2026-01-01T00:00:00Z"), WELL, now), None);
        assert_eq!(left(at("2026-01-01T01:00:00Z"), WELL, now), None);
    }
}
