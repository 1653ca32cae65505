//! One container of a pod, as a process that is started again when it ends.

use anyhow::{Context, Result, bail};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/hosts/container.sh");
/// As kubelet waits before the first restart, about.
const RESTART: Duration = Duration::from_secs(3);

/// A mount as the container sees it.
#[derive(Clone, Debug)]
pub struct Mount {
    pub from: PathBuf,
    pub at: String,
    pub propagation: String,
    pub readonly: bool,
}

/// All that a container is started from.
#[derive(Clone, Debug)]
pub struct Spec {
    pub name: String,
    pub hostname: String,
    pub command: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    /// As container.sh takes them.
    pub rights: String,
    /// A network namespace; none: the node's.
    pub network: Option<String>,
    pub folder: PathBuf,
}

/// Killed when dropped.
pub struct Container {
    name: String,
    shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
    log: PathBuf,
}

#[derive(Default)]
struct Shared {
    stopping: AtomicBool,
    starts: AtomicU32,
    /// The process that made the namespaces; they go with it.
    outer: Mutex<Option<u32>>,
}

impl Container {
    pub fn start(spec: Spec) -> Result<Container> {
        fs::create_dir_all(spec.folder.join("root"))?;
        let line = |mount: &Mount| {
            let mode = if mount.readonly { "ro" } else { "rw" };
            format!("{}\t{}\t{}\t{mode}\n", mount.from.display(), mount.at, mount.propagation)
        };
        fs::write(spec.folder.join("mounts"), spec.mounts.iter().map(line).collect::<String>())?;
        let (log, name) = (spec.folder.join("log"), spec.name.clone());
        let shared = Arc::new(Shared::default());
        let for_keeper = Arc::clone(&shared);
        let keeper = std::thread::spawn(move || keep(&spec, &for_keeper));
        Ok(Container { name, shared, keeper: Some(keeper), log })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its first process, as this machine counts.
    pub fn pid(&self) -> Option<u32> {
        first_inside((*self.shared.outer.lock().unwrap())?)
    }

    /// How often it has ended by itself.
    pub fn restarts(&self) -> u32 {
        self.shared.starts.load(Ordering::SeqCst).saturating_sub(1)
    }

    /// The end of what it has written.
    pub fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// SIGTERM, and no restart.
    pub fn tell_to_end(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Some(pid) = self.pid() {
            signal(pid, libc::SIGTERM);
        }
    }

    /// Waits until it has ended.
    pub fn ended(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while self.keeper.as_ref().is_some_and(|keeper| !keeper.is_finished()) {
            if Instant::now() > deadline {
                bail!("container {} did not end within {limit:?}:\n{}", self.name, self.last_words());
            }
            // Told before it could listen, perhaps.
            self.tell_to_end();
            std::thread::sleep(Duration::from_millis(200));
        }
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
        Ok(())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Some(outer) = *self.shared.outer.lock().unwrap() {
            signal(outer, libc::SIGKILL);
        }
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

fn keep(spec: &Spec, shared: &Shared) {
    while !shared.stopping.load(Ordering::SeqCst) {
        let ended = once(spec, shared);
        if !shared.stopping.load(Ordering::SeqCst) {
            let mut log = open_log(&spec.folder.join("log"));
            let _ = writeln!(log, "== ended by itself: {ended:?}");
            std::thread::sleep(RESTART);
        }
    }
}

/// Runs it until it ends.
fn once(spec: &Spec, shared: &Shared) -> Result<std::process::ExitStatus> {
    let mut child = {
        // Whoever stops it looks for it here.
        let mut outer = shared.outer.lock().unwrap();
        let child = command(spec).spawn().context("unshare does not start")?;
        *outer = Some(child.id());
        shared.starts.fetch_add(1, Ordering::SeqCst);
        child
    };
    let ended = child.wait();
    *shared.outer.lock().unwrap() = None;
    Ok(ended?)
}

fn command(spec: &Spec) -> Command {
    let mut words: Vec<String> = Vec::new();
    if let Some(network) = &spec.network {
        words.extend(["nsenter".to_owned(), format!("--net=/run/netns/{network}"), "--".to_owned()]);
    }
    let unshare = [
        "unshare",
        "--mount",
        "--uts",
        "--pid",
        "--fork",
        "--kill-child",
        "--propagation",
        "unchanged",
        "--",
        SCRIPT,
    ];
    words.extend(unshare.map(str::to_owned));
    words.push(spec.hostname.clone());
    words.push(spec.folder.join("root").display().to_string());
    words.push(spec.folder.join("mounts").display().to_string());
    words.push(spec.rights.clone());
    words.extend(spec.command.clone());
    let out = open_log(&spec.folder.join("log"));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env_clear().envs(spec.environment.iter().cloned());
    command.stdin(Stdio::null()).stdout(out.try_clone().expect("a descriptor")).stderr(out);
    command
}

fn open_log(path: &Path) -> fs::File {
    fs::File::options().create(true).append(true).open(path).expect("a log file")
}

/// The first process of the namespace that a process has made.
fn first_inside(outer: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Sends a signal to a process that was started here; gone already is as good.
fn signal(pid: u32, signal: i32) {
    // SAFETY: kill touches no memory of ours.
    unsafe { libc::kill(pid as i32, signal) };
}
