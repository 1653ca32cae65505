//! Events: what people see with `kubectl describe`.

use super::crd::backup::{SnapshotRef, VolumeBackup};
use super::crd::snapshot::VolumeSnapshot;
use ::kube::runtime::events::{Event, EventType, Recorder, Reporter};
use ::kube::{Client, Resource, ResourceExt};
use k8s_openapi::api::core::v1::ObjectReference;

/// The API takes no more.
const LONGEST_NOTE: usize = 1000;

/// Says things of objects.
#[derive(Clone)]
pub struct Events(Recorder);

impl Events {
    /// In the name of one process.
    pub fn new(client: Client, driver: &str, identity: &str) -> Self {
        let reporter = Reporter { controller: driver.to_owned(), instance: Some(identity.to_owned()) };
        Events(Recorder::new(client, reporter))
    }

    /// Of a backup, and of the snapshot that it is made of.
    pub async fn of_backup(&self, backup: &VolumeBackup, is_warning: bool, reason: &str, note: &str) {
        self.say(backup.object_ref(&()), is_warning, reason, note).await;
        if let Some(snapshot) = &backup.spec.volume_snapshot {
            self.say(reference(backup, snapshot), is_warning, reason, note).await;
        }
    }

    /// Of a snapshot.
    pub async fn of_snapshot(&self, snapshot: &VolumeSnapshot, is_warning: bool, reason: &str, note: &str) {
        self.say(snapshot.object_ref(&()), is_warning, reason, note).await;
    }

    /// Of anything. One that is not taken is no reason to stop.
    pub async fn say(&self, about: ObjectReference, is_warning: bool, reason: &str, note: &str) {
        let event = Event {
            type_: if is_warning { EventType::Warning } else { EventType::Normal },
            reason: reason.to_owned(),
            note: Some(note.chars().take(LONGEST_NOTE).collect()),
            action: "Backup".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.0.publish(&event, &about).await {
            let error = super::error::said(&error);
            tracing::debug!(error, reason, "an event was not taken");
        }
    }
}

fn reference(backup: &VolumeBackup, snapshot: &SnapshotRef) -> ObjectReference {
    ObjectReference {
        api_version: Some(VolumeSnapshot::api_version(&()).into_owned()),
        kind: Some(VolumeSnapshot::kind(&()).into_owned()),
        namespace: backup.namespace(),
        name: Some(snapshot.name.clone()),
        uid: snapshot.uid.clone(),
        ..ObjectReference::default()
    }
}
