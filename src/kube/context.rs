//! What all parts work with.

use super::backup::Jobs;
use super::clock::Clock;
use super::crd::backup::VolumeBackup;
use super::due::Wanted;
use super::events::Events;
use crate::gluster::ShareKey;
use crate::metrics::BackupCounts;
use crate::volume::Volumes;
use ::kube::Client;
use std::sync::Arc;

/// The shares of this process.
pub trait OpenVolumes: Send + Sync + 'static {
    /// Those that are open now.
    fn open(&self) -> Vec<Volumes>;
}

/// How this process works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The driver whose snapshots are backed up.
    pub driver: String,
    /// The namespace of this process: of its Lease, and of the Secrets of repositories.
    pub namespace: String,
    /// Who this process is.
    pub identity: String,
    /// Backups at a time, in all.
    pub workers: usize,
    /// Of those, backups of volumes that one node uses; `None`: any number.
    pub per_node: Option<usize>,
    /// Bytes of memory that one backup takes for what is read, compressed and on its way.
    pub memory: u64,
}

/// What all parts work with.
pub struct Context {
    /// The API.
    pub client: Client,
    /// The shares.
    pub shares: Arc<dyn OpenVolumes>,
    /// How this process works.
    pub settings: Settings,
    /// The backups under way.
    pub jobs: Jobs,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Words to people.
    pub events: Events,
    /// What is counted.
    pub counts: BackupCounts,
    /// The claims of schedules.
    pub wanted: Wanted,
}

impl Context {
    /// The volumes of a share.
    pub fn volumes(&self, share: &ShareKey) -> Option<Volumes> {
        self.shares.open().into_iter().find(|volumes| volumes.share().key == *share)
    }

    /// Stands for one object for as long as it lives.
    pub fn uid(backup: &VolumeBackup) -> &str {
        backup.metadata.uid.as_deref().unwrap_or_default()
    }
}
