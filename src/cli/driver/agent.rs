//! Where a node's agent listens, and the certificates of both sides.

use super::args::DRIVER;
use super::listen::listen_tcp;
use super::serve::serve_on;
use crate::agent::{AgentAddress, AgentService, local_router, network_router};
use crate::rpc::tls::{self, Certificates, Side, keep_watch};
use crate::rpc::uds;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use std::future::Future;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Whether anybody listens on a port of this machine is told at once.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// The certificates with which agents and controllers know each other on the network.
#[derive(Clone, Debug, Default, Args)]
pub struct AgentTlsArgs {
    /// A folder with tls.crt, tls.key and ca.crt for calls of agents over the network. It may change at any time.
    #[arg(long, env = "STRATA_AGENT_TLS_DIR", value_name = "DIR")]
    pub agent_tls_dir: Option<PathBuf>,
    /// The DNS name in the certificates of agents; by default node.DRIVER-NAME.
    #[arg(long, env = "STRATA_AGENT_TLS_NODE_NAME", value_name = "DNS-NAME")]
    pub agent_tls_node_name: Option<String>,
    /// The DNS name in the certificates of controllers, who alone may call agents; by default controller.DRIVER-NAME.
    #[arg(long, env = "STRATA_AGENT_TLS_CONTROLLER_NAME", value_name = "DNS-NAME")]
    pub agent_tls_controller_name: Option<String>,
}

impl AgentTlsArgs {
    /// For commands of people, which speak to agents as a controller does: the same variables as its own.
    pub fn of_environment() -> Result<Option<Arc<Certificates>>, String> {
        let of = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let args = AgentTlsArgs {
            agent_tls_dir: of("STRATA_AGENT_TLS_DIR").map(PathBuf::from),
            agent_tls_node_name: of("STRATA_AGENT_TLS_NODE_NAME"),
            agent_tls_controller_name: of("STRATA_AGENT_TLS_CONTROLLER_NAME"),
        };
        let driver = of("STRATA_DRIVER_NAME").unwrap_or_else(|| DRIVER.to_owned());
        args.certificates(&driver, Side::Client).map_err(|error| format!("STRATA_AGENT_TLS_DIR: {error:#}"))
    }

    /// The folder's certificates, if there is one, which are looked after from now on.
    pub fn certificates(&self, driver: &str, side: Side) -> Result<Option<Arc<Certificates>>> {
        let Some(dir) = &self.agent_tls_dir else { return Ok(None) };
        let node = self.agent_tls_node_name.clone().unwrap_or_else(|| node_name(driver));
        let controller = self.agent_tls_controller_name.clone().unwrap_or_else(|| controller_name(driver));
        let (own, peer) = match side {
            Side::Server => (node, controller),
            Side::Client => (controller, node),
        };
        let certificates =
            Certificates::open(dir, side, &own, &peer).context("the certificates for agents")?;
        Ok(Some(Arc::new(certificates)))
    }
}

/// The DNS name of agents.
pub fn node_name(driver: &str) -> String {
    format!("node.{driver}")
}

/// The DNS name of controllers.
pub fn controller_name(driver: &str) -> String {
    format!("controller.{driver}")
}

/// Where an agent is to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A socket of this machine.
    Unix(PathBuf),
    /// The network, with TLS.
    Tcp(SocketAddr),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            let path = Some(path).filter(|path| path.starts_with('/'));
            return path.map(|path| Listen::Unix(path.into())).ok_or("a socket is unix:///PATH".to_owned());
        }
        let address = text.strip_prefix("tcp://").unwrap_or(text).parse();
        address
            .map(Listen::Tcp)
            .map_err(|_| "write unix:///PATH or tcp://IP:PORT ([IP]:PORT for IPv6)".to_owned())
    }
}

/// How a node's agent is reached.
#[derive(Clone, Debug, Args)]
pub struct AgentArgs {
    /// Where the agent listens: unix:///PATH, for a controller on the same machine, or tcp://IP:PORT, which needs
    /// --agent-tls-dir. The controller finds it through the share.
    #[arg(
        long,
        env = "STRATA_AGENT_LISTEN",
        value_name = "ADDRESS",
        default_value = "unix:///run/strata/agent.sock"
    )]
    agent_listen: Listen,
    /// Where others reach the agent: HOST or HOST:PORT. By default where it listens, so a must with 0.0.0.0 or [::].
    #[arg(long, env = "STRATA_AGENT_ADDRESS", value_name = "HOST[:PORT]")]
    agent_address: Option<String>,
    #[command(flatten)]
    tls: AgentTlsArgs,
}

/// An agent's listening socket.
pub enum AgentListener {
    /// For this machine.
    Local(UnixListener, AgentAddress),
    /// For controllers anywhere.
    Network(TcpListener, AgentAddress, Arc<Certificates>),
}

impl AgentArgs {
    /// Begins to listen.
    pub fn bind(&self, driver: &str) -> Result<AgentListener> {
        match &self.agent_listen {
            Listen::Unix(path) => {
                ensure!(self.agent_address.is_none(), "--agent-address is for --agent-listen tcp://IP:PORT");
                Ok(AgentListener::Local(uds::bind(path)?, AgentAddress::Unix(path.clone())))
            }
            Listen::Tcp(address) => self.bind_tcp(*address, driver),
        }
    }

