//! Storage daemons as processes of this machine.
//!
//! A daemon outlives whoever started it, so nothing about it is kept in memory only: its folder holds
//! its socket and the pid file that it writes itself, and a process counts as that daemon only while
//! its working directory is that folder. Process number and start time together name the instance.

use super::command;
use super::daemon::{Daemon, DaemonError, DaemonHost, DaemonName, ProcessSnafu};
use super::qmp::Client;
use super::version::{self, Version};
use crate::host::direct_io;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use snafu::{OptionExt, ensure};
use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

const SOCKET: &str = "qmp.sock";
const PID_FILE: &str = "pid";
const LOG: &str = "log";
/// Seconds; its last change is when the lease was renewed.
const LEASE: &str = "lease";

/// From fork to the first answer: milliseconds, but a loaded machine may page the program in.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Quitting flushes what is cached to the share.
const QUIT_LIMIT: Duration = Duration::from_secs(60);
/// After SIGTERM, which flushes as quit does, and after SIGKILL.
const SIGNAL_LIMIT: Duration = Duration::from_secs(15);

/// Starts, finds and ends daemons below one folder.
#[derive(Debug)]
pub struct LocalDaemons {
    program: PathBuf,
    dir: PathBuf,
    sound: OnceLock<Version>,
    /// One start or stop at a time for a name; one that hangs must not hold up the others.
    turns: Mutex<HashMap<DaemonName, Arc<Mutex<()>>>>,
    /// Nothing is started any more. Held by each start to its end.
    closed: RwLock<bool>,
}

fn failed(name: &DaemonName, what: &str, error: impl std::fmt::Display) -> DaemonError {
    ProcessSnafu { name: name.clone(), reason: format!("{what}: {error}") }.build()
}

impl LocalDaemons {
    /// `program` is qemu-storage-daemon, by path or by name; `dir` holds one folder per daemon.
    pub fn new(program: PathBuf, dir: PathBuf) -> Self {
        LocalDaemons {
            program,
            dir,
            sound: OnceLock::new(),
            turns: Mutex::default(),
            closed: RwLock::default(),
        }
    }

