//! `strata standalone`: the whole driver on one machine, each role a process of its own.

mod children;
mod front;
mod layout;
mod teardown;

use super::certs::{CONTROLLER, NODE};
use super::driver::args::{DRIVER, QemuImgArg, QemuStorageDaemonArg, RepositoriesArg, ShareArgs};
use super::driver::{MaxVolumesArg, PolicyArgs, STOP_LIMIT, private_dir, runtime, serve, stop_signal};
use super::telemetry::{LogFormat, TraceArgs};
use crate::rpc::uds;
use crate::volume::NodeId;
use anyhow::{Context, Result, bail};
use children::Children;
use clap::Args;
use layout::Layout;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tonic::transport::Channel;

/// A process that was told to end, and the next one on the same folder, meet for a moment.
const HANDOVER: Duration = Duration::from_secs(30);

/// Runs data plane, controller and node on this machine, and serves CSI on DIR/csi.sock.
///
/// SIGTERM ends controller and node; the data plane and staged volumes stay, and starting again finds
/// them. --teardown takes everything down.
#[derive(Debug, Args)]
pub struct StandaloneArgs {
    /// Sockets and state.
    #[arg(long, env = "STRATA_DIR")]
    dir: PathBuf,
    #[command(flatten)]
    shares: ShareArgs,
    /// This node's name; by default the host's.
    #[arg(long, env = "STRATA_NODE_ID", value_name = "NAME")]
    node_id: Option<NodeId>,
    /// The driver's name.
    #[arg(long, env = "STRATA_DRIVER_NAME", default_value = DRIVER)]
    driver_name: String,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    max_volumes: MaxVolumesArg,
    #[command(flatten)]
    repositories: RepositoriesArg,
    #[command(flatten)]
    qemu_img: QemuImgArg,
    #[command(flatten)]
    qemu: QemuStorageDaemonArg,
    /// Where the agent listens: tcp://IP:PORT, with --agent-tls-dir; by default a socket in DIR.
    #[arg(long, env = "STRATA_AGENT_LISTEN", value_name = "ADDRESS")]
    agent_listen: Option<String>,
    /// A folder that `strata certs` made: the controller and the node talk over TLS with its certificates.
    #[arg(long, env = "STRATA_AGENT_TLS_DIR", value_name = "DIR")]
    agent_tls_dir: Option<PathBuf>,
    #[command(flatten)]
    traces: TraceArgs,
    /// Takes volumes out of pods, unstages them, ends the data plane and unmounts the shares.
    #[arg(long)]
    teardown: bool,
    /// Leaves a role that has died dead, instead of starting it again.
    #[arg(long, env = "STRATA_NO_RESTART")]
    no_restart: bool,
}

impl StandaloneArgs {
    /// Serves until told to stop, or tears down.
    pub fn run(self, log_format: LogFormat) -> Result<()> {
        self.shares.specs()?;
        self.policy.policy()?;
        self.repositories.get()?;
        self.max_volumes.number()?;
        private_dir(&self.dir)?;
        let layout = Layout::new(
            self.dir.canonicalize().with_context(|| format!("cannot resolve {}", self.dir.display()))?,
        );
        let _alone = alone(&layout)?;
        let node = match &self.node_id {
            Some(node) => node.clone(),
            None => host_name()?,
        };
        let runtime = runtime()?;
        // On this very thread: the kernel ends children with the thread that started them.
        let done = runtime.block_on(async {
            let mut children = Children::new(layout.clone(), self.command_lines(&layout, &node, log_format)?);
            if self.teardown {
                teardown::run(&layout, &mut children, node, self.shares.specs()?, &self.qemu_img.qemu_img)
                    .await
            } else {
                self.serve(&layout, children).await
            }
        });
        runtime.shutdown_timeout(STOP_LIMIT);
        done
    }