    fn bind_tcp(&self, address: SocketAddr, driver: &str) -> Result<AgentListener> {
        let certificates = self.tls.certificates(driver, Side::Server)?.context(
            "an agent listens on the network with TLS only: give --agent-tls-dir a folder with tls.crt, tls.key and ca.crt \
             (`strata certs` makes them), or listen on unix:///PATH",
        )?;
        let open = || format!("cannot listen on {address} (--agent-listen)");
        let listener = listen_tcp(address).with_context(open)?;
        let bound = listener.local_addr().with_context(open)?;
        let reached = match &self.agent_address {
            Some(text) => AgentAddress::network(text, bound.port()).context("--agent-address")?,
            None if bound.ip().is_unspecified() => {
                bail!("--agent-listen {address} says not where others reach it: add --agent-address HOST")
            }
            None => AgentAddress::Network { host: bound.ip().to_string(), port: bound.port() },
        };
        Ok(AgentListener::Network(listener, reached, certificates))
    }
}

impl AgentListener {
    /// What the node registers.
    pub fn address(&self) -> &AgentAddress {
        match self {
            AgentListener::Local(_, address) | AgentListener::Network(_, address, _) => address,
        }
    }

    /// Serves until `stop`.
    pub async fn serve(self, agent: AgentService, stop: impl Future<Output = ()>) -> Result<()> {
        match self {
            AgentListener::Local(listener, _) => {
                serve_on(local_router(agent), uds::incoming(listener).context("cannot listen")?, stop).await
            }
            AgentListener::Network(listener, address, certificates) => {
                tracing::info!(%address, "the agent serves controllers on the network");
                let incoming = tls::incoming(listener, Arc::clone(&certificates)).context("cannot listen")?;
                let watch = tokio::spawn(keep_watch(certificates));
                let served = serve_on(network_router(agent), incoming, stop).await;
                watch.abort();
                served
            }
        }
    }
}

/// Whether an agent, which this very machine has registered, is still there.
pub fn agent_answers(address: &str) -> bool {
    match address.parse() {
        Ok(AgentAddress::Unix(path)) => uds::answers(&path),
        Ok(AgentAddress::Network { host, port }) => {
            let found = (host.as_str(), port).to_socket_addrs();
            found.is_ok_and(|mut all| all.any(|at| TcpStream::connect_timeout(&at, LOOK_LIMIT).is_ok()))
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use rstest::rstest;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        agent: AgentArgs,
    }

    fn bound(args: &[&str]) -> Result<AgentListener> {
        let line = Line::try_parse_from(std::iter::once("x").chain(args.iter().copied()))?;
        line.agent.bind("csi.example")
    }

    /// Each of them says what to do.
    #[rstest]
    #[case(&["--agent-listen", "tcp://127.0.0.1:0"], "strata certs")]
    #[case(&["--agent-listen", "tcp://127.0.0.1:0", "--agent-tls-dir", "/nonexistent"], "/nonexistent/tls.crt")]
    #[case(&["--agent-listen", "unix:///tmp/x", "--agent-address", "10.0.0.1"], "tcp://IP:PORT")]
    #[case(&["--agent-listen", "unix://x"], "unix:///PATH")]
    #[case(&["--agent-listen", "example:80"], "tcp://IP:PORT")]
    fn what_cannot_be_is_refused_with_its_remedy(#[case] args: &[&str], #[case] remedy: &str) {
        let error = format!("{:#}", bound(args).err().unwrap());
        assert!(error.contains(remedy), "{error}");
    }

    #[rstest]
    #[case("127.0.0.1:0", None, Some("https://127.0.0.1:"))]
    #[case("0.0.0.0:0", Some("10.0.0.7"), Some("https://10.0.0.7:"))]
    #[case("tcp://0.0.0.0:0", Some("10.0.0.7:44"), Some("https://10.0.0.7:44"))]
    #[case("0.0.0.0:0", None, None)]
    #[case("0.0.0.0:0", Some("http://x"), None)]
    fn what_is_registered_is_where_others_reach_it(
        #[case] listen: &str,
        #[case] said: Option<&str>,
        #[case] address: Option<&str>,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let certs = ["certs", "--dir", dir.path().to_str().unwrap(), "--driver", "csi.example"];
        crate::cli::certs::CertsArgs::of(&certs).run().unwrap();
        let folder = dir.path().join("node").display().to_string();
        let mut args = vec!["--agent-tls-dir", &folder, "--agent-listen", listen];
        args.extend(said.iter().flat_map(|said| ["--agent-address", said]));
        match (bound(&args), address) {
            (Ok(bound), Some(address)) => {
                let registered = bound.address().to_string();
                assert!(registered.starts_with(address), "{registered}");
                let AgentListener::Network(listener, ..) = &bound else { panic!("not on the network") };
                let here = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
                assert!(agent_answers(&here));
                drop(bound);
                assert!(!agent_answers(&here));
            }
            (Err(error), None) => assert!(format!("{error:#}").contains("--agent-address"), "{error:#}"),
            (Ok(bound), None) => panic!("{}", bound.address()),
            (Err(error), Some(_)) => panic!("{error:#}"),
        }
    }
}
