//! Mounting filesystems and binding paths.

use super::device::DevNumber;
use super::exec::{self, ExecError};
use super::labels;
use snafu::{ResultExt, Snafu, ensure};
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Mounting replays a journal and unmounting writes one back: on a slow share that is tens of seconds.
const LIMIT: Duration = Duration::from_secs(120);

/// How long a mount may stay busy: a child that was just forked, here or in a pod that is ending, holds every
/// open file until it has become its own program.
pub const LET_GO: Duration = Duration::from_secs(2);

/// A filesystem that volumes can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsType {
    /// The default.
    Ext4,
    /// Can also grow while mounted without CAP_SYS_RESOURCE.
    Xfs,
}

/// A filesystem that volumes cannot carry.
#[derive(Debug, Snafu)]
#[snafu(display("{text:?} is no filesystem that volumes can have: use ext4 or xfs"))]
pub struct InvalidFsType {
    text: String,
}

impl FsType {
    /// As mkfs, mount and blkid call it.
    pub fn name(self) -> &'static str {
        match self {
            FsType::Ext4 => "ext4",
            FsType::Xfs => "xfs",
        }
    }
}

impl FromStr for FsType {
    type Err = InvalidFsType;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ext4" => Ok(FsType::Ext4),
            "xfs" => Ok(FsType::Xfs),
            _ => InvalidFsTypeSnafu { text }.fail(),
        }
    }
}

impl fmt::Display for FsType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A mount as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// Where.
    pub target: PathBuf,
    /// The device or what the filesystem calls its source.
    pub source: PathBuf,
    /// The kernel's name of the filesystem.
    pub fs_type: String,
    /// `st_dev` of the files in it.
    pub dev: DevNumber,
    /// The folder or file of the filesystem that is bound here; `/` for all of it.
    pub root: PathBuf,
    /// Options of this mount and of the filesystem.
    pub options: Vec<String>,
}

impl MountInfo {
    /// Whether this mount refuses writes.
    pub fn read_only(&self) -> bool {
        self.options.iter().any(|option| option == "ro")
    }
}

/// Why a mount was not made or not undone.
#[derive(Debug, Snafu)]
pub enum MountError {
    /// A mount option that could be taken for something else.
    #[snafu(display(
        "mount option {option:?} is refused: one word of printable characters without a comma (but for an SELinux label \
         in double quotes: context=\"…:s0:c1,c2\")"
    ))]
    Option {
        /// As given.
        option: String,
    },
    /// mount(8) left an SELinux label out.
    #[snafu(display(
        "{} was mounted without {option}: mount(8) takes SELinux for disabled; this process has to see a selinuxfs and \
         /etc/selinux/config, which the chart's seLinuxMount brings", target.display()
    ))]
    LabelLost {
        /// Where; it was unmounted again.
        target: PathBuf,
        /// As given.
        option: String,
    },
    /// mount(8) failed.
    #[snafu(display("failed to mount {} at {}: {source}", from.display(), target.display()))]
    Mount {
        /// Device or bound path.
        from: PathBuf,
        /// Where.
        target: PathBuf,
        /// Cause.
        source: ExecError,
    },
    /// umount(8) failed.
    #[snafu(display("failed to unmount {}: {source}", target.display()))]
    Unmount {
        /// Where.
        target: PathBuf,
        /// Cause.
        source: ExecError,
    },
    /// /proc/self/mountinfo cannot be read.
    #[snafu(display("failed to read the table of mounts: {source}"))]
    Table {
        /// Cause.
        source: procfs::ProcError,
    },
}

/// What the rest of the driver asks of mounts.
pub trait Mounter: Send + Sync {
    /// Mounts a device. `flags` are mount options, one each.
    fn mount(&self, device: &Path, target: &Path, fs: FsType, flags: &[String]) -> Result<(), MountError>;
    /// Makes a file or folder appear at `target`, which is there already.
    fn bind(&self, source: &Path, target: &Path, readonly: bool) -> Result<(), MountError>;
    /// Unmounts everything at `target`. Not mounted: success. A dead mount is detached lazily; one
    /// that is alive and in use is an error.
    fn unmount(&self, target: &Path) -> Result<(), MountError>;
    /// The topmost mount at exactly `target`.
    fn find(&self, target: &Path) -> Result<Option<MountInfo>, MountError>;
}

/// The host's mounts.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinuxMounter;

/// The kernel lists resolved paths, and resolving a dead mount fails: only its folder is resolved.
pub(super) fn resolved(path: &Path) -> PathBuf {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            parent.canonicalize().map(|parent| parent.join(name)).unwrap_or_else(|_| path.to_path_buf())
        }
        _ => path.to_path_buf(),
    }
}

