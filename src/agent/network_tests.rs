use super::*;
use crate::agent::client::tests::Scripted;
use crate::agent::server::tests::agent;
use crate::agent::{AgentClient, CUT_LIMIT};
use crate::rpc::agent::VolumeStatusRequest;
use crate::rpc::agent::node_agent_client::NodeAgentClient;
use crate::rpc::tls::testing::{Authority, CONTROLLER, NODE, Wanted};
use crate::rpc::tls::{self, Certificates, Side};
use crate::volume::{AgentError, Agents, CutOrder, CutReport, VolumeId};
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use rstest::rstest;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::{Code, Request};

/// A node `n1` whose agent serves on the network, and an authority that both sides know.
struct World {
    dir: TempDir,
    runtime: Runtime,
    authority: Authority,
    at: SocketAddr,
}

impl World {
    fn new() -> World {
        World::with(|authority, dir| authority.write(dir, &Wanted::named(NODE)))
    }

    /// With these certificates of the agent.
    fn with(write: impl FnOnce(&Authority, &Path)) -> World {
        let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let folder = dir.path().join("node");
        write(&authority, &folder);
        let runtime = Runtime::new().unwrap();
        let at = serve(&runtime, &folder, agent("n1", dir.path()));
        World { dir, runtime, authority, at }
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A controller with these certificates.
    fn caller(&self, write: impl FnOnce(&Authority, &Path)) -> AgentClient {
        let folder = self.folder(&format!("caller-{}", uuid::Uuid::new_v4()));
        write(&self.authority, &folder);
        self.caller_from(&folder)
    }

    fn caller_from(&self, folder: &Path) -> AgentClient {
        let certificates = Certificates::open(folder, Side::Client, CONTROLLER, NODE).unwrap();
        AgentClient::new(self.runtime.handle().clone(), CUT_LIMIT)
            .with_certificates(Some(Arc::new(certificates)))
    }

    fn controller(&self) -> AgentClient {
        self.caller(|authority, dir| authority.write(dir, &Wanted::named(CONTROLLER)))
    }

    /// Asks `n1` to let go of a volume that it does not have.
    fn release(&self, agents: &AgentClient) -> Result<(), AgentError> {
        release_at(agents, self.at, "n1")
    }
}

/// An agent with the certificates of a folder.
fn serve(runtime: &Runtime, folder: &Path, agent: impl NodeAgent) -> SocketAddr {
    let certificates = Arc::new(Certificates::open(folder, Side::Server, NODE, CONTROLLER).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let router = network_router(agent);
    runtime.spawn(
        async move { router.serve_with_incoming(tls::incoming(listener, certificates).unwrap()).await },
    );
    at
}

fn cut_at(agents: &AgentClient, at: SocketAddr, frozen_file: &str) -> Result<CutReport, AgentError> {
    let order = CutOrder {
        share: "s1".parse().unwrap(),
        volume: VolumeId::from_name("v"),
        epoch: 1,
        frozen_file: frozen_file.to_owned(),
        overlay_file: "o".to_owned(),
    };
    agents.cut(&"n1".parse().unwrap(), &format!("https://{at}"), &order)
}

fn release_at(agents: &AgentClient, at: SocketAddr, node: &str) -> Result<(), AgentError> {
    let (node, share) = (node.parse().unwrap(), "s1".parse().unwrap());
    agents.release(&node, &format!("https://{at}"), &share, VolumeId::from_name("v"))
}

fn unreachable(result: Result<(), AgentError>) -> String {
    match result {
        Err(AgentError::Unreachable { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

/// The controller's identity alone may call; each of the others is told why not.
#[rstest]
#[case::of_another_authority(Wanted::named(CONTROLLER), true, "UnknownCA")]
#[case::that_has_ended(Wanted { days: -2, ..Wanted::named(CONTROLLER) }, false, "CertificateExpired")]
#[case::of_a_node(Wanted::named(NODE), false, "certificate not valid for name \"controller.csi.strata.dev\"")]
#[case::of_a_node_for_serving(Wanted { usages: &[ServerAuth], ..Wanted::named(NODE) }, false, "UnsupportedCertificate")]
#[case::of_somebody(Wanted::named("csi.strata.dev"), false, "certificate not valid for name")]
fn a_caller_with_a_certificate(#[case] wanted: Wanted<'_>, #[case] foreign: bool, #[case] reason: &str) {
    let world = World::new();
    world.release(&world.controller()).unwrap();
    let caller = world.caller(|authority, dir| {
        if foreign {
            Authority::new().write_trusting(dir, &wanted, &[authority]);
        } else {
            authority.write(dir, &wanted);
        }
    });
    let refused = unreachable(world.release(&caller));
    assert!(refused.contains(reason) && refused.contains("node n1"), "{refused}");
    world.release(&world.controller()).unwrap();
}

/// A node can register any address: who answers there must prove that it is an agent.
#[rstest]
#[case::of_another_authority(Wanted::named(NODE), true, "UnknownIssuer")]
#[case::that_has_ended(Wanted { days: -2, ..Wanted::named(NODE) }, false, "certificate expired")]
#[case::of_a_controller(
    Wanted::named(CONTROLLER),
    false,
    "certificate not valid for name \"node.csi.strata.dev\""
)]
#[case::of_a_controller_for_calling(Wanted { usages: &[ClientAuth], ..Wanted::named(NODE) }, false, "extended key usage")]
fn an_agent_with_a_certificate(#[case] wanted: Wanted<'_>, #[case] foreign: bool, #[case] reason: &str) {
    let world = World::with(|authority, dir| {
        if foreign {
            Authority::new().write_trusting(dir, &wanted, &[authority]);
        } else {
            authority.write(dir, &wanted);
        }
    });
    let refused = unreachable(world.release(&world.controller()));
    assert!(refused.contains(reason), "{refused}");
}

#[test]
fn a_call_for_another_node_and_a_controller_without_certificates_are_refused() {
    let world = World::new();
    let refused = unreachable(release_at(&world.controller(), world.at, "n2"));
    assert!(refused.contains("meant for node n2, and this is node n1"), "{refused}");
    let bare = AgentClient::new(world.runtime.handle().clone(), CUT_LIMIT);
    let refused = unreachable(world.release(&bare));
    assert!(refused.contains("--agent-tls-dir"), "{refused}");
}

/// Neither without a certificate nor without TLS does anybody get an answer.
#[test]
fn without_certificate_or_encryption_there_is_no_answer() {
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, version::TLS13};
    let world = World::new();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(world.folder("node").join("ca.crt")).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let refused = world.runtime.block_on(async {
        use tokio::io::AsyncReadExt;
        let connection = tokio::net::TcpStream::connect(world.at).await.unwrap();
        let name = ServerName::try_from(NODE).unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, connection).await.unwrap();
        stream.read(&mut [0; 64]).await.unwrap_err()
    });
    assert!(refused.to_string().contains("CertificateRequired"), "{refused}");

    let mut plain = TcpStream::connect(world.at).unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).unwrap();
    // TLS's own word for it, or nothing at all.
    assert!(answer.is_empty() || (answer.len() == 7 && answer[0] == 21), "{answer:?}");
}

/// An authority is replaced without a gap while both are trusted.
#[test]
fn two_authorities_can_be_trusted_at_once() {
    let next = Authority::new();
    let world = World::with(|old, dir| next.write_trusting(dir, &Wanted::named(NODE), &[&next, old]));
    let both =
        |old: &Authority, dir: &Path| old.write_trusting(dir, &Wanted::named(CONTROLLER), &[old, &next]);
    world.release(&world.caller(both)).unwrap();
    world.release(&world.caller(|_, dir| next.write(dir, &Wanted::named(CONTROLLER)))).unwrap();
    unreachable(world.release(&world.controller()));
}

/// Both folders go over to another authority, under a running agent and a running controller.
#[test]
fn certificates_that_change_are_used_at_once_and_open_connections_go_on() {
    let world = World::new();
    let folder = world.folder("controller");
    world.authority.write(&folder, &Wanted::named(CONTROLLER));
    let controller = world.caller_from(&folder);
    world.release(&controller).unwrap();
    let old = world.folder("old");
    world.authority.write(&old, &Wanted::named(CONTROLLER));
    let kept = Certificates::open(&old, Side::Client, CONTROLLER, NODE).unwrap();
    let mut open = world.runtime.block_on(async {
        let (channel, _) = tls::channel("127.0.0.1", world.at.port(), Arc::new(kept), Liveness::default());
        let mut open = NodeAgentClient::new(channel);
        assert_eq!(ask(&mut open).await, Code::Ok);
        open
    });

    let next = Authority::new();
    next.write(&world.folder("node"), &Wanted::named(NODE));
    let refused = unreachable(world.release(&controller));
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    next.write(&folder, &Wanted::named(CONTROLLER));
    world.release(&controller).unwrap();
    assert_eq!(world.runtime.block_on(ask(&mut open)), Code::Ok, "its connection is of before");
    unreachable(world.release(&world.caller_from(&old)));
}

async fn ask(agent: &mut NodeAgentClient<tonic::transport::Channel>) -> Code {
    let request = VolumeStatusRequest {
        node_id: "n1".to_owned(),
        share_key: "s1".to_owned(),
        volume_id: VolumeId::from_name("v").to_string(),
        epoch: 1,
    };
    agent.volume_status(Request::new(request)).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// A folder that broke takes no agent away from its controllers, and is used again once it is whole.
#[test]
fn a_broken_folder_leaves_the_certificates_of_before() {
    let world = World::new();
    let controller = world.controller();
    let data = world.folder("node").join("..data");
    let key = std::fs::read(data.join("tls.key")).unwrap();
    for broken in [&b"nonsense"[..], b""] {
        std::fs::write(data.join("tls.key"), broken).unwrap();
        world.release(&controller).unwrap();
    }
    std::fs::remove_file(data.join("ca.crt")).unwrap();
    std::fs::write(data.join("tls.key"), key).unwrap();
    world.release(&controller).unwrap();
    let next = Authority::new();
    next.write(&world.folder("node"), &Wanted::named(NODE));
    world.release(&world.caller(|_, dir| next.write(dir, &Wanted::named(CONTROLLER)))).unwrap();
}

/// Whoever connects and says nothing, and whoever says too much, is in nobody's way.
#[test]
fn silent_connections_and_long_messages_are_bounded() {
    let world = World::new();
    let silent: Vec<_> = (0..50).map(|_| TcpStream::connect(world.at).unwrap()).collect();
    let begun = Instant::now();
    let controller = world.controller();
    world.release(&controller).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4), "it waited for others' handshakes");
    drop(silent);
    let refused = cut_at(&controller, world.at, &"f".repeat(LONGEST_MESSAGE)).unwrap_err();
    assert!(refused.to_string().contains("too large"), "{refused}");
}

