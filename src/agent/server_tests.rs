use super::*;
use crate::agent::{AgentClient, CUT_LIMIT, local_router};
use crate::attach::FuseLoop;
use crate::host::loopdev::KernelLoops;
use crate::host::mkfs::LinuxFormatter;
use crate::host::mount::LinuxMounter;
use crate::qsd::LocalDaemons;
use crate::rpc::uds;
use crate::volume::{AgentError, Agents, StagingParts};
use rstest::rstest;
use std::path::Path;
use tokio::runtime::Runtime;
use tonic::Code;

/// A node that has no volume.
pub(in crate::agent) fn staging(node: &NodeId, dir: &Path) -> Arc<Staging> {
    Arc::new(Staging::new(StagingParts {
        node: node.clone(),
        dir: dir.join("volumes"),
        daemons: Arc::new(LocalDaemons::new("no-such-program".into(), dir.join("daemons"))),
        backend: Arc::new(FuseLoop::new(Arc::new(KernelLoops), Arc::new(LinuxMounter))),
        mounter: Arc::new(LinuxMounter),
        formatter: Arc::new(LinuxFormatter),
    }))
}

/// Its agent.
pub(in crate::agent) fn agent(node: &str, dir: &Path) -> AgentService {
    let node: NodeId = node.parse().unwrap();
    let staging = staging(&node, dir);
    AgentService::new(node, staging)
}

/// The codes with which each of the calls is answered that names this node.
async fn codes(agent: &AgentService, node_id: &str) -> Vec<Code> {
    let node_id = node_id.to_owned();
    let (share_key, volume_id) = ("s1".to_owned(), VolumeId::from_name("v").to_string());
    let (frozen_file, overlay_file) = ("a".to_owned(), "b".to_owned());
    let cut = CutVolumeRequest {
        node_id: node_id.clone(),
        share_key: share_key.clone(),
        volume_id: volume_id.clone(),
        frozen_file,
        overlay_file,
        epoch: 1,
    };
    let grow = GrowVolumeRequest {
        node_id: node_id.clone(),
        share_key: share_key.clone(),
        volume_id: volume_id.clone(),
        file: "a".to_owned(),
        ..Default::default()
    };
    let status = VolumeStatusRequest {
        node_id: node_id.clone(),
        share_key: share_key.clone(),
        volume_id: volume_id.clone(),
        epoch: 1,
    };
    let merge = MergeLayersRequest { node_id: node_id.clone(), ..Default::default() };
    let release = ReleaseVolumeRequest { node_id, share_key, volume_id };
    vec![
        agent.cut_volume(Request::new(cut)).await.map_or_else(|status| status.code(), |_| Code::Ok),
        agent.grow_volume(Request::new(grow)).await.map_or_else(|status| status.code(), |_| Code::Ok),
        agent.volume_status(Request::new(status)).await.map_or_else(|status| status.code(), |_| Code::Ok),
        agent.release_volume(Request::new(release)).await.map_or_else(|status| status.code(), |_| Code::Ok),
        agent.merge_layers(Request::new(merge)).await.map_or_else(|status| status.code(), |_| Code::Ok),
    ]
}

/// An address that went over to another node must not cut or release that one's volume.
#[rstest]
#[case("n1", false)]
#[case("n2", true)]
#[case("", true)]
#[tokio::test]
async fn what_is_meant_for_another_node_is_refused(#[case] named: &str, #[case] refused: bool) {
    let dir = tempfile::tempdir().unwrap();
    let codes = codes(&agent("n1", dir.path()), named).await;
    if refused {
        assert_eq!(codes, [Code::FailedPrecondition; 5]);
    } else {
        // The last one has no step, and so is looked at.
        assert_eq!(codes, [Code::Ok, Code::Ok, Code::Ok, Code::Ok, Code::InvalidArgument]);
    }
}

/// The controller takes it for what it is: the node that it wants has not been asked.
#[test]
fn a_node_at_anothers_address_is_no_answer_of_that_node() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("a.sock");
    let runtime = Runtime::new().unwrap();
    let listener = uds::bind(&socket).unwrap();
    let router = local_router(agent("n1", dir.path()));
    runtime.spawn(async move { router.serve_with_incoming(uds::incoming(listener).unwrap()).await });
    let agents = AgentClient::new(runtime.handle().clone(), CUT_LIMIT);
    let (address, share) = (format!("unix://{}", socket.display()), "s1".parse().unwrap());
    let release =
        |node: &str| agents.release(&node.parse().unwrap(), &address, &share, VolumeId::from_name("v"));
    release("n1").unwrap();
    let refused = release("n2").unwrap_err();
    assert!(
        matches!(&refused, AgentError::Unreachable { reason } if reason.contains("n2") && reason.contains("n1")),
        "{refused}"
    );
}

/// A flood of calls is bounded, and a bound that was reached is no failure of the node.
#[tokio::test]
async fn calls_beyond_the_bound_are_sent_away() {
    let dir = tempfile::tempdir().unwrap();
    let agent = agent("n1", dir.path());
    let taken = agent.calls.acquire_many(u32::try_from(MOST_CALLS).unwrap()).await.unwrap();
    assert_eq!(codes(&agent, "n1").await[..4], [Code::ResourceExhausted; 4]);
    drop(taken);
    assert_eq!(codes(&agent, "n1").await[..4], [Code::Ok; 4]);
    assert_eq!(agent.calls.available_permits(), MOST_CALLS);
}
