//! Serves the controller's wishes on this node.

use super::merge;
use crate::gluster::ShareKey;
use crate::metrics::Cuts;
use crate::rpc::agent::cut_volume_response::Outcome;
use crate::rpc::agent::node_agent_server::NodeAgent;
use crate::rpc::agent::{
    CutVolumeRequest, CutVolumeResponse, GrowVolumeRequest, GrowVolumeResponse, MergeLayersRequest,
    MergeLayersResponse, ReleaseVolumeRequest, ReleaseVolumeResponse, VolumeStatusRequest,
    VolumeStatusResponse,
};
use crate::rpc::{chain, offload};
use crate::trace;
use crate::volume::{CutOrder, CutReport, Error, GrowOrder, GrowReport, NodeId, Staging, VolumeId};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

/// Longer than any client waits: the client's deadline counts, this only ends a waiting task some day.
const LIMIT: Duration = Duration::from_secs(1800);
/// Each call has a thread of its own; a node has some dozens of volumes, and seldom more than one call for each.
const MOST_CALLS: usize = 128;

/// The NodeAgent service over this node's staged volumes.
#[derive(Clone)]
pub struct AgentService {
    node: NodeId,
    staging: Arc<Staging>,
    calls: Arc<Semaphore>,
    cuts: Cuts,
}

impl AgentService {
    /// Speaks for this node.
    pub fn new(node: NodeId, staging: Arc<Staging>) -> Self {
        AgentService { node, staging, calls: Arc::new(Semaphore::new(MOST_CALLS)), cuts: Cuts::default() }
    }

    /// Counts the pauses of its cuts there.
    pub fn counting(self, cuts: Cuts) -> Self {
        AgentService { cuts, ..self }
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Staging) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Status> {
        let staging = Arc::clone(&self.staging);
        let busy = |_| Status::resource_exhausted(format!("{MOST_CALLS} calls are under way: ask again"));
        let call = Arc::clone(&self.calls).try_acquire_owned().map_err(busy)?;
        let late = || Status::deadline_exceeded("still at work");
        // The one reader of these codes is our own client, which passes the words on.
        let work = move || {
            // Until the work has ended, whoever still waits for it.
            let _call = call;
            work(&staging).map_err(|error| Status::unknown(chain(&error)))
        };
        offload(LIMIT, late, work).await
    }

    /// An address can come to another node: what is meant for the one that had it before is not done here.
    fn is_meant(&self, node: &str, volume: &str) -> Result<(), Status> {
        // It is not parsed yet, and must not write lines of its own into a log.
        if volume.parse::<VolumeId>().is_ok() {
            trace::about_volume(volume);
        }
        let reason = match node {
            node if node == self.node.as_str() => return Ok(()),
            "" => "the call names no node, as those of an older controller: update the controller".to_owned(),
            other => format!("the call is meant for node {other}, and this is node {}", self.node),
        };
        tracing::warn!(reason, "a call was refused");
        Err(Status::failed_precondition(reason))
    }
}

pub(super) fn parse<T: FromStr>(text: &str) -> Result<T, Status>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| Status::invalid_argument(error.to_string()))
}

/// What comes from the controller names files inside the volume's folder, nothing else.
pub(super) fn file_name(text: String) -> Result<String, Status> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
    if text.is_empty() || text.starts_with('.') || !text.chars().all(fine) {
        return Err(Status::invalid_argument(format!("{text:?} is no plain file name")));
    }
    Ok(text)
}

#[tonic::async_trait]
impl NodeAgent for AgentService {
    async fn cut_volume(
        &self,
        request: Request<CutVolumeRequest>,
    ) -> Result<Response<CutVolumeResponse>, Status> {
        let request = request.into_inner();
        self.is_meant(&request.node_id, &request.volume_id)?;
        let order = CutOrder {
            share: parse(&request.share_key)?,
            volume: parse(&request.volume_id)?,
            epoch: request.epoch,
            frozen_file: file_name(request.frozen_file)?,
            overlay_file: file_name(request.overlay_file)?,
        };
        tracing::info!(frozen = order.frozen_file, overlay = order.overlay_file, "cut");
        let report = self.run(move |staging| staging.cut(&order)).await?;
        let mut response = CutVolumeResponse::default();
        match report {
            CutReport::Switched { filesystem_consistent, pause } => {
                self.cuts.paused(pause, filesystem_consistent);
                response.set_outcome(Outcome::Switched);
                response.filesystem_consistent = filesystem_consistent;
                response.pause_microseconds = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
            }
            CutReport::AlreadySwitched => response.set_outcome(Outcome::AlreadySwitched),
            CutReport::NotOpen => response.set_outcome(Outcome::NotOpen),
        }
        Ok(Response::new(response))
    }

    async fn grow_volume(
        &self,
        request: Request<GrowVolumeRequest>,
    ) -> Result<Response<GrowVolumeResponse>, Status> {
        let request = request.into_inner();
        self.is_meant(&request.node_id, &request.volume_id)?;
        let order = GrowOrder {
            share: parse(&request.share_key)?,
            volume: parse(&request.volume_id)?,
            epoch: request.epoch,
            file: file_name(request.file)?,
            size: request.size,
        };
        tracing::info!(size = order.size, "grow");
        let report = self.run(move |staging| staging.grow(&order)).await?;
        Ok(Response::new(GrowVolumeResponse { not_open: report == GrowReport::NotOpen }))
    }

    async fn merge_layers(
        &self,
        request: Request<MergeLayersRequest>,
    ) -> Result<Response<MergeLayersResponse>, Status> {
        let request = request.into_inner();
        self.is_meant(&request.node_id, &request.volume_id)?;
        let call = merge::from_request(request)?;
        tracing::debug!(step = ?call.step, "merge");
        let report = self.run(move |staging| staging.merge(&call)).await?;
        Ok(Response::new(merge::to_response(report)))
    }

    async fn volume_status(
        &self,
        request: Request<VolumeStatusRequest>,
    ) -> Result<Response<VolumeStatusResponse>, Status> {
        let request = request.into_inner();
        self.is_meant(&request.node_id, &request.volume_id)?;
        let (share, volume): (ShareKey, VolumeId) = (parse(&request.share_key)?, parse(&request.volume_id)?);
        let epoch = request.epoch;
        let open = self.run(move |staging| staging.status(&share, volume, epoch)).await?;
        Ok(Response::new(VolumeStatusResponse {
            open: open.is_some(),
            active_file: open.map(|image| image.active_file).unwrap_or_default(),
        }))
    }

    async fn release_volume(
        &self,
        request: Request<ReleaseVolumeRequest>,
    ) -> Result<Response<ReleaseVolumeResponse>, Status> {
        let request = request.into_inner();
        self.is_meant(&request.node_id, &request.volume_id)?;
        let (share, volume): (ShareKey, VolumeId) = (parse(&request.share_key)?, parse(&request.volume_id)?);
        tracing::info!(%share, "release");
        self.run(move |staging| staging.release(&share, volume)).await?;
        Ok(Response::new(ReleaseVolumeResponse {}))
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
pub(super) mod tests;
