//! The surroundings: share, program, folder, settings.

use crate::driver::{Driver, Use, new_volume};
use anyhow::{Context, Result};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};
use tonic::Code;

/// A busy machine takes its time to mount a share and to prove it.
const READY: Duration = Duration::from_secs(120);

/// Where everything is.
pub struct World {
    /// HOST:/VOLUME.
    pub share: String,
    program: PathBuf,
    pub qemu_img: PathBuf,
    pub qemu_storage_daemon: PathBuf,
    dir: tempfile::TempDir,
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set: run `make bench-volume`"))
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
        Ok(World {
            share: variable("STRATA_TEST_SHARE")?,
            program: variable("STRATA_BIN")?.into(),
            qemu_img: variable("STRATA_QEMU_IMG")?.into(),
            qemu_storage_daemon: variable("STRATA_QEMU_STORAGE_DAEMON")?.into(),
            dir: tempfile::Builder::new().prefix("strata-bench-").tempdir_in(std::env::temp_dir())?,
        })
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A whole driver on the share, torn down when dropped. It has made a volume: share and data path are proved.
    pub fn driver(&self, name: &str) -> Result<Driver> {
        let mut driver = Driver::prepare(&self.program, &self.dir().join(name), &[&self.share], name);
        // The share is this run's alone: the disk below it may be nearly full with what is not, and holds thousands of thin volumes.
        driver.set_environment(&[("STRATA_RESERVE", "0"), ("STRATA_OVERSUBSCRIPTION", "1000")]);
        driver.launch();
        let deadline = Instant::now() + READY;
        loop {
            match driver.create(new_volume(&format!("{name}-first"), 1 << 20, Use::Block, &[])) {
                Err(status) if status.code() == Code::Unavailable && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(200));
                }
                Err(status) => return Err(status.into()),
                Ok(volume) => {
                    driver.delete(&volume.volume_id)?;
                    return Ok(driver);
                }
            }
        }
    }
}

/// Where a driver has the share mounted.
pub fn share_mount(driver: &Driver) -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found =
        fields.find(|words| words[2] == "fuse.glusterfs" && Path::new(words[1]).starts_with(&driver.dir));
    Ok(PathBuf::from(found.context("the driver has no share mounted")?[1]))
}