    async fn serve(&self, layout: &Layout, mut children: Children) -> Result<()> {
        let stop = stop_signal()?;
        tokio::pin!(stop);
        let started = tokio::select! {
            started = children.start() => Some(started),
            () = &mut stop => None,
        };
        match started {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                children.stop().await;
                return Err(error);
            }
            None => {
                children.stop().await;
                return Ok(());
            }
        }
        let listener = uds::bind(&layout.csi_socket())?;
        let router = front::router(channel(layout.controller_socket())?, channel(layout.node_socket())?);
        let stopping = tokio::sync::watch::Sender::new(false);
        let mut told = stopping.subscribe();
        let front = tokio::spawn(serve(router, listener, async move {
            let _ = told.wait_for(|stop| *stop).await;
        }));
        let mut stdout = std::io::stdout();
        writeln!(stdout, "ready: {}", layout.csi_socket().display()).context("cannot write to stdout")?;
        stdout.flush().context("cannot write to stdout")?;
        let outcome = tokio::select! {
            () = &mut stop => Ok(()),
            died = children.supervise(!self.no_restart) => died,
        };
        stopping.send_replace(true);
        children.stop().await;
        front.await.context("the front broke off")??;
        outcome
    }

    fn command_lines(
        &self,
        layout: &Layout,
        node: &NodeId,
        log_format: LogFormat,
    ) -> Result<children::CommandLines> {
        let path = |path: PathBuf| -> Result<String> {
            let text = path.into_os_string().into_string();
            text.map_err(|path| anyhow::anyhow!("{} is no UTF-8", path.display()))
        };
        let mut common = vec![format!("--driver-name={}", self.driver_name)];
        common.push(format!("--data-socket={}", path(layout.data_socket())?));
        common.push(format!("--qemu-img={}", path(self.qemu_img.qemu_img.clone())?));
        common.extend(self.shares.to_args());
        let verb = |verb: &str| {
            let mut line = vec![format!("--log-format={}", log_format.name()), verb.to_owned()];
            line.extend(self.traces.to_args());
            line
        };
        let mut data = verb("data");
        data.push(format!("--socket={}", path(layout.data_socket())?));
        data.push(format!("--dir={}", path(layout.data_dir())?));
        data.push(format!("--qemu-storage-daemon={}", path(self.qemu.qemu_storage_daemon.clone())?));
        let mut controller = verb("controller");
        controller.push(format!("--socket={}", path(layout.controller_socket())?));
        controller.extend(common.clone());
        controller.extend(self.policy.to_args());
        controller.extend(self.repositories.to_args());
        controller.extend(self.tls_args(CONTROLLER)?);
        let mut of_node = verb("node");
        of_node.push(format!("--socket={}", path(layout.node_socket())?));
        let agent_socket = format!("unix://{}", path(layout.agent_socket())?);
        let agent_listen = self.agent_listen.as_ref().unwrap_or(&agent_socket);
        of_node.push(format!("--agent-listen={agent_listen}"));
        of_node.extend(self.tls_args(NODE)?);
        of_node.push(format!("--dir={}", path(layout.node_dir())?));
        of_node.push(format!("--node-id={node}"));
        of_node.extend(self.max_volumes.to_args());
        of_node.extend(common);
        Ok(children::CommandLines { data, controller, node: of_node })
    }
}

impl StandaloneArgs {
    /// The certificates of a role.
    fn tls_args(&self, role: &str) -> Result<Option<String>> {
        let Some(dir) = &self.agent_tls_dir else { return Ok(None) };
        let dir = std::path::absolute(dir.join(role)).context("--agent-tls-dir")?;
        Ok(Some(format!("--agent-tls-dir={}", dir.display())))
    }
}

fn channel(socket: PathBuf) -> Result<Channel> {
    Ok(uds::channel(&socket)?)
}

/// One standalone on a folder, and no leftovers of one that was killed.
fn alone(layout: &Layout) -> Result<File> {
    let path = layout.lock_file();
    let lock = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("another `strata standalone` runs on {}; end it first", layout.dir().display());
    }
    // Its children were told to end when it died.
    let deadline = Instant::now() + HANDOVER;
    for socket in [layout.controller_socket(), layout.node_socket(), layout.agent_socket()] {
        while uds::answers(&socket) {
            if Instant::now() > deadline {
                bail!("{} still answers although its `strata standalone` is gone", socket.display());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(lock)
}

fn host_name() -> Result<NodeId> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read the host's name")?;
    name.trim().parse().context("the host's name cannot be this node's: choose one with --node-id")
}