    /// From now on no daemon is started: all of them are about to end. Waits until those that are being started are listed,
    /// or are not there.
    pub fn start_no_more(&self) {
        *self.closed.write().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// They do not end, after all.
    pub fn start_again(&self) {
        *self.closed.write().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// The program's version; an error unless it is known to be sound.
    pub fn version(&self) -> Result<&Version, DaemonError> {
        if let Some(version) = self.sound.get() {
            return Ok(version);
        }
        let version = version::require_sound(&self.program)?;
        Ok(self.sound.get_or_init(|| version))
    }

    /// Every daemon that runs.
    pub fn list(&self) -> Result<Vec<Daemon>, DaemonError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                let reason = format!("failed to list {}: {error}", self.dir.display());
                return Err(DaemonError::Unreachable { reason });
            }
        };
        let mut daemons = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name().to_str().and_then(|name| name.parse::<DaemonName>().ok());
            if let Some(daemon) = name.and_then(|name| self.running(&name)) {
                daemons.push(daemon);
            }
        }
        daemons.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(daemons)
    }

    /// The bytes of memory that each running daemon really has.
    pub fn memory(&self) -> Result<Vec<(Daemon, u64)>, DaemonError> {
        let page = rustix::param::page_size() as u64;
        let resident = |daemon: &Daemon| {
            // Of this very instance, or of none: one that has just ended is left out.
            let pages = fs::read_to_string(format!("/proc/{}/statm", daemon.pid)).ok()?;
            let pages: u64 = pages.split_ascii_whitespace().nth(1)?.parse().ok()?;
            self.running(&daemon.name).filter(|now| now.instance == daemon.instance)?;
            Some(pages * page)
        };
        let all = self.list()?.into_iter();
        Ok(all.filter_map(|daemon| resident(&daemon).map(|bytes| (daemon, bytes))).collect())
    }

    /// Ends the daemons whose lease has run out. To be called every few seconds by who owns the folder.
    pub fn end_expired(&self) -> Result<(), DaemonError> {
        for daemon in self.list()? {
            if self.expired(&daemon.name) {
                tracing::warn!(daemon = %daemon.name, "its owner has not asked for it in time: it is ended");
                self.stop(&daemon.name)?;
            }
        }
        Ok(())
    }

    fn expired(&self, name: &DaemonName) -> bool {
        let path = self.folder(name).join(LEASE);
        let lease = || {
            let seconds = fs::read_to_string(&path).ok()?.trim().parse().ok()?;
            let renewed = fs::metadata(&path).ok()?.modified().ok()?;
            // A clock that was set back says nothing.
            Some(renewed.elapsed().unwrap_or_default() > Duration::from_secs(seconds))
        };
        lease().unwrap_or(false)
    }

    fn turn(&self, name: &DaemonName) -> Arc<Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody holds or waits for have no other owner than the table.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(name.clone()).or_default().clone()
    }

    fn folder(&self, name: &DaemonName) -> PathBuf {
        self.dir.join(name.as_str())
    }

    /// The process of that name, by what the kernel says about it.
    fn running(&self, name: &DaemonName) -> Option<Daemon> {
        let folder = self.folder(name);
        let pid: u32 = fs::read_to_string(folder.join(PID_FILE)).ok()?.trim().parse().ok()?;
        let instance = instance(pid, &folder)?;
        Some(Daemon { name: name.clone(), pid, qmp_socket: folder.join(SOCKET), instance })
    }

    fn prepare(&self, name: &DaemonName) -> io::Result<(PathBuf, File)> {
        let folder = self.folder(name);
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // What a dead one left would be taken for the new one's.
        for stale in [PID_FILE, SOCKET, LEASE] {
            match fs::remove_file(folder.join(stale)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let log = File::options().create(true).append(true).mode(0o600).open(folder.join(LOG))?;
        Ok((folder, log))
    }

    /// The answer tells when, and how, the new process ended.
    fn spawn(&self, name: &DaemonName) -> Result<Receiver<ExitStatus>, DaemonError> {
        let (folder, log) =
            self.prepare(name).map_err(|error| failed(name, "failed to make its folder", error))?;
        let errors = log.try_clone().map_err(|error| failed(name, "failed to open its log", error))?;
        let mut command = Command::new(&self.program);
        // Relative names: no comma or length in our own folder's path can spoil an option.
        command
            .args(["--chardev", "socket,id=qmp,path=qmp.sock,server=on,wait=off"])
            .args(["--monitor", "chardev=qmp"])
            .args(["--pidfile", PID_FILE])
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        // SAFETY: setsid is async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            // A session of its own: no signal to our terminal or process group reaches it.
            command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?));
        }
        let mut child = command
            .spawn()
            .map_err(|error| failed(name, &format!("failed to start {}", self.program.display()), error))?;
        // Reaps it whenever it ends, so that it never looks alive as a zombie.
        let name = name.clone();
        let (ended, on_end) = channel();
        std::thread::spawn(move || {
            if let Ok(status) = child.wait() {
                tracing::info!(daemon = %name, %status, "storage daemon ended");
                // Nobody listens any more once it has come up.
                let _ = ended.send(status);
            }
        });
        Ok(on_end)
    }

    /// Waits until the new process answers, or has visibly failed.
    fn await_ready(&self, name: &DaemonName, ended: &Receiver<ExitStatus>) -> Result<Daemon, DaemonError> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(daemon) = self.running(name)
                && Client::connect(&daemon.qmp_socket, Duration::from_secs(5)).is_ok()
            {
                return Ok(daemon);
            }
            let state = match ended.try_recv() {
                Ok(status) => Some(format!("it ended while starting ({status})")),
                Err(_) if Instant::now() >= deadline => Some("it did not come up in time".to_owned()),
                Err(_) => None,
            };
            if let Some(state) = state {
                let reason = format!("{state}: {}", tail(&self.folder(name).join(LOG)));
                return ProcessSnafu { name: name.clone(), reason }.fail();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn end(&self, daemon: &Daemon) -> Result<(), DaemonError> {
        let name = &daemon.name;
        let process = i32::try_from(daemon.pid).ok().and_then(Pid::from_raw);
        let process = process
            .with_context(|| ProcessSnafu { name: name.clone(), reason: "it has no process number" })?;
        let Ok(handle) = pidfd_open(process, PidfdFlags::empty()) else { return Ok(()) };
        // The handle is of this very instance only if the number had not passed on before it was opened.
        if instance(daemon.pid, &self.folder(name)).as_deref() != Some(&daemon.instance) {
            return Ok(());
        }
        let asked = Client::connect(&daemon.qmp_socket, Duration::from_secs(10)).is_ok_and(|mut client| {
            // Losing the connection while it ends is as good an answer as any.
            let _ = command::quit(&mut client);
            true
        });
        if asked && ended_within(&handle, QUIT_LIMIT) {
            return Ok(());
        }
        for signal in [Signal::TERM, Signal::KILL] {
            tracing::warn!(daemon = %name, ?signal, "storage daemon did not quit when asked");
            // Fails only when it has ended meanwhile.
            let _ = pidfd_send_signal(&handle, signal);
            if ended_within(&handle, SIGNAL_LIMIT) {
                return Ok(());
            }
        }
        let reason = "it does not end even when killed: it hangs in the kernel, on a share that is away";
        ProcessSnafu { name: name.clone(), reason }.fail()
    }
}

