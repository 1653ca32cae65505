//! Other mounts of the same volume on this machine: the driver's own of an earlier version, a person's.

use super::mount::{MountError, Volume};
use super::preflight::{Finding, Severity};
use super::volfile;
use crate::host::deadline::within;
use procfs::process::Process;
use snafu::ResultExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One that hangs is another check's concern.
const LOOK: Duration = Duration::from_secs(5);

/// A warning for each mount of the volume on this machine that caches what other nodes change, `ours` left out.
pub(super) fn findings(volume: &Volume<'_>, ours: &[&Path]) -> Vec<Finding> {
    let name = volume.name().to_owned();
    let mounts = match others(&name) {
        Ok(mounts) => mounts,
        Err(error) => {
            tracing::warn!(%error, "other mounts of the volume are not looked at");
            return Vec::new();
        }
    };
    let looked = mounts.into_iter().filter(|at| !ours.contains(&at.as_path()));
    looked.filter_map(|at| judge(&at, &name)).collect()
}

fn others(name: &str) -> Result<Vec<PathBuf>, MountError> {
    let mounts = Process::myself().and_then(|me| me.mountinfo()).context(super::mount::ListSnafu)?;
    let of_volume = |source: &str| {
        let path = source.split_once(":/").map_or(source, |(_, path)| path);
        path.split('/').find(|part| !part.is_empty()) == Some(name)
    };
    let gluster = mounts.into_iter().filter(|mount| {
        mount.fs_type == "fuse.glusterfs" && mount.mount_source.as_deref().is_some_and(of_volume)
    });
    Ok(gluster.map(|mount| mount.mount_point).collect())
}

fn judge(at: &Path, name: &str) -> Option<Finding> {
    let path = at.to_owned();
    let look = move || caches(&path);
    let cause = match within(LOOK, "a look at another mount", look) {
        Ok(Ok(false)) => return None,
        Ok(Ok(true)) => {
            format!("{} mounts this volume with caches: images read through it are stale", at.display())
        }
        Ok(Err(error)) => format!("{} mounts this volume and cannot be looked at ({error})", at.display()),
        Err(_) => format!("{} mounts this volume and does not answer", at.display()),
    };
    let remedy = format!(
        "umount {}; where it is needed, mount it with -o attribute-timeout=0,entry-timeout=0,\
         xlator-option={name}-md-cache.md-cache-timeout=0",
        at.display()
    );
    Some(Finding { severity: Severity::Warn, cause, remedy })
}

/// Whether a mount keeps metadata, in its client or in the kernel.
fn caches(root: &Path) -> Result<bool, std::io::Error> {
    let words = std::fs::read_to_string(root.join(".meta/cmdline"))?;
    let graph = volfile::of_mount(root).map_err(std::io::Error::other)?;
    let client = graph.iter().filter(|translator| translator.kind == "performance/md-cache");
    let in_client =
        client.map(|cache| cache.options.get("md-cache-timeout")).any(|t| t.is_none_or(|t| t != "0"));
    Ok(in_client || !kernel_keeps_nothing(&words))
}

fn kernel_keeps_nothing(words: &str) -> bool {
    ["--attribute-timeout=0", "--entry-timeout=0"]
        .iter()
        .all(|word| words.split(|c: char| c.is_whitespace() || c == '\0' || c == '"').any(|w| w == *word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_was_told_so_keeps_nothing() {
        assert!(kernel_keeps_nothing("glusterfs --attribute-timeout=0 --entry-timeout=0 /mnt"));
        assert!(!kernel_keeps_nothing("glusterfs --attribute-timeout=0 --entry-timeout=01 /mnt"));
        assert!(!kernel_keeps_nothing("glusterfs --process-name fuse /mnt"));
    }
}
