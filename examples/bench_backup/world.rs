//! The surroundings: programs, folder, S3 server, settings.

use anyhow::{Context, Result, ensure};
use rustix::process::{Signal, set_parent_process_death_signal};
use std::fmt::Display;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;

/// What the S3 server and its clients know of each other.
pub const ACCESS_KEY: &str = "strata-bench";
pub const SECRET_KEY: &str = "strata-bench-secret";
/// Of the temporary folder, for each byte of the volume: image, volume, a restored one, and a full backup by each tool.
const ROOM: u64 = 5;

/// Where everything is.
pub struct World {
    pub program: PathBuf,
    pub qemu_img: PathBuf,
    pub qemu_storage_daemon: PathBuf,
    /// Python with Cinder in it.
    pub python: PathBuf,
    /// Of the volume, in bytes.
    pub size: u64,
    pub rounds: usize,
    pub s3: S3Server,
    dir: tempfile::TempDir,
}

fn variable(name: &str) -> Result<PathBuf> {
    let value =
        std::env::var_os(name).with_context(|| format!("{name} is not set: run `make bench-backup`"))?;
    Ok(value.into())
}

/// A setting from the environment.
pub fn setting<T>(name: &str, default: T) -> Result<T>
where
    T: FromStr,
    T::Err: Display,
{
    match std::env::var(name) {
        Ok(text) => text.parse().map_err(|error| anyhow::anyhow!("{name}={text:?}: {error}")),
        Err(_) => Ok(default),
    }
}

impl World {
    pub fn new() -> Result<World> {
        let dir = tempfile::Builder::new().prefix("strata-bench-").tempdir_in(std::env::temp_dir())?;
        let size = setting::<u64>("SIZE_GIB", 4)? << 30;
        let rounds = setting("ROUNDS", 3)?;
        ensure!(size > 0 && rounds > 0, "SIZE_GIB and ROUNDS are 1 or more");
        let space = rustix::fs::statvfs(dir.path())?;
        let free = space.f_bavail * space.f_frsize;
        let place = dir.path().display();
        ensure!(
            free > ROOM * size,
            "{} GiB are needed in {place}, {} are free",
            (ROOM * size) >> 30,
            free >> 30
        );
        let s3 = S3Server::start(&variable("STRATA_S3_SERVER")?, &dir.path().join("s3"))?;
        Ok(World {
            program: variable("STRATA_BIN")?,
            qemu_img: variable("STRATA_QEMU_IMG")?,
            qemu_storage_daemon: variable("STRATA_QEMU_STORAGE_DAEMON")?,
            python: variable("STRATA_CINDER_PYTHON")?,
            size,
            rounds,
            s3,
            dir,
        })
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where the program that runs now may complain.
    pub fn log(&self) -> PathBuf {
        self.dir().join("log")
    }
}

/// A process of its own: what it costs is not the clients' cost.
pub struct S3Server {
    pub endpoint: String,
    /// A bucket is a folder in it.
    pub folder: PathBuf,
    process: Child,
}

impl S3Server {
    fn start(program: &Path, folder: &Path) -> Result<S3Server> {
        std::fs::create_dir(folder)?;
        let mut command = Command::new(program);
        command.args(["127.0.0.1:0".as_ref(), folder.as_os_str()]);
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        // SAFETY: between fork and exec there is one system call, and nothing is allocated.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?));
        }
        let mut process =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("no S3 server")?;
        let mut endpoint = String::new();
        BufReader::new(process.stdout.take().context("its output is piped")?).read_line(&mut endpoint)?;
        ensure!(endpoint.starts_with("http://"), "the S3 server did not come up");
        Ok(S3Server { endpoint: endpoint.trim().to_owned(), folder: folder.to_owned(), process })
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
