//! Numbers of block devices: what a path may change under us, a number does not.

use rustix::fs::{major, makedev, minor, stat};
use std::fmt;
use std::path::Path;

/// A block device as the kernel numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DevNumber {
    /// The driver.
    pub major: u32,
    /// The device of that driver.
    pub minor: u32,
}

impl DevNumber {
    /// From a `dev_t`.
    pub fn from_raw(raw: u64) -> Self {
        DevNumber { major: major(raw), minor: minor(raw) }
    }

    /// As a `dev_t`.
    pub fn to_raw(self) -> u64 {
        makedev(self.major, self.minor)
    }

    /// Of the device node at `path`.
    pub fn of_node(path: &Path) -> std::io::Result<Self> {
        Ok(Self::from_raw(stat(path)?.st_rdev))
    }

    /// Parses `MAJOR:MINOR`, as /proc and /sys write it.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(DevNumber { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

/// A block device's size in bytes, as the kernel notes it: nothing is opened, so nothing can hang.
pub fn size(number: DevNumber) -> std::io::Result<u64> {
    let text = std::fs::read_to_string(format!("/sys/dev/block/{number}/size"))?;
    let sectors: u64 = text.trim().parse().map_err(std::io::Error::other)?;
    Ok(sectors * 512)
}

impl fmt::Display for DevNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}
