//! The Node service.

use super::call::{Call, Caller, Patience, limit};
use super::{capability, shares::Shares};
use crate::rpc::csi::node_server::Node;
use crate::rpc::csi::node_service_capability::rpc::Type as RpcType;
use crate::rpc::csi::node_service_capability::{Rpc, Type};
use crate::rpc::csi::*;
use crate::volume::{NodeId, PublishTarget, StageVolume, Staging, VolumeHandle};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// CSI bounds paths to 4 KiB, as the kernel does.
const MAX_PATH: usize = 4096;

/// What a node plugin is made of.
#[derive(Clone)]
pub struct NodeParts {
    /// Its name, as it registered on the shares.
    pub node: NodeId,
    /// Its volumes.
    pub staging: Arc<Staging>,
    /// Its shares.
    pub shares: Arc<Shares>,
    /// What the data path's self-test has found so far.
    pub verdict: watch::Receiver<Verdict>,
}

/// What is known of a node's data path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its test runs, or is tried again; with what hindered the last try.
    Open(Option<String>),
    /// It keeps what is written to it.
    Sound,
    /// It loses what is written to it, or its QEMU is known to: until that is replaced, and with it this process.
    Unsound(String),
}

/// Staging and publishing on this node.
#[derive(Clone)]
pub struct NodeService {
    parts: NodeParts,
    caller: Caller,
}

impl NodeService {
    /// Of these parts.
    pub fn new(parts: NodeParts) -> Self {
        NodeService { parts, caller: Caller::default() }
    }

    /// No volume is opened on a data path that was not seen to keep what is written to it. Waits so long for a
    /// test that still runs: UNAVAILABLE then, for a later call finds its verdict.
    async fn sound(&self, patience: Duration) -> Result<(), Status> {
        let mut told = self.parts.verdict.clone();
        let known = told.wait_for(|verdict| !matches!(verdict, Verdict::Open(_)));
        // Late, or the test's task is gone: what was said last counts.
        let _ = tokio::time::timeout(patience, known).await;
        match self.parts.verdict.borrow().clone() {
            Verdict::Sound => Ok(()),
            Verdict::Unsound(reason) => Err(Status::failed_precondition(reason)),
            Verdict::Open(None) => Err(Status::unavailable("the self-test of the data path still runs")),
            Verdict::Open(Some(reason)) => Err(Status::unavailable(format!(
                "the data path could not be tested yet, and is tried again: {reason}"
            ))),
        }
    }
}

fn handle(text: &str) -> Result<VolumeHandle, Status> {
    if text.is_empty() {
        return Err(Status::invalid_argument("volume_id is missing"));
    }
    text.parse().map_err(|error| Status::not_found(format!("{error}")))
}

