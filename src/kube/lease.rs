//! Leadership under a Lease: one process works, and the next one takes over when it is gone.
//!
//! As the sidecars do it: who wants to lead watches by its own clock how long the holder has not renewed, so that clocks of
//! machines need not agree; who leads gives up, by its own clock, before anybody else may begin.

use super::error::{ApiSnafu, Error, LeaseLostSnafu, has_code};
use ::kube::api::{ObjectMeta, PostParams};
use ::kube::{Api, Client};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use snafu::{ResultExt, ensure};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// The shape of a Lease.
#[derive(Clone, Debug)]
pub struct LeaseSettings {
    /// In which namespace it lies.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who this process is.
    pub identity: String,
    /// So long it holds without being renewed.
    pub duration: Duration,
}

impl LeaseSettings {
    /// How long a leader may go without a renewal until it ends: well before another may begin.
    fn deadline(&self) -> Duration {
        self.duration * 2 / 3
    }

    fn pace(&self) -> Duration {
        self.duration / 7
    }
}

/// One process's part in it.
pub struct Election {
    api: Api<Lease>,
    settings: LeaseSettings,
    /// What was last seen, and since when it has not changed.
    seen: Option<(LeaseSpec, Instant)>,
}

impl Election {
    /// Nothing is asked yet.
    pub fn new(client: Client, settings: LeaseSettings) -> Self {
        Election { api: Api::namespaced(client, &settings.namespace), settings, seen: None }
    }

    /// Waits until this process leads.
    pub async fn win(&mut self) {
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the Lease is not reached; trying again"),
            }
            sleep(self.settings.pace()).await;
        }
    }

    /// Leads. Returns when it no longer does, and why.
    pub async fn keep(&mut self) -> Error {
        let mut renewed = Instant::now();
        loop {
            sleep(self.settings.pace()).await;
            let left = self.settings.deadline().saturating_sub(renewed.elapsed());
            let reason = match timeout(left, self.attempt()).await {
                Ok(Ok(true)) => {
                    renewed = Instant::now();
                    continue;
                }
                Ok(Ok(false)) => return LeaseLostSnafu { reason: "the Lease has another holder" }.build(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the API does not answer".to_owned(),
            };
            if renewed.elapsed() >= self.settings.deadline() {
                return LeaseLostSnafu { reason: format!("the Lease was not renewed: {reason}") }.build();
            }
            tracing::warn!(reason, "the Lease was not renewed; trying again");
        }
    }

    /// Lets the next one begin at once.
    pub async fn release(&mut self) -> Result<(), Error> {
        let mut lease = self.get().await?;
        let held = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        ensure!(
            held == Some(self.settings.identity.as_str()),
            LeaseLostSnafu { reason: "the Lease has another holder" }
        );
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
        }
        let replaced = self.api.replace(&self.settings.name, &PostParams::default(), &lease).await;
        replaced.map(drop).context(ApiSnafu { doing: "release the Lease" })
    }

    async fn get(&self) -> Result<Lease, Error> {
        self.api.get(&self.settings.name).await.context(ApiSnafu { doing: "read the Lease" })
    }

    /// Takes or renews it. False: it is another's.
    async fn attempt(&mut self) -> Result<bool, Error> {
        let LeaseSettings { name, identity, .. } = &self.settings;
        let mut lease = match self.api.get(name).await {
            Ok(lease) => lease,
            Err(error) if has_code(&error, 404) => {
                let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(self.ours(None)) };
                return won(self.api.create(&PostParams::default(), &lease).await);
            }
            other => other.context(ApiSnafu { doing: "read the Lease" })?,
        };
        let spec = lease.spec.take().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().filter(|holder| !holder.is_empty());
        if holder.is_some_and(|holder| holder != identity) && !self.has_expired(&spec) {
            return Ok(false);
        }
        lease.spec = Some(self.ours(Some(spec)));
        // Refused if anybody else changed it since it was read.
        won(self.api.replace(&self.settings.name, &PostParams::default(), &lease).await)
    }

    fn has_expired(&mut self, spec: &LeaseSpec) -> bool {
        let granted = spec.lease_duration_seconds.map_or(self.settings.duration, |seconds| {
            Duration::from_secs(seconds.max(1).unsigned_abs().into())
        });
        match &self.seen {
            Some((seen, since)) if seen == spec => since.elapsed() > granted,
            _ => {
                self.seen = Some((spec.clone(), Instant::now()));
                false
            }
        }
    }

    fn ours(&self, before: Option<LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let before = before.unwrap_or_default();
        let is_renewal = before.holder_identity.as_deref() == Some(self.settings.identity.as_str());
        let changes = before.lease_transitions.unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.settings.identity.clone()),
            lease_duration_seconds: i32::try_from(self.settings.duration.as_secs().max(1)).ok(),
            acquire_time: if is_renewal { before.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(if is_renewal { changes } else { changes.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }
}

fn won(answer: ::kube::Result<Lease>) -> Result<bool, Error> {
    match answer {
        Ok(_) => Ok(true),
        Err(error) if has_code(&error, 409) => Ok(false),
        Err(error) => Err(error).context(ApiSnafu { doing: "take the Lease" }),
    }
}