impl DaemonHost for LocalDaemons {
    fn start(&self, name: &DaemonName) -> Result<Daemon, DaemonError> {
        let turn = self.turn(name);
        let _one = turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(daemon) = self.running(name) {
            return Ok(daemon);
        }
        let closed = self.closed.read().unwrap_or_else(PoisonError::into_inner);
        let reason = "this node's data plane is about to end: it starts nothing more";
        ensure!(!*closed, ProcessSnafu { name: name.clone(), reason });
        self.version()?;
        if let Some(reason) = direct_io::no_room() {
            tracing::warn!(daemon = %name, reason, "a volume will write more slowly: no room for asynchronous I/O");
        }
        let ended = self.spawn(name)?;
        self.await_ready(name, &ended)
    }

    fn keep(&self, name: &DaemonName, lease: Duration) -> Result<(), DaemonError> {
        let turn = self.turn(name);
        let _one = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = "it does not run";
        self.running(name).with_context(|| ProcessSnafu { name: name.clone(), reason })?;
        fs::write(self.folder(name).join(LEASE), lease.as_secs().to_string())
            .map_err(|error| failed(name, "failed to note its lease", error))
    }

    fn stop(&self, name: &DaemonName) -> Result<(), DaemonError> {
        let turn = self.turn(name);
        let _one = turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(daemon) = self.running(name) {
            self.end(&daemon)?;
        }
        match fs::remove_dir_all(self.folder(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed(name, "failed to remove its folder", error))
            }
            _ => Ok(()),
        }
    }

    fn find(&self, name: &DaemonName) -> Result<Option<Daemon>, DaemonError> {
        Ok(self.running(name))
    }
}

/// Names the process for as long as it runs in `folder`; None when it is over, or another's.
fn instance(pid: u32, folder: &Path) -> Option<String> {
    let process = Path::new("/proc").join(pid.to_string());
    let (cwd, folder) = (fs::metadata(process.join("cwd")).ok()?, fs::metadata(folder).ok()?);
    if (cwd.dev(), cwd.ino()) != (folder.dev(), folder.ino()) {
        return None;
    }
    // A dead process that nobody has reaped yet has neither an address space nor a command line.
    let cmdline = fs::read(process.join("cmdline")).ok()?;
    if !cmdline.split(|&byte| byte == 0).any(|argument| argument == b"chardev=qmp") {
        return None;
    }
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    // Field 22, counted from behind the name, which may hold blanks and parentheses.
    let started = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?;
    Some(format!("{pid}-{started}"))
}

fn ended_within(process: &OwnedFd, limit: Duration) -> bool {
    let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
    matches!(poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit)), Ok(ready) if ready > 0)
}

/// The end of a log, for an error message.
fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    if lines.is_empty() {
        "its log is empty".to_owned()
    } else {
        lines.into_iter().rev().collect::<Vec<_>>().join("; ")
    }
}
