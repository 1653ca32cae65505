//! The status of one VolumeBackup, written by the one job that works on it.

use super::failure::Failure;
use crate::kube::crd::backup::{VolumeBackup, VolumeBackupStatus};
use crate::kube::error::{ApiSnafu, Error, has_code};
use ::kube::api::{Patch, PatchParams};
use ::kube::{Api, Client, ResourceExt};
use serde_json::{Map, Value, json};
use snafu::ResultExt;
use std::time::Duration;

/// What is said at an end must not be lost: it is tried again and again.
const AGAIN: Duration = Duration::from_secs(2);
/// Others may change the object at the same time: labels, finalizers.
const RACES: usize = 8;

/// Writes the status, and knows what it wrote.
pub(super) struct StatusWriter {
    api: Api<VolumeBackup>,
    identity: String,
    /// Whether it was said that this process works on it.
    taken: bool,
    /// As last seen.
    pub object: VolumeBackup,
    /// As it is to be.
    pub status: VolumeBackupStatus,
}

impl StatusWriter {
    pub fn new(client: Client, identity: &str, object: VolumeBackup) -> Self {
        let api = Api::namespaced(client, &object.namespace().unwrap_or_default());
        let status = object.status.clone().unwrap_or_default();
        StatusWriter { api, identity: identity.to_owned(), taken: false, object, status }
    }

    /// Reads the object again: what a cache showed may be old.
    pub async fn refresh(&mut self) -> Result<(), Failure> {
        let name = self.object.name_any();
        let found = self.api.get_opt(&name).await.context(ApiSnafu { doing: "read a VolumeBackup" })?;
        let found = found.filter(|found| found.metadata.uid == self.object.metadata.uid);
        // Gone: its job ends, and there is nobody to tell.
        let Some(found) = found else { return Err(Failure::cancelled()) };
        self.status = found.status.clone().unwrap_or_default();
        self.object = found;
        Ok(())
    }

    /// Writes what has changed.
    pub async fn write(&mut self) -> Result<(), Failure> {
        for _ in 0..RACES {
            let before = self.object.status.clone().unwrap_or_default();
            if before == self.status {
                return Ok(());
            }
            let patch = json!({
                "metadata": {
                    "uid": self.object.metadata.uid,
                    "resourceVersion": self.object.metadata.resource_version,
                },
                "status": difference(&before, &self.status),
            });
            let name = self.object.name_any();
            let answer = self.api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
            match answer {
                Ok(object) => {
                    self.object = object;
                    self.taken |= self.status.holder.as_deref() == Some(self.identity.as_str());
                    return Ok(());
                }
                Err(error) if has_code(&error, 409) || has_code(&error, 404) => self.merge().await?,
                Err(error) => {
                    let written: Result<(), Error> =
                        Err(error).context(ApiSnafu { doing: "write the status of a VolumeBackup" });
                    return Ok(written?);
                }
            }
        }
        Err(Failure::heals("ApiError", "the VolumeBackup is changed all the time by others"))
    }

    /// Somebody else changed the object: that stays, unless another process works on it.
    async fn merge(&mut self) -> Result<(), Failure> {
        let ours = std::mem::take(&mut self.status);
        self.refresh().await?;
        let holder = self.status.holder.as_deref();
        if self.taken && holder.is_some_and(|holder| holder != self.identity) {
            tracing::warn!(holder, "another process works on this backup");
            return Err(Failure::cancelled());
        }
        self.status = ours;
        Ok(())
    }

    /// Writes until it is written, or the object is gone.
    pub async fn write_surely(&mut self) {
        loop {
            match self.write().await {
                Ok(()) => return,
                Err(failure) if failure.is_cancelled => return,
                Err(failure) => {
                    tracing::warn!(error = failure.message, "the status was not written; trying again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }
}

/// What makes one status of the other: a merge patch, in which null takes away.
fn difference(before: &VolumeBackupStatus, after: &VolumeBackupStatus) -> Value {
    let fields = |status| match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let (before, mut patch) = (fields(before), fields(after));
    for key in before.keys() {
        // What is there stays as it is.
        patch.entry(key.clone()).or_insert(Value::Null);
    }
    patch.retain(|key, value| before.get(key) != Some(value));
    // Written even when it is the default: printed columns show it.
    patch.insert("phase".to_owned(), json!(after.phase));
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::crd::backup::Phase;

    #[test]
    fn only_what_changed_is_written_and_what_went_is_null() {
        let before = VolumeBackupStatus {
            message: Some("away".to_owned()),
            progress: Some(5),
            failures: Some(1),
            ..VolumeBackupStatus::default()
        };
        let after = VolumeBackupStatus {
            phase: Phase::Running,
            progress: Some(6),
            failures: Some(1),
            ..VolumeBackupStatus::default()
        };
        assert_eq!(difference(&before, &after), json!({"phase": "Running", "progress": 6, "message": null}));
    }
}