fn path(text: &str, what: &str) -> Result<PathBuf, Status> {
    let plain = text.starts_with('/')
        && text.len() <= MAX_PATH
        && !text.contains('\0')
        && !text.split('/').any(|part| part == "..");
    if !plain {
        return Err(Status::invalid_argument(format!("{what} {text:?} is no plain absolute path")));
    }
    Ok(PathBuf::from(text))
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        let begun = Instant::now();
        let (metadata, _, request) = request.into_parts();
        if request.volume_id.is_empty() {
            return Err(Status::invalid_argument("volume_id is missing"));
        }
        let staging_path = path(&request.staging_target_path, "staging_target_path")?;
        let access = capability::one(request.volume_capability.as_ref())?;
        let handle = handle(&request.volume_id)?;
        let whole = limit(Patience::Node, &metadata);
        // Half of it: staging takes its time, too.
        self.sound(whole / 2).await?;
        let (key, parts) = (handle.to_string(), self.parts.clone());
        let patience = Patience::Left(whole.saturating_sub(begun.elapsed()));
        let call = Call { method: "NodeStageVolume", key: &key, patience };
        self.caller
            .run(call, &metadata, move || {
                let volumes = parts.shares.get(&handle.share)?;
                let request = StageVolume { volume: handle.volume, staging_path, access };
                parts.staging.stage(&volumes, &request)?;
                Ok(NodeStageVolumeResponse {})
            })
            .await
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        if request.volume_id.is_empty() {
            return Err(Status::invalid_argument("volume_id is missing"));
        }
        let staging_path = path(&request.staging_target_path, "staging_target_path")?;
        let handle = handle(&request.volume_id)?;
        let (key, staging) = (handle.to_string(), Arc::clone(&self.parts.staging));
        let call = Call { method: "NodeUnstageVolume", key: &key, patience: Patience::Node };
        self.caller
            .run(call, &metadata, move || {
                staging.unstage(&handle, &staging_path)?;
                Ok(NodeUnstageVolumeResponse {})
            })
            .await
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        if request.volume_id.is_empty() {
            return Err(Status::invalid_argument("volume_id is missing"));
        }
        let target_path = path(&request.target_path, "target_path")?;
        let access = capability::one(request.volume_capability.as_ref())?;
        if request.staging_target_path.is_empty() {
            return Err(Status::failed_precondition(
                "staging_target_path is missing: NodeStageVolume comes first",
            ));
        }
        let staging_path = path(&request.staging_target_path, "staging_target_path")?;
        let handle = handle(&request.volume_id)?;
        let (key, staging) = (handle.to_string(), Arc::clone(&self.parts.staging));
        let readonly = request.readonly;
        let call = Call { method: "NodePublishVolume", key: &key, patience: Patience::Node };
        self.caller
            .run(call, &metadata, move || {
                staging.publish(&handle, &PublishTarget { staging_path, target_path, readonly, access })?;
                Ok(NodePublishVolumeResponse {})
            })
            .await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        if request.volume_id.is_empty() {
            return Err(Status::invalid_argument("volume_id is missing"));
        }
        let target_path = path(&request.target_path, "target_path")?;
        let handle = handle(&request.volume_id)?;
        let (key, staging) = (handle.to_string(), Arc::clone(&self.parts.staging));
        let call = Call { method: "NodeUnpublishVolume", key: &key, patience: Patience::Node };
        self.caller
            .run(call, &metadata, move || {
                staging.unpublish(&handle, &target_path)?;
                Ok(NodeUnpublishVolumeResponse {})
            })
            .await
    }

    async fn node_get_info(
        &self,
        _request: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.parts.node.to_string(),
            // Zero: the orchestrator decides.
            max_volumes_per_node: 0,
            accessible_topology: None,
        }))
    }

    async fn node_get_capabilities(
        &self,
        _request: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let rpc = Rpc { r#type: RpcType::StageUnstageVolume.into() };
        Ok(Response::new(NodeGetCapabilitiesResponse {
            capabilities: vec![NodeServiceCapability { r#type: Some(Type::Rpc(rpc)) }],
        }))
    }

    async fn node_get_volume_stats(
        &self,
        _request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        Err(Status::unimplemented("NodeGetVolumeStats is not offered; see NodeGetCapabilities"))
    }

    async fn node_expand_volume(
        &self,
        _request: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        Err(Status::unimplemented("NodeExpandVolume is not offered; see NodeGetCapabilities"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{AgentClient, CUT_LIMIT};
    use crate::attach::FuseLoop;
    use crate::csi::{OpenShare, ShareSpec};
    use crate::gluster::Share;
    use crate::host::fake::FakeHost;
    use crate::qsd::LocalDaemons;
    use crate::volume::{StagingParts, Tools};
    use tokio::runtime::Handle;
    use tonic::Code;

    fn service(verdict: Verdict) -> (NodeService, watch::Sender<Verdict>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let (tell, verdict) = watch::channel(verdict);
        let agents = AgentClient::new(Handle::current(), CUT_LIMIT);
        let daemons = Arc::new(LocalDaemons::new("none".into(), dir.path().join("daemons")));
        let host = Arc::new(FakeHost::default());
        let staging = Staging::new(StagingParts {
            node: "n1".parse().unwrap(),
            dir: dir.path().join("volumes"),
            daemons: Arc::clone(&daemons) as _,
            backend: Arc::new(FuseLoop::new(Arc::clone(&host) as _, Arc::clone(&host) as _)),
            mounter: Arc::clone(&host) as _,
            formatter: host,
        });
        let tools = Tools { qemu_img: "none".into(), daemons, agents: Arc::new(agents) };
        let shares = Arc::new(Shares::new(Vec::new(), Arc::new(NoShares), tools));
        let node = "n1".parse().unwrap();
        (NodeService::new(NodeParts { node, staging: Arc::new(staging), shares, verdict }), tell, dir)
    }

    struct NoShares;

    impl OpenShare for NoShares {
        fn open(&self, spec: &ShareSpec) -> Result<Share, String> {
            Err(format!("{} is not expected to be opened", spec.source))
        }
    }

    fn stage() -> Request<NodeStageVolumeRequest> {
        let access_type = Some(volume_capability::AccessType::Block(volume_capability::BlockVolume {}));
        let mode = volume_capability::access_mode::Mode::SingleNodeWriter.into();
        let mut request = Request::new(NodeStageVolumeRequest {
            volume_id: format!("s1/{}", uuid::Uuid::nil()),
            staging_target_path: "/staging".to_owned(),
            volume_capability: Some(VolumeCapability {
                access_type,
                access_mode: Some(volume_capability::AccessMode { mode }),
            }),
            ..NodeStageVolumeRequest::default()
        });
        request.metadata_mut().insert("grpc-timeout", "1000m".parse().unwrap());
        request
    }

    async fn answer(service: &NodeService) -> Status {
        tokio::time::timeout(Duration::from_secs(10), service.node_stage_volume(stage()))
            .await
            .expect("the call waits without a bound")
            .unwrap_err()
    }

    /// Before there is a verdict the answer is UNAVAILABLE, in time; a hindrance is said and forgotten.
    #[tokio::test]
    async fn volumes_wait_for_a_sound_data_path() {
        let (service, tell, _dir) = service(Verdict::Open(None));
        assert_eq!(answer(&service).await.code(), Code::Unavailable);
        tell.send_replace(Verdict::Open(Some("no daemon".to_owned())));
        let hindered = answer(&service).await;
        assert!(hindered.code() == Code::Unavailable && hindered.message().contains("no daemon"));
        tell.send_replace(Verdict::Unsound("it loses writes".to_owned()));
        assert_eq!(answer(&service).await.code(), Code::FailedPrecondition);
        tell.send_replace(Verdict::Sound);
        // It went on to look for the volume's share.
        assert_eq!(answer(&service).await.code(), Code::NotFound);
    }

    /// Invariant 6: a path that climbs is refused before it reaches anything.
    #[test]
    fn only_plain_absolute_paths_are_taken() {
        assert_eq!(path("/var/lib/kubelet/x", "p").unwrap(), PathBuf::from("/var/lib/kubelet/x"));
        let long = format!("/{}", "x".repeat(MAX_PATH));
        for text in ["", "relative", "/a/../b", "/a/\0b", &long] {
            assert_eq!(path(text, "p").unwrap_err().code(), tonic::Code::InvalidArgument);
        }
    }
}
