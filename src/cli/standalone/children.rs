//! The roles as child processes.

use super::layout::Layout;
use crate::cli::driver::DATA_LOCK;
use crate::rpc::csi::ProbeRequest;
use crate::rpc::csi::identity_client::IdentityClient;
use crate::rpc::{bounded, uds};
use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal, setsid};
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// A role mounts its shares before it serves; one that is slow does not hold it up beyond a minute.
const START_LIMIT: Duration = Duration::from_secs(120);
/// A little more than a role itself takes for what is under way.
const END_LIMIT: Duration = Duration::from_secs(25);
/// A role that dies this often within that time has a reason that starting it again does not mend.
const DEATHS: usize = 5;
const DEATHS_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The arguments of each role.
#[derive(Debug)]
pub(super) struct CommandLines {
    pub(super) data: Vec<String>,
    pub(super) controller: Vec<String>,
    pub(super) node: Vec<String>,
}

/// The running roles.
pub(super) struct Children {
    layout: Layout,
    lines: CommandLines,
    controller: Option<Child>,
    node: Option<Child>,
    /// Kept to be reaped; it outlives us otherwise.
    data: Option<Child>,
    deaths: VecDeque<Instant>,
}

impl Children {
    pub(super) fn new(layout: Layout, lines: CommandLines) -> Self {
        Children { layout, lines, controller: None, node: None, data: None, deaths: VecDeque::new() }
    }

    /// Starts what does not run, and waits until all of it answers.
    pub(super) async fn start(&mut self) -> Result<()> {
        self.start_data().await?;
        self.start_controller()?;
        self.start_node()?;
        answer(&self.layout.controller_socket(), "controller", self.controller.as_mut()).await?;
        answer(&self.layout.node_socket(), "node", self.node.as_mut()).await
    }

    /// The data plane; one that an earlier standalone left is taken as it is.
    pub(super) async fn start_data(&mut self) -> Result<()> {
        let socket = self.layout.data_socket();
        if uds::answers(&socket) {
            return Ok(());
        }
        let path = self.layout.data_log();
        let log = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let mut command = role(&self.lines.data)?;
        // Not ours: a terminal that closes must not take its standard error away.
        command.stderr(log.try_clone().context("cannot share the data plane's log")?).stdout(log);
        // SAFETY: setsid is async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            // A session of its own: it outlives us and hears no signal of our terminal.
            command.pre_exec(|| Ok(setsid().map(drop)?));
        }
        let mut child = command.spawn().context("cannot start the data plane")?;
        let deadline = Instant::now() + START_LIMIT;
        while !uds::answers(&socket) {
            if let Some(status) = child.try_wait().context("lost track of the data plane")? {
                bail!("the data plane ended while starting ({status}); its log is {}", path.display());
            }
            if Instant::now() > deadline {
                bail!("the data plane does not answer; its log is {}", path.display());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.data = Some(child);
        Ok(())
    }

    fn start_controller(&mut self) -> Result<()> {
        self.controller = Some(spawn_bound(&self.lines.controller).context("cannot start the controller")?);
        Ok(())
    }

    fn start_node(&mut self) -> Result<()> {
        self.node = Some(spawn_bound(&self.lines.node).context("cannot start the node")?);
        Ok(())
    }

    /// Watches the roles for ever, starting again what dies; an error when that does not help.
    pub(super) async fn supervise(&mut self, restart: bool) -> Result<()> {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if ended(&mut self.controller, "controller")? && restart {
                self.count_death()?;
                self.start_controller()?;
            }
            if ended(&mut self.node, "node")? && restart {
                self.count_death()?;
                self.start_node()?;
            }
            // Reaps it; whether it serves is the question, for it may be an earlier standalone's child.
            ended(&mut self.data, "data plane")?;
            if restart && !uds::answers(&self.layout.data_socket()) {
                self.count_death()?;
                tracing::warn!("the data plane does not answer; starting it");
                self.start_data().await?;
            }
        }
    }

    fn count_death(&mut self) -> Result<()> {
        let now = Instant::now();
        self.deaths.push_back(now);
        self.deaths.retain(|death| now.duration_since(*death) < DEATHS_WITHIN);
        if self.deaths.len() > DEATHS {
            bail!("roles have died {DEATHS} times within {} s: giving up", DEATHS_WITHIN.as_secs());
        }
        Ok(())
    }

    /// Ends controller and node; the data plane stays.
    pub(super) async fn stop(&mut self) {
        let mut ending: Vec<Child> =
            [self.controller.take(), self.node.take()].into_iter().flatten().collect();
        for child in &ending {
            let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
            if let Some(pid) = pid {
                // Ended already is as good; not reaped yet, so the number is still its own.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let deadline = tokio::time::Instant::now() + END_LIMIT;
        for child in &mut ending {
            if tokio::time::timeout_at(deadline, child.wait()).await.is_err() {
                tracing::warn!("a role did not end in time and is killed");
                if let Err(error) = child.kill().await {
                    tracing::error!(%error, "a role could not be killed");
                }
            }
        }
    }

    /// Waits until the data plane that we started has ended.
    pub(super) async fn await_data_end(&mut self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + END_LIMIT;
        if let Some(mut child) = self.data.take() {
            tokio::time::timeout_at(deadline, child.wait())
                .await
                .context("the data plane did not end in time")?
                .context("lost track of the data plane")?;
        }
        // It may be an earlier standalone's child, which only its lock tells of.
        let path = self.layout.data_dir().join(DATA_LOCK);
        let lock = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        while flock(&lock, FlockOperation::NonBlockingLockShared).is_err() {
            if tokio::time::Instant::now() > deadline {
                bail!("the data plane did not end in time");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

fn ended(child: &mut Option<Child>, role: &str) -> Result<bool> {
    let Some(running) = child else { return Ok(false) };
    let status = running.try_wait().with_context(|| format!("lost track of the {role}"))?;
    if let Some(status) = status {
        tracing::error!(%status, "the {role} has died");
        *child = None;
    }
    Ok(status.is_some())
}

fn role(line: &[String]) -> Result<Command> {
    // This very program, also after its file was replaced.
    let program: PathBuf = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(program);
    command.args(line).stdin(Stdio::null());
    Ok(command)
}

/// A role that ends with us, whatever ends us.
fn spawn_bound(line: &[String]) -> Result<Child> {
    let mut command = role(line)?;
    // Our standard output belongs to the line that says we are ready.
    command.stdout(Stdio::null()).process_group(0);
    // SAFETY: prctl is async-signal-safe, and nothing else happens between fork and exec.
    unsafe {
        // SIGTERM, not SIGKILL: what is under way may end, and a frozen filesystem is thawed.
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?));
    }
    command.spawn().context("cannot start a role")
}

/// Waits until a role answers a probe.
async fn answer(socket: &Path, name: &str, mut child: Option<&mut Child>) -> Result<()> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        if uds::answers(socket) {
            let mut client = IdentityClient::new(uds::channel(socket)?);
            let probe = bounded(Duration::from_secs(5), client.probe(ProbeRequest {})).await;
            if probe.is_ok() {
                return Ok(());
            }
        }
        if let Some(child) = child.as_mut()
            && let Some(status) = child.try_wait().with_context(|| format!("lost track of the {name}"))?
        {
            bail!("the {name} ended while starting ({status})");
        }
        if Instant::now() > deadline {
            bail!("the {name} does not answer on {}", socket.display());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
