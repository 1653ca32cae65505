use super::*;
use crate::agent::{AgentClient, CUT_LIMIT};
use crate::attach::FuseLoop;
use crate::csi::{OpenShare, ShareSpec};
use crate::gluster::Share;
use crate::host::fake::FakeHost;
use crate::qsd::LocalDaemons;
use crate::volume::{Policy, StagingParts, Tools};
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
    let tools =
        Tools { qemu_img: "none".into(), daemons, agents: Arc::new(agents), policy: Policy::default() };
    let shares = Arc::new(Shares::new(Vec::new(), Arc::new(NoShares), tools));
    let node: NodeId = "n1".parse().unwrap();
    let registrar = Arc::new(Registrar::new(node.clone(), "unix:///none".to_owned(), dir.path()).unwrap());
    (
        NodeService::new(NodeParts {
            node,
            staging: Arc::new(staging),
            shares,
            registrar,
            verdict,
            max_volumes: 8,
        }),
        tell,
        dir,
    )
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
