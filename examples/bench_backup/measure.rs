//! What a child process costs, as the kernel counts it.

use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Of one client, without the servers that it talks to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Seconds of user and system time, of the process and of those that it has waited for.
    pub cpu: f64,
    /// Seconds.
    pub wall: f64,
    /// Peak resident set, in bytes.
    pub memory: u64,
}

/// Runs a program to its end; answers its cost and what it printed. `log` takes its complaints.
pub fn run(command: &mut Command, log: &Path) -> Result<(Cost, String)> {
    let program = command.get_program().to_owned();
    let complaints = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(complaints);
    let begun = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot run {}", program.display()))?;
    let mut said = String::new();
    child.stdout.take().context("its output is piped")?.read_to_string(&mut said)?;
    let (status, usage) = wait(child.id())?;
    let wall = begun.elapsed().as_secs_f64();
    if !(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0) {
        let complaints = std::fs::read_to_string(log).unwrap_or_default();
        ensure!(false, "{} failed ({status:#x}): {said} {complaints}", program.display());
    }
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    let cpu = seconds(usage.ru_utime) + seconds(usage.ru_stime);
    // In KiB on Linux.
    Ok((Cost { cpu, wall, memory: usage.ru_maxrss as u64 * 1024 }, said))
}

/// The standard library waits, but does not tell what it cost.
fn wait(process: u32) -> Result<(i32, libc::rusage)> {
    let mut status = 0;
    // SAFETY: all bytes zero are a valid rusage: it has nothing but integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are of live variables of the types that wait4 fills.
        let ended = unsafe { libc::wait4(process as i32, &mut status, 0, &mut usage) };
        if ended == process as i32 {
            return Ok((status, usage));
        }
        let error = std::io::Error::last_os_error();
        ensure!(error.kind() == std::io::ErrorKind::Interrupted, "cannot wait for a child: {error}");
    }
}

/// Bytes of all files below a folder, and of those whose names end like this.
pub fn stored(folder: &Path, ends: &[&str]) -> Result<(u64, u64)> {
    let (mut all, mut ending) = (0, 0);
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let (more, more_ending) = stored(&entry.path(), ends)?;
            (all, ending) = (all + more, ending + more_ending);
            continue;
        }
        let bytes = entry.metadata()?.len();
        all += bytes;
        if ends.iter().any(|end| entry.file_name().to_string_lossy().ends_with(end)) {
            ending += bytes;
        }
    }
    Ok((all, ending))
}
