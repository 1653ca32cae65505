//! Child processes with a deadline: whatever runs here ends, or is ended, in bounded time.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use snafu::{ResultExt, Snafu, ensure};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The map of a fragmented image is the largest text that a tool of ours prints: some tens of megabytes.
const STDOUT_MAX: usize = 128 << 20;
/// Of complaints, the end is what tells.
const STDERR_KEPT: usize = 16 << 10;
/// How long a killed child may take to vanish: one stuck in the kernel is left to a thread of its own.
const AFTER_KILL: Duration = Duration::from_secs(5);
/// How soon somebody who waits for a child can change their mind.
const TICK: Duration = Duration::from_millis(200);

/// Why a child process gave no usable result.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub))]
pub enum ExecError {
    /// The program is missing or may not be run.
    #[snafu(display("cannot start {program}: {source}"))]
    Start {
        /// As named in the command.
        program: String,
        /// From the kernel.
        source: io::Error,
    },
    /// Reading from it or waiting for it failed.
    #[snafu(display("lost track of {program}: {source}"))]
    Watch {
        /// As named in the command.
        program: String,
        /// From the kernel.
        source: io::Error,
    },
    /// It had to be killed.
    #[snafu(display("{program} did not end within {:.1} s and was killed; it said: {stderr}", limit.as_secs_f32()))]
    Timeout {
        /// As named in the command.
        program: String,
        /// The deadline.
        limit: Duration,
        /// The end of what it had complained about.
        stderr: String,
    },
    /// The caller wanted it no more.
    #[snafu(display("{program} was stopped"))]
    Stopped {
        /// As named in the command.
        program: String,
    },
    /// It printed more than anything sensible.
    #[snafu(display("{program} printed more than {STDOUT_MAX} bytes and was killed"))]
    TooMuch {
        /// As named in the command.
        program: String,
    },
    /// It ended, but not with exit code 0. Only [`run_ok`] says so.
    #[snafu(display("{program} failed ({status}): {stderr}"))]
    Failed {
        /// As named in the command.
        program: String,
        /// Exit code or signal.
        status: std::process::ExitStatus,
        /// The end of what it complained about.
        stderr: String,
    },
}

/// Runs a command to its end, whatever its exit code, and captures what it prints. At the deadline its
/// whole process group is killed. Standard input is empty, messages are in English.
pub fn run(command: Command, limit: Duration) -> Result<Output, ExecError> {
    run_watched(command, limit, &mut |_| true)
}

/// As [`run`]; some times a second `go_on` sees what was printed so far, and at its first "no" all is killed.
pub fn run_watched(
    mut command: Command,
    limit: Duration,
    go_on: &mut dyn FnMut(&[u8]) -> bool,
) -> Result<Output, ExecError> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).env("LC_ALL", "C");
    let mut child = command.spawn().context(StartSnafu { program: &program })?;
    let mut capture = Capture::default();
    match capture.follow(&mut child, Instant::now() + limit, go_on) {
        Ok(Followed::Ended) => {}
        Ok(Followed::Late) => {
            kill(child);
            return TimeoutSnafu { program, limit, stderr: tail(&capture.stderr) }.fail();
        }
        Ok(Followed::Unwanted) => {
            kill(child);
            return StoppedSnafu { program }.fail();
        }
        Ok(Followed::TooMuch) => {
            kill(child);
            return TooMuchSnafu { program }.fail();
        }
        Err(source) => {
            kill(child);
            return Err(source).context(WatchSnafu { program });
        }
    }
    let status = child.wait().context(WatchSnafu { program: &program })?;
    Ok(Output { status, stdout: capture.stdout, stderr: capture.stderr })
}

/// As [`run`], and any exit code but 0 is an error that carries what the program complained about.
pub fn run_ok(command: Command, limit: Duration) -> Result<Output, ExecError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = run(command, limit)?;
    succeeded(&program, &output)?;
    Ok(output)
}

/// An error that carries what the program complained about, unless it ended with exit code 0.
pub fn succeeded(program: &str, output: &Output) -> Result<(), ExecError> {
    ensure!(
        output.status.success(),
        FailedSnafu { program, status: output.status, stderr: tail(&output.stderr) }
    );
    Ok(())
}

enum Followed {
    Ended,
    Late,
    Unwanted,
    TooMuch,
}

