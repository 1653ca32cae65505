//! The settings of one repository, under the names that the command line's options have.

use super::super::restore::Limits;
use super::super::store::{RepositoryUrl, S3Options, Timeouts};
use serde::Deserialize;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Less than a command takes: several restores may run beside the calls of a controller.
const MEMORY: u64 = 128 << 20;

/// As they stand in the file.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Settings {
    repository: String,
    endpoint: Option<String>,
    region: Option<String>,
    #[serde(default)]
    virtual_host_style: bool,
    ca_file: Option<PathBuf>,
    proxy: Option<String>,
    /// Seconds.
    stall_timeout: Option<u64>,
    /// Seconds.
    retry_timeout: Option<u64>,
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    session_token: Option<String>,
    /// Bytes.
    memory: Option<u64>,
    concurrency: Option<u16>,
}

/// Without the secrets.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("repository", &self.repository)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Whether whoever can read them can use the store.
    pub fn has_secrets(&self) -> bool {
        // A proxy's URL may hold a password.
        self.secret_access_key.is_some() || self.session_token.is_some() || self.proxy.is_some()
    }

    pub fn url(&self) -> Result<RepositoryUrl, String> {
        self.repository.parse().map_err(|error| format!("{error}"))
    }

    /// The error says what is wrong, without the value.
    pub fn options(&self) -> Result<S3Options, String> {
        let credentials = match (self.access_key_id.clone(), self.secret_access_key.clone()) {
            (Some(id), Some(secret)) => Some((id, secret)),
            (None, None) => None,
            _ => return Err("access-key-id and secret-access-key come together".to_owned()),
        };
        if credentials.is_none() && self.session_token.is_some() {
            return Err("session-token comes with access-key-id and secret-access-key".to_owned());
        }
        let usual = Timeouts::default();
        let timeouts = Timeouts {
            stall: seconds("stall-timeout", self.stall_timeout, 3600, usual.stall)?,
            give_up: seconds("retry-timeout", self.retry_timeout, 840, usual.give_up)?,
            ..usual
        };
        Ok(S3Options {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            virtual_host_style: self.virtual_host_style,
            credentials,
            session_token: self.session_token.clone(),
            ca_file: self.ca_file.clone(),
            proxy: self.proxy.clone(),
            timeouts,
        })
    }

    pub fn limits(&self) -> Result<Limits, String> {
        let usual = Limits::default();
        let concurrency = self.concurrency.map_or(usual.concurrency, usize::from);
        if !(1..=1024).contains(&concurrency) {
            return Err(format!("concurrency {concurrency}: from 1 to 1024"));
        }
        Ok(Limits { memory: self.memory.unwrap_or(MEMORY), concurrency })
    }
}

fn seconds(what: &str, value: Option<u64>, most: u64, usual: Duration) -> Result<Duration, String> {
    match value {
        None => Ok(usual),
        Some(value) if (1..=most).contains(&value) => Ok(Duration::from_secs(value)),
        Some(value) => Err(format!("{what} {value}: from 1 to {most} seconds")),
    }
}