/// mountinfo writes blanks, tabs, newlines and backslashes as three octal digits.
fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let octal = (first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn convert(info: procfs::process::MountInfo) -> MountInfo {
    let all = info.mount_options.into_iter().chain(info.super_options);
    let mut options: Vec<String> =
        all.map(|(key, value)| value.map(|value| format!("{key}={value}")).unwrap_or(key)).collect();
    options.sort();
    options.dedup();
    MountInfo {
        target: unescape(info.mount_point.as_os_str().as_bytes()),
        source: unescape(info.mount_source.unwrap_or_default().as_bytes()),
        fs_type: info.fs_type,
        dev: DevNumber::parse(&info.majmin).unwrap_or(DevNumber { major: 0, minor: 0 }),
        root: unescape(info.root.as_bytes()),
        options,
    }
}

/// Every mount of this process's namespace, in the order they were made.
pub fn table() -> Result<Vec<MountInfo>, MountError> {
    let infos = procfs::process::Process::myself().and_then(|me| me.mountinfo()).context(TableSnafu)?;
    Ok(infos.into_iter().map(convert).collect())
}

/// Refuses a mount option that could be taken for something else, or for several.
pub fn check_options(flags: &[String]) -> Result<(), MountError> {
    for option in flags {
        let fine = |c: char| c.is_ascii_graphic() && c != ',';
        let one_word = !option.is_empty() && option.chars().all(fine);
        ensure!(one_word || labels::carries_label(option), OptionSnafu { option });
    }
    Ok(())
}

fn joined(fs: FsType, flags: &[String]) -> Result<String, MountError> {
    check_options(flags)?;
    let mut options: Vec<&str> = flags.iter().map(String::as_str).collect();
    // A clone carries its source's UUID, and both may be mounted on one node.
    if fs == FsType::Xfs && !options.contains(&"nouuid") {
        options.push("nouuid");
    }
    Ok(options.join(","))
}

/// What a stat of a mount answers when whoever served it is gone.
fn is_dead(target: &Path) -> bool {
    use rustix::io::Errno;
    matches!(
        rustix::fs::statfs(target),
        Err(Errno::NOTCONN | Errno::CONNABORTED | Errno::IO | Errno::STALE | Errno::HOSTDOWN | Errno::NODEV)
    )
}

impl LinuxMounter {
    /// A pod must not see files of another label than kubelet believes them to have.
    fn keeps_labels(&self, target: &Path, flags: &[String]) -> Result<(), MountError> {
        let asked = flags.iter().any(|flag| labels::carries_label(flag));
        if !asked || !labels::kernel_labels() {
            return Ok(());
        }
        let mounted = self.find(target)?.map(|mount| mount.options).unwrap_or_default();
        let Some(option) = labels::lost(flags, &mounted) else { return Ok(()) };
        self.unmount(target)?;
        LabelLostSnafu { target, option }.fail()
    }
}

impl Mounter for LinuxMounter {
    fn mount(&self, device: &Path, target: &Path, fs: FsType, flags: &[String]) -> Result<(), MountError> {
        let options = joined(fs, flags)?;
        let mut command = Command::new("mount");
        command.args(["-n", "-t", fs.name()]);
        if !options.is_empty() {
            command.args(["-o", &options]);
        }
        command.arg("--").args([device, target]);
        exec::run_ok(command, LIMIT).context(MountSnafu { from: device, target })?;
        self.keeps_labels(target, flags)
    }

    fn bind(&self, source: &Path, target: &Path, readonly: bool) -> Result<(), MountError> {
        let mut command = Command::new("mount");
        command.args(["-n", "-o", if readonly { "bind,ro" } else { "bind" }, "--"]).args([source, target]);
        exec::run_ok(command, LIMIT).context(MountSnafu { from: source, target })?;
        Ok(())
    }

    fn unmount(&self, target: &Path) -> Result<(), MountError> {
        let deadline = Instant::now() + LET_GO;
        // Stacked mounts come off one by one.
        loop {
            if self.find(target)?.is_none() {
                return Ok(());
            }
            let mut command = Command::new("umount");
            command.args(["-n", "--"]).arg(target);
            let Err(error) = exec::run_ok(command, LIMIT) else { continue };
            if self.find(target)?.is_none() {
                return Ok(());
            }
            let hung = matches!(error, ExecError::Timeout { .. });
            if !hung && !is_dead(target) {
                if Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
                return Err(error).context(UnmountSnafu { target });
            }
            let mut command = Command::new("umount");
            command.args(["-n", "-l", "--"]).arg(target);
            exec::run_ok(command, LIMIT).context(UnmountSnafu { target })?;
        }
    }

    fn find(&self, target: &Path) -> Result<Option<MountInfo>, MountError> {
        let target = resolved(target);
        Ok(table()?.into_iter().rfind(|mount| mount.target == target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_escapes_of_the_mount_table_are_undone() {
        assert_eq!(unescape(br"/a\040b\134c"), Path::new(r"/a b\c"));
        assert_eq!(unescape(br"/a\04"), Path::new(r"/a\04"));
    }

    #[test]
    fn xfs_always_gets_nouuid_once() {
        assert_eq!(joined(FsType::Xfs, &["noatime".into()]).unwrap(), "noatime,nouuid");
        assert_eq!(joined(FsType::Xfs, &["nouuid".into()]).unwrap(), "nouuid");
        assert_eq!(joined(FsType::Ext4, &[]).unwrap(), "");
    }

    /// K3: as the kubelet writes it, in one word of mount(8)'s list.
    #[test]
    fn a_label_keeps_its_comma_and_its_quotes() {
        let label = r#"context="system_u:object_r:container_file_t:s0:c15,c25""#;
        let flags = ["noatime".to_owned(), label.to_owned()];
        assert_eq!(joined(FsType::Xfs, &flags).unwrap(), format!("noatime,{label},nouuid"));
    }

    #[test]
    fn an_option_that_carries_another_one_is_refused() {
        for option in ["", "ro,exec", "a b", "x\n", "context=a:b:c:s0:c1,exec"] {
            assert!(joined(FsType::Ext4, &[option.to_owned()]).is_err(), "{option:?}");
        }
    }

    #[test]
    fn the_root_is_mounted_and_a_fresh_folder_is_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(LinuxMounter.find(dir.path()).unwrap().is_none());
        assert!(LinuxMounter.find(Path::new("/proc")).unwrap().is_some_and(|m| m.fs_type == "proc"));
        LinuxMounter.unmount(dir.path()).unwrap();
    }
}
