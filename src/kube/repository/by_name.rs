//! BackupRepository objects as what the names in backups' handles mean.

use super::open::{OpenError, open};
use crate::backup::repositories::{Repositories, Repository, RepositoryError};
use crate::backup::{DEFAULT_CONCURRENCY, Limits};
use crate::volume::RepositoryName;
use ::kube::Client;
use futures::future::BoxFuture;
use std::fmt;

/// Less than a command takes: several restores may run beside the calls of a controller.
const MEMORY: u64 = 128 << 20;

/// Repositories as the cluster's objects say.
#[derive(Clone)]
pub struct KubeRepositories {
    client: Client,
    namespace: String,
}

impl fmt::Debug for KubeRepositories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubeRepositories").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl KubeRepositories {
    /// `namespace` is that of the Secrets.
    pub fn new(client: Client, namespace: &str) -> Self {
        KubeRepositories { client, namespace: namespace.to_owned() }
    }
}

impl Repositories for KubeRepositories {
    fn open<'a>(&'a self, name: &'a RepositoryName) -> BoxFuture<'a, Result<Repository, RepositoryError>> {
        Box::pin(async move {
            // Whoever may make a VolumeSnapshotContent may read every backup: namespaces are not asked for.
            let opened = open(&self.client, &self.namespace, name.as_str(), None).await;
            let opened = opened.map_err(|error| told(name, &error))?;
            let concurrency =
                opened.object.spec.concurrency.map_or(DEFAULT_CONCURRENCY, |number| number as usize);
            Ok(Repository { engine: opened.engine, limits: Limits { memory: MEMORY, concurrency } })
        })
    }
}

fn told(name: &RepositoryName, error: &OpenError) -> RepositoryError {
    let (name, reason) = (name.clone(), error.to_string());
    match error {
        OpenError::Absent { .. } => {
            RepositoryError::Unknown { name, remedy: "make a BackupRepository of that name".to_owned() }
        }
        OpenError::Unread { .. } => RepositoryError::Away { name, reason },
        _ => RepositoryError::Unusable { name, reason },
    }
}
