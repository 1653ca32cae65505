//! GlusterFS volumes mounted so that every node sees at once what another one wrote.

use super::options::{MountOption, mount_words};
use crate::host::deadline::{TimedOut, within};
use crate::host::exec::{self, ExecError};
use crate::host::fsio::FsError;
use crate::host::mount::LET_GO;
use procfs::process::Process;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount as detach};
use rustix::process::{Pid, Signal, kill_process};
use snafu::{ResultExt, Snafu, ensure};
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// GlusterFS gives up on a silent server after its own 42 s; after that there is nothing to wait for.
const MOUNT_LIMIT: Duration = Duration::from_secs(60);
/// How long a mount may take to say whether it lives. Longer than a common network.ping-timeout of 20 s.
const LOOK_LIMIT: Duration = Duration::from_secs(25);
/// Between tries to unmount.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How much of a log the error message quotes.
const LOG_LINES: usize = 3;
const LOG_READ_MAX: u64 = 256 << 10;

/// Why a volume is not mounted, or still is.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
pub enum MountError {
    /// mount(8) failed or hung.
    #[snafu(display("cannot mount {what} at {}: {source}; its log says: {log}", at.display()))]
    Mount {
        /// HOST:/VOLUME.
        what: String,
        /// Where.
        at: PathBuf,
        /// What mount(8) said.
        #[snafu(source(from(ExecError, Box::new)))]
        source: Box<ExecError>,
        /// The last errors in GlusterFS's own log.
        log: String,
    },
    /// mount(8) said yes and nothing is there.
    #[snafu(display("mounting {what} at {} reported success, but nothing is mounted there", at.display()))]
    Vanished {
        /// HOST:/VOLUME.
        what: String,
        /// Where.
        at: PathBuf,
    },
    /// Another filesystem is mounted there.
    #[snafu(display("{} is the mount point of {found}, not of {what}: unmount that first", at.display()))]
    Occupied {
        /// HOST:/VOLUME.
        what: String,
        /// Where.
        at: PathBuf,
        /// What is there.
        found: String,
    },
    /// Mounted, and its servers do not answer.
    #[snafu(display("{what} is mounted but does not answer ({source}): check its servers"))]
    Silent {
        /// HOST:/VOLUME.
        what: String,
        /// The bound.
        source: TimedOut,
    },
    /// Mounted, and its servers cannot be reached.
    #[snafu(display("{what} is mounted, but its servers are away: check them and the network"))]
    Away {
        /// HOST:/VOLUME.
        what: String,
    },
    /// Somebody still uses it, or the kernel refused.
    #[snafu(display("cannot unmount {}: {source}", at.display()))]
    Unmount {
        /// Where.
        at: PathBuf,
        /// From the kernel.
        source: io::Error,
    },
    /// The kernel's list of mounts is unreadable.
    #[snafu(display("cannot read the list of mounts: {source}"))]
    List {
        /// From procfs.
        source: procfs::ProcError,
    },
    /// The mount point or the log's folder.
    #[snafu(display("{source}"))]
    MountPoint {
        /// The step that failed.
        source: FsError,
    },
}

/// Whether [`mount`] did something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mounted {
    /// Just now.
    Now,
    /// It was there, and answers.
    Before,
}

impl MountError {
    fn is_busy(&self) -> bool {
        matches!(self, MountError::Unmount { source, .. } if source.kind() == io::ErrorKind::ResourceBusy)
    }
}

/// Whether a mount that is under way is still wanted.
pub type StillWanted<'a> = &'a dyn Fn() -> bool;

/// A volume to be mounted.
pub(super) struct Volume<'a> {
    pub host: &'a str,
    /// The volume, and a folder in it if there is one.
    pub path: &'a str,
    pub options: &'a [MountOption],
    /// GlusterFS's own log of this mount.
    pub log: &'a Path,
    pub wanted: StillWanted<'a>,
}

impl Volume<'_> {
    /// The name of the volume itself.
    pub fn name(&self) -> &str {
        self.path.split('/').find(|part| !part.is_empty()).unwrap_or(self.path)
    }

    fn source(&self) -> String {
        format!("{}:/{}", self.host, self.path)
    }

    /// Mounts it there with coherent options. Mounted already is success; a mount whose client died is
    /// replaced.
    pub fn mount(&self, at: &Path) -> Result<Mounted, MountError> {
        let what = self.source();
        if let Some(found) = mounted_at(at)? {
            ensure!(found == what, OccupiedSnafu { what, at, found });
            if answers(&what, at)? {
                return Ok(Mounted::Before);
            }
            tracing::warn!(share = what, at = %at.display(), "the client of this mount died: mounting again");
            lazily_unmount(at)?;
        }
        fs::create_dir_all(at)
            .map_err(|source| FsError { action: "make the mount point", path: at.to_owned(), source })
            .context(MountPointSnafu)?;
        let log_before = fs::metadata(self.log).map_or(0, |meta| meta.len());
        let mut command = Command::new("mount");
        let words = format!(
            "{},log-file={}{}",
            mount_words(self.name(), self.options),
            self.log.display(),
            if self.options.iter().any(MountOption::is_log_level) { "" } else { ",log-level=WARNING" }
        );
        command.args(["-t", "glusterfs", "-o", &words, &what]).arg(at);
        let run = exec::run_watched(command, MOUNT_LIMIT, &mut |_| (self.wanted)());
        if let Err(source) = run.and_then(|output| exec::succeeded("mount", &output)) {
            // The client may have become a daemon before mount(8) was killed, and would mount later.
            end_clients(at);
            let _ = lazily_unmount(at);
            return Err(source).context(MountSnafu { what, at, log: last_errors(self.log, log_before) });
        }
        ensure!(mounted_at(at)?.is_some(), VanishedSnafu { what, at });
        Ok(Mounted::Now)
    }
}

