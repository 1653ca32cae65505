//! Making filesystems, and telling a blank device from one that only looks blank.

use super::exec::{self, ExecError};
use super::growfs::Grower;
use super::mount::FsType;
use snafu::{ResultExt, Snafu, ensure};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const PROBE_LIMIT: Duration = Duration::from_secs(60);
/// mke2fs discards the whole device first, and a fully allocated raw image is really zeroed by that.
const MAKE_LIMIT: Duration = Duration::from_secs(600);
/// Every filesystem, RAID and partition table that blkid may not know keeps something in here.
const EDGE: u64 = 1 << 20;

/// What a device carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing: blkid found nothing, and its first and last MiB are zeros.
    Blank,
    /// A filesystem, by blkid's name of it.
    Filesystem(String),
    /// Something, or several things: never to be formatted unasked.
    Ambivalent(String),
}

/// Why a device was not examined or not formatted.
#[derive(Debug, Snafu)]
pub enum MkfsError {
    /// blkid did not run.
    #[snafu(display("failed to examine {}: {source}", device.display()))]
    Probe {
        /// The device.
        device: PathBuf,
        /// Cause.
        source: ExecError,
    },
    /// Reading the device failed.
    #[snafu(display("failed to read {}: {source}", device.display()))]
    Read {
        /// The device.
        device: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// An option that mkfs would take for something else than an option.
    #[snafu(display("mkfs option {option:?} is refused: printable characters only"))]
    Option {
        /// As given.
        option: String,
    },
    /// mkfs failed.
    #[snafu(display("failed to make {fs} on {}: {source}", device.display()))]
    Make {
        /// The filesystem.
        fs: FsType,
        /// The device.
        device: PathBuf,
        /// Cause.
        source: ExecError,
    },
}

/// What the rest of the driver asks of mkfs, and of the programs that grow what it made.
pub trait Formatter: Grower {
    /// What the device carries.
    fn probe(&self, device: &Path) -> Result<Content, MkfsError>;
    /// Makes a filesystem. `force` goes over what a broken-off earlier try left.
    fn make(&self, device: &Path, fs: FsType, options: &[String], force: bool) -> Result<(), MkfsError>;
}

/// blkid, mkfs.ext4 and mkfs.xfs; e2fsck, resize2fs and xfs_growfs.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinuxFormatter;

fn edges_are_zero(device: &Path) -> std::io::Result<bool> {
    let mut file = File::open(device)?;
    let size = file.seek(SeekFrom::End(0))?;
    let mut buffer = Vec::new();
    for start in [0, size.saturating_sub(EDGE)] {
        file.seek(SeekFrom::Start(start))?;
        buffer.clear();
        (&mut file).take(EDGE).read_to_end(&mut buffer)?;
        if buffer.iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `TYPE=` and the like from blkid's `-o export`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

impl Formatter for LinuxFormatter {
    fn probe(&self, device: &Path) -> Result<Content, MkfsError> {
        let mut command = Command::new("blkid");
        command.args(["-p", "-o", "export", "--"]).arg(device);
        let output = exec::run(command, PROBE_LIMIT).context(ProbeSnafu { device })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        match output.status.code() {
            Some(0) => Ok(match (field(&text, "USAGE"), field(&text, "TYPE"), field(&text, "PTTYPE")) {
                (Some("filesystem"), Some(fs), None) => Content::Filesystem(fs.to_owned()),
                (_, Some(other), _) => Content::Ambivalent(format!("it carries {other}")),
                (_, None, Some(table)) => {
                    Content::Ambivalent(format!("it carries a {table} partition table"))
                }
                (_, None, None) => Content::Ambivalent("blkid found something without a type".to_owned()),
            }),
            // Nothing found, but also what a device that cannot be read answers: so read it.
            Some(2) => Ok(if edges_are_zero(device).context(ReadSnafu { device })? {
                Content::Blank
            } else {
                Content::Ambivalent("blkid knows nothing on it, but it is not all zeros".to_owned())
            }),
            Some(8) => Ok(Content::Ambivalent("blkid finds signatures of several things on it".to_owned())),
            code => Ok(Content::Ambivalent(format!("blkid ended with {code:?}: {complaint}"))),
        }
    }

    fn make(&self, device: &Path, fs: FsType, options: &[String], force: bool) -> Result<(), MkfsError> {
        for option in options {
            let fine = |c: char| c.is_ascii_graphic();
            ensure!(!option.is_empty() && option.chars().all(fine), OptionSnafu { option });
        }
        let mut command = Command::new(format!("mkfs.{fs}"));
        match (fs, force) {
            (FsType::Ext4, true) => drop(command.args(["-q", "-F"])),
            // Only what was never written is formatted without force: the journal, up to 1 GiB, is zeros already. An
            // operator's own -E takes the place of this one.
            (FsType::Ext4, false) => drop(command.args(["-q", "-E", "lazy_journal_init=1"])),
            (FsType::Xfs, true) => drop(command.args(["-q", "-f"])),
            (FsType::Xfs, false) => drop(command.arg("-q")),
        }
        command.args(options).arg("--").arg(device);
        exec::run_ok(command, MAKE_LIMIT).context(MakeSnafu { fs, device })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use std::os::unix::fs::FileExt;

    fn disk() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(400 << 20).unwrap();
        file
    }

    #[rstest]
    #[case(FsType::Ext4)]
    #[case(FsType::Xfs)]
    fn a_blank_disk_is_told_from_a_made_filesystem(#[case] fs: FsType) {
        let disk = disk();
        assert_eq!(LinuxFormatter.probe(disk.path()).unwrap(), Content::Blank);
        LinuxFormatter.make(disk.path(), fs, &[], false).unwrap();
        assert_eq!(LinuxFormatter.probe(disk.path()).unwrap(), Content::Filesystem(fs.name().to_owned()));
        LinuxFormatter.make(disk.path(), fs, &[], true).unwrap();
    }

    /// A large volume is staged as fast as a small one: nothing is written that is zeros already.
    #[test]
    fn the_journal_of_a_fresh_disk_is_not_written() {
        use std::os::unix::fs::MetadataExt;
        let disk = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        disk.as_file().set_len(200 << 30).unwrap();
        LinuxFormatter.make(disk.path(), FsType::Ext4, &[], false).unwrap();
        let written = disk.as_file().metadata().unwrap().blocks() * 512;
        assert!(written < 64 << 20, "{written} bytes");
    }

    #[rstest]
    #[case(5000)]
    #[case((400 << 20) - 1)]
    fn a_disk_with_one_unknown_byte_near_an_edge_is_not_blank(#[case] offset: u64) {
        let disk = disk();
        disk.as_file().write_all_at(b"x", offset).unwrap();
        assert!(matches!(LinuxFormatter.probe(disk.path()).unwrap(), Content::Ambivalent(_)));
    }

    #[test]
    fn two_signatures_on_one_disk_are_ambivalent() {
        let disk = disk();
        LinuxFormatter.make(disk.path(), FsType::Ext4, &[], false).unwrap();
        disk.as_file().write_all_at(b"LUKS\xba\xbe\0\x01", 0).unwrap();
        let found = LinuxFormatter.probe(disk.path()).unwrap();
        assert!(matches!(found, Content::Ambivalent(_)), "{found:?}");
    }

    #[test]
    fn a_missing_device_is_never_blank() {
        let found = LinuxFormatter.probe(Path::new("/nowhere/disk"));
        assert!(!matches!(found, Ok(Content::Blank)), "{found:?}");
    }
}
