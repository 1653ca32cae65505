//! What a role tells of itself, as an argument.

use crate::csi::Shares;
use crate::metrics::{
    self, DaemonFigures, MergeFigures, Metrics, Sample, Samples, ShareFigures, ShareGauges, daemon_samples,
};
use crate::qsd::LocalDaemons;
use crate::volume::{Error, Volumes};
use anyhow::{Context, Result};
use clap::Args;
use std::net::SocketAddr;
use std::sync::Arc;

/// Where metrics are asked for.
#[derive(Clone, Debug, Args)]
pub struct MetricsArgs {
    /// Answer GET /metrics there, for Prometheus: [::]:9810. Whoever reaches it can read it.
    #[arg(long, env = "STRATA_METRICS_LISTEN", value_name = "ADDRESS")]
    metrics_listen: Option<SocketAddr>,
}

impl MetricsArgs {
    /// The metrics of a process in that role, which are served from now on if an address was given.
    pub async fn start(&self, role: &'static str) -> Result<Metrics> {
        let metrics = Metrics::new(role);
        if let Some(address) = self.metrics_listen {
            let bound = metrics::serve(metrics.clone(), address)
                .await
                .with_context(|| format!("cannot listen on {address} for metrics"))?;
            tracing::info!(address = %bound, "metrics are served");
        }
        Ok(metrics)
    }
}

/// Tells which shares can be used from here.
pub fn tell_shares(metrics: &Metrics, shares: &Arc<Shares>) {
    let shares = Arc::clone(shares);
    metrics.look(move || {
        let sample = |spec: crate::csi::ShareSpec| Sample {
            labels: vec![("share", spec.source.to_string())],
            value: if shares.open_one(&spec).is_some() { 1.0 } else { 0.0 },
        };
        let samples = shares.specs().into_iter().map(sample).collect();
        vec![Samples {
            name: metrics::SHARE_UP,
            help: "1: the share can be used from here; 0: it cannot",
            samples,
        }]
    });
}

/// Tells how much memory the storage daemons take.
pub fn tell_daemons(metrics: &Metrics, daemons: &Arc<LocalDaemons>) {
    let daemons = Arc::clone(daemons);
    metrics.look(move || {
        let found = daemons.memory().unwrap_or_else(|error| {
            tracing::debug!(%error, "no figures of storage daemons");
            Vec::new()
        });
        let figures = found.iter().filter_map(|(daemon, resident)| {
            let (purpose, volume) = daemon.name.parts()?;
            Some(DaemonFigures {
                purpose: purpose.to_owned(),
                volume: volume.to_owned(),
                resident: *resident,
            })
        });
        daemon_samples(&figures.collect::<Vec<_>>())
    });
}

/// Looks at a share for its figures; blocking. What fails is told by whoever needs the share.
pub fn look_at(gauges: &ShareGauges, volumes: &Volumes) {
    match figures(volumes) {
        Ok(figures) => gauges.found(&volumes.share().source.to_string(), &figures),
        Err(error) => tracing::debug!(share = %volumes.share().source, %error, "no figures of this share"),
    }
}

fn figures(volumes: &Volumes) -> Result<ShareFigures, Error> {
    let capacity = volumes.capacity()?;
    let tally = volumes.tally()?;
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    Ok(ShareFigures {
        total: capacity.total,
        free: capacity.free,
        provisioned: capacity.provisioned,
        volumes: count(tally.volumes),
        layers_max: count(tally.layers_max),
        merges: MergeFigures {
            waiting: count(tally.work.waiting),
            running: count(tally.work.running),
            failed: count(tally.work.failed),
            oldest: tally.work.oldest.unwrap_or(0),
            copied: tally.work.copied,
            to_copy: tally.work.to_copy,
        },
        damaged: count(tally.damaged),
    })
}