/// A node that loses its power says nothing: a call that waits for it ends long before its own limit.
#[test]
fn a_connection_that_went_dead_ends_its_call() {
    let world = World::new();
    let folder = world.folder("node");
    let (at, dead) = through_a_cable(&world.runtime, serve(&world.runtime, &folder, Scripted));
    let mut controller = world.controller();
    controller.liveness = Liveness { every: Duration::from_millis(200), within: Duration::from_millis(300) };
    let waiting = std::thread::spawn(move || cut_at(&controller, at, "f").unwrap_err());
    // A node that lives is waited for.
    std::thread::sleep(Duration::from_secs(2));
    assert!(!waiting.is_finished());
    dead.send_replace(true);
    let begun = Instant::now();
    let error = waiting.join().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4), "{error}");
    assert!(matches!(&error, AgentError::Unreachable { reason } if reason.contains("keep-alive")), "{error}");
}

/// Passes bytes on until it is told to be dead: then connections stay open, and nothing comes through. New ones are made.
fn through_a_cable(runtime: &Runtime, to: SocketAddr) -> (SocketAddr, tokio::sync::watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let dead = tokio::sync::watch::Sender::new(false);
    let told = dead.subscribe();
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut told = told.clone();
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(to).await.unwrap();
                let died = async { told.wait_for(|dead| *dead).await.map(drop) };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
                    _ = died => {}
                }
                std::future::pending().await
            });
        }
    });
    (at, dead)
}