/// Unmounts what is there; nothing there is success. Refused by the kernel while files are open, if it is for longer than a
/// child that is being started holds all of ours.
pub(super) fn unmount(at: &Path) -> Result<(), MountError> {
    let deadline = Instant::now() + LET_GO;
    loop {
        match detach_with(at, UnmountFlags::NOFOLLOW) {
            Err(error) if error.is_busy() && Instant::now() < deadline => thread::sleep(LOOK_AGAIN),
            done => return done,
        }
    }
}

/// Ends a mount that nobody else uses, whatever hangs on it: its connection is broken off, so that every call
/// that waits for it returns with an error.
pub(super) fn abandon(at: &Path) {
    // MNT_FORCE aborts a FUSE connection, also when it then answers EBUSY (umount(2)).
    let _ = detach(at, UnmountFlags::NOFOLLOW | UnmountFlags::FORCE);
    if let Err(error) = lazily_unmount(at) {
        tracing::warn!(%error, "a mount stays");
    }
}

/// Unmounts what was mounted just now and is not to be used: also where something, such as a child that is being started,
/// holds a file of it for a moment.
pub(super) fn discard(at: &Path) {
    if let Err(error) = unmount(at).or_else(|_| lazily_unmount(at)) {
        tracing::warn!(%error, "a mount stays");
    }
}

fn lazily_unmount(at: &Path) -> Result<(), MountError> {
    detach_with(at, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
}

fn detach_with(at: &Path, flags: UnmountFlags) -> Result<(), MountError> {
    match detach(at, flags) {
        // EINVAL: no mount point. That is what was wanted.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(errno) => Err(io::Error::from(errno)).context(UnmountSnafu { at }),
    }
}

/// What is mounted there, the uppermost if several are. Does not touch the mount itself.
fn mounted_at(at: &Path) -> Result<Option<String>, MountError> {
    let mounts = Process::myself().and_then(|me| me.mountinfo()).context(ListSnafu)?;
    let there = mounts.into_iter().rfind(|mount| mount.mount_point == at);
    Ok(there.map(|mount| match (mount.fs_type.as_str(), mount.mount_source) {
        ("fuse.glusterfs", Some(source)) => source,
        (kind, source) => format!("{} ({kind})", source.unwrap_or_default()),
    }))
}

/// Whether the mount answers. False: its client died. One whose servers are away says the same of itself (ENOTCONN),
/// but it is the same client when they come back, and daemons have files of it open: that is an error.
fn answers(what: &str, at: &Path) -> Result<bool, MountError> {
    let path = at.to_owned();
    let looked = within(LOOK_LIMIT, format!("looking at {}", at.display()), move || fs::metadata(path))
        .context(SilentSnafu { what })?;
    match looked {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => {
            ensure!(clients(at)?.next().is_none(), AwaySnafu { what });
            Ok(false)
        }
        _ => Ok(true),
    }
}

/// The processes that serve a mount point: they name it last on their command line.
fn clients(at: &Path) -> Result<impl Iterator<Item = Process>, MountError> {
    let serves = move |words: Vec<String>| {
        let program = words.first().and_then(|word| Path::new(word).file_name());
        program.is_some_and(|name| name == "glusterfs")
            && words.last().is_some_and(|last| Path::new(last) == at)
    };
    // One that ends meanwhile is none.
    let processes = procfs::process::all_processes().context(ListSnafu)?.flatten();
    Ok(processes.filter(move |process| process.cmdline().is_ok_and(serves)))
}

/// Of a mount that came to nothing.
fn end_clients(at: &Path) {
    let found = clients(at).map(Iterator::collect::<Vec<_>>).unwrap_or_default();
    for pid in found.iter().filter_map(|client| Pid::from_raw(client.pid)) {
        // Gone already is as good.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// The last errors of a log since that offset.
fn last_errors(log: &Path, since: u64) -> String {
    let mut text = Vec::new();
    let read = fs::File::open(log)
        .and_then(|mut file| file.seek(SeekFrom::Start(since)).map(|_| file))
        .and_then(|file| file.take(LOG_READ_MAX).read_to_end(&mut text));
    if let Err(error) = read {
        return format!("nothing ({}: {error})", log.display());
    }
    let text = String::from_utf8_lossy(&text);
    let errors: Vec<&str> = text.lines().filter(|line| line.contains("] E [")).collect();
    let lines = if errors.is_empty() { text.lines().collect() } else { errors };
    let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
    if last.is_empty() { "nothing".to_owned() } else { last.join(" | ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_quoted_from_where_this_mount_began() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let old = "[t] E [old] before\n";
        fs::write(&log, format!("{old}[t] I [x] fine\n[t] E [x] no volume file\n")).unwrap();
        assert_eq!(last_errors(&log, old.len() as u64), "[t] E [x] no volume file");
        assert!(last_errors(&dir.path().join("none"), 0).starts_with("nothing"));
    }

    #[test]
    fn nothing_mounted_is_unmounted_already() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(mounted_at(dir.path()).unwrap(), None);
        unmount(dir.path()).unwrap();
        unmount(&dir.path().join("none")).unwrap();
    }

    #[test]
    fn another_filesystem_in_its_place_is_named() {
        let volume =
            Volume { host: "h", path: "v", options: &[], log: Path::new("/nowhere"), wanted: &|| true };
        let error = volume.mount(Path::new("/proc")).unwrap_err().to_string();
        assert!(error.contains("proc") && error.contains("h:/v"), "{error}");
    }
}