#[derive(Default)]
struct Capture {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Capture {
    /// Reads both pipes until the child itself has ended. Not until the pipes close: a daemon that it
    /// leaves behind may hold them for ever.
    fn follow(
        &mut self,
        child: &mut Child,
        deadline: Instant,
        go_on: &mut dyn FnMut(&[u8]) -> bool,
    ) -> io::Result<Followed> {
        let mut stdout: Option<OwnedFd> = child.stdout.take().map(Into::into);
        let mut stderr: Option<OwnedFd> = child.stderr.take().map(Into::into);
        for pipe in [&stdout, &stderr].into_iter().flatten() {
            fcntl_setfl(pipe, fcntl_getfl(pipe)? | OFlags::NONBLOCK)?;
        }
        let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = wait_for_any(&pidfd, [&stdout, &stderr], left.min(TICK))?;
            drain(&mut stdout, &mut self.stdout)?;
            drain(&mut stderr, &mut self.stderr)?;
            let surplus = self.stderr.len().saturating_sub(STDERR_KEPT);
            self.stderr.drain(..surplus);
            if self.stdout.len() > STDOUT_MAX {
                return Ok(Followed::TooMuch);
            }
            if ended {
                return Ok(Followed::Ended);
            }
            if left.is_zero() {
                return Ok(Followed::Late);
            }
            if !go_on(&self.stdout) {
                return Ok(Followed::Unwanted);
            }
        }
    }
}

/// Waits until the process has ended (true), a pipe has something to say, or time is up.
fn wait_for_any(pidfd: &OwnedFd, pipes: [&Option<OwnedFd>; 2], limit: Duration) -> io::Result<bool> {
    let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
    fds.extend(pipes.into_iter().flatten().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
    let limit = Timespec { tv_sec: limit.as_secs().min(86_400) as i64, tv_nsec: limit.subsec_nanos().into() };
    match poll(&mut fds, Some(&limit)) {
        Ok(_) => Ok(!fds[0].revents().is_empty()),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Reads what is there, a bounded amount at a time; closes the pipe at its end.
fn drain(pipe: &mut Option<OwnedFd>, into: &mut Vec<u8>) -> io::Result<()> {
    let Some(fd) = pipe else { return Ok(()) };
    let mut buffer = [0u8; 64 << 10];
    loop {
        match rustix::io::read(fd.as_fd(), &mut buffer) {
            Ok(0) => break,
            Ok(n) => into.extend_from_slice(&buffer[..n]),
            Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if into.len() > STDOUT_MAX {
            return Ok(());
        }
    }
    *pipe = None;
    Ok(())
}

/// Kills the child's group and reaps the child, within bounds.
fn kill(mut child: Child) {
    // Gone already is as good.
    let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
    let deadline = Instant::now() + AFTER_KILL;
    while Instant::now() < deadline {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // Stuck in the kernel: whoever called must not be, and the zombie still wants reaping one day.
    std::thread::spawn(move || child.wait());
}

/// The end of a program's complaints as text.
fn tail(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let text = text.trim();
    if text.is_empty() { "nothing".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_streams_and_the_exit_code_are_captured() {
        let output = run(shell("echo out; echo err >&2; exit 3"), Duration::from_secs(10)).unwrap();
        assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
        assert_eq!(output.status.code(), Some(3));
    }

    #[test]
    fn a_failure_carries_the_complaint() {
        let error = run_ok(shell("echo no such thing >&2; exit 1"), Duration::from_secs(10)).unwrap_err();
        assert!(error.to_string().contains("no such thing"), "{error}");
    }

    #[test]
    fn more_than_a_pipe_holds_is_read_whole() {
        let output = run(shell("head -c 3000000 /dev/zero"), Duration::from_secs(20)).unwrap();
        assert_eq!(output.stdout.len(), 3_000_000);
    }

    #[test]
    fn at_the_deadline_grandchildren_die_too() {
        let start = Instant::now();
        let marker = tempfile::NamedTempFile::new().unwrap();
        let script = format!("(sleep 2; echo alive > {}) & sleep 60", marker.path().display());
        let error = run(shell(&script), Duration::from_millis(300)).unwrap_err();
        assert!(matches!(error, ExecError::Timeout { .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(2));
        std::thread::sleep(Duration::from_millis(2500));
        assert_eq!(std::fs::read(marker.path()).unwrap(), b"");
    }

    #[test]
    fn a_daemon_left_behind_does_not_hold_the_caller() {
        let start = Instant::now();
        let output = run(shell("sleep 3 & echo started"), Duration::from_secs(60)).unwrap();
        assert_eq!(output.stdout, b"started\n");
        assert!(start.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn who_waits_sees_what_is_printed_and_can_stop_it() {
        let start = Instant::now();
        let mut seen = Vec::new();
        let mut go_on = |printed: &[u8]| {
            seen = printed.to_vec();
            printed.is_empty()
        };
        let error =
            run_watched(shell("echo half; sleep 60"), Duration::from_secs(60), &mut go_on).unwrap_err();
        assert!(matches!(error, ExecError::Stopped { .. }), "{error}");
        assert_eq!(seen, b"half\n");
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(Command::new("no-such-program"), Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("no-such-program"), "{error}");
    }
}
