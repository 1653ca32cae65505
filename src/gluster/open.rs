//! A share made ready: mounted, proved writable, coherent and safe, and known by its key.

use super::coherence::{self, CoherenceError};
use super::identity::{self, IdentityError, STRATA_DIR};
use super::mount::{self, MountError, Mounted, StillWanted, Volume};
use super::options::MountOption;
use super::place::{Place, mount_point, second};
use super::preflight::{Finding, Severity, preflight};
use super::volfile::VolfileError;
use super::{Share, ShareKey, Source};
use crate::host::deadline::{TimedOut, within};
use crate::host::fsio::FsError;
use snafu::{ResultExt, Snafu, ensure};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// For everything that is done on a mounted share before it is used: a few dozen small files.
pub(super) const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// Why a share cannot be used.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
pub enum ShareError {
    /// `dir:/PATH` is not there.
    #[snafu(display("the share {share} is no directory on this machine: make it, or correct the path"))]
    NoDirectory {
        /// As configured.
        share: Source,
    },
    /// Not mounted.
    #[snafu(display("share {share}: {source}"))]
    Mounting {
        /// As configured.
        share: Source,
        /// The step that failed.
        #[snafu(source(from(MountError, Box::new)))]
        source: Box<MountError>,
    },
    /// Mounted, and then silent.
    #[snafu(display("share {share}: {source}: check its servers"))]
    NoAnswer {
        /// As configured.
        share: Source,
        /// The bound.
        source: TimedOut,
    },
    /// Not writable, or without a usable identity.
    #[snafu(display("share {share}: {source}"))]
    Identity {
        /// As configured.
        share: Source,
        /// What is wrong.
        #[snafu(source(from(IdentityError, Box::new)))]
        source: Box<IdentityError>,
    },
    /// Its options cannot be told.
    #[snafu(display("share {share}: {source}"))]
    Preflight {
        /// As configured.
        share: Source,
        /// What is wrong.
        source: VolfileError,
    },
    /// Its options would lose data.
    #[snafu(display(
        "share {share} is refused: {}",
        findings.iter().map(Finding::to_string).collect::<Vec<_>>().join("; ")
    ))]
    Unsafe {
        /// As configured.
        share: Source,
        /// What to mend.
        findings: Vec<Finding>,
    },
    /// Its mounts disagree.
    #[snafu(display("share {share}: {source}"))]
    Coherence {
        /// As configured.
        share: Source,
        /// How it showed.
        source: CoherenceError,
    },
    /// The folder for mounts on this node.
    #[snafu(display("share {share}: {source}"))]
    MountDir {
        /// As configured.
        share: Source,
        /// The step that failed.
        source: FsError,
    },
}

/// Makes a share ready for use on this node, mounting it under `mount_dir` where it is a GlusterFS volume,
/// and answers what its operator should still mend. Done already: the same answer again. Blocks, within bounds.
pub fn open(
    source: &Source,
    options: &[MountOption],
    mount_dir: &Path,
) -> Result<(Share, Vec<Finding>), ShareError> {
    open_while(source, options, mount_dir, &|| true)
}

/// As [`open`]. Once it is not wanted any more, nothing new is mounted, and what is being mounted is given up.
pub fn open_while(
    source: &Source,
    options: &[MountOption],
    mount_dir: &Path,
    wanted: StillWanted<'_>,
) -> Result<(Share, Vec<Finding>), ShareError> {
    match source {
        Source::Dir(path) => open_dir(source, path),
        Source::Gluster { host, volume } => {
            let place = Place::prepare(source, mount_dir).context(MountDirSnafu { share: source.clone() })?;
            let volume = Volume { host, path: volume, options, log: &place.log, wanted };
            open_gluster(source, &volume, &place)
        }
    }
}

/// Gives a share back. A directory is nothing to give back; a mount in use is an error.
pub fn close(share: &Share) -> Result<(), ShareError> {
    match &share.source {
        Source::Dir(_) => Ok(()),
        source @ Source::Gluster { .. } => {
            mount::unmount(&share.root).context(MountingSnafu { share: source.clone() })
        }
    }
}

/// Breaks off whatever hangs at the mounts of a share on this node, which nobody uses any more.
pub fn abandon(source: &Source, mount_dir: &Path) {
    if let Source::Gluster { .. } = source {
        let root = mount_point(source, mount_dir);
        mount::abandon(&second(&root));
        mount::abandon(&root);
    }
}

/// Proves that a share is still writable (G2). Blocks, within bounds.
pub fn prove_writable(share: &Share) -> Result<(), ShareError> {
    let (source, root) = (share.source.clone(), share.root.clone());
    within(SETTLE_LIMIT, "a probe file", move || identity::probe_writable(&root))
        .context(NoAnswerSnafu { share: source.clone() })?
        .context(IdentitySnafu { share: source })
}

fn open_dir(source: &Source, path: &Path) -> Result<(Share, Vec<Finding>), ShareError> {
    ensure!(path.is_dir(), NoDirectorySnafu { share: source.clone() });
    let root = path
        .canonicalize()
        .map_err(|error| FsError { action: "resolve", path: path.to_owned(), source: error })
        .context(MountDirSnafu { share: source.clone() })?;
    let key = settle(source, &root)?;
    Ok((Share { key, source: source.clone(), root }, Vec::new()))
}

fn open_gluster(
    source: &Source,
    volume: &Volume<'_>,
    place: &Place,
) -> Result<(Share, Vec<Finding>), ShareError> {
    let mounted = volume.mount(&place.root).context(MountingSnafu { share: source.clone() })?;
    let opened = settle(source, &place.root).and_then(|key| {
        let findings = prove_safe(source, volume, place)?;
        Ok((Share { key, source: source.clone(), root: place.root.clone() }, findings))
    });
    if opened.is_err() && mounted == Mounted::Now {
        mount::discard(&place.root);
    }
    opened
}

/// Writable, and known by a key.
fn settle(source: &Source, root: &Path) -> Result<ShareKey, ShareError> {
    let root = root.to_owned();
    within(SETTLE_LIMIT, "making ready", move || {
        identity::probe_writable(&root)?;
        identity::establish(&root)
    })
    .context(NoAnswerSnafu { share: source.clone() })?
    .context(IdentitySnafu { share: source.clone() })
}

/// Preflight and the test of two mounts, with a second mount for as long as that takes.
fn prove_safe(source: &Source, volume: &Volume<'_>, place: &Place) -> Result<Vec<Finding>, ShareError> {
    volume.mount(&place.second).context(MountingSnafu { share: source.clone() })?;
    let (share, name) = (source.clone(), volume.name().to_owned());
    let (root, second) = (place.root.clone(), place.second.clone());
    let examined =
        within(SETTLE_LIMIT, "the self-test with two mounts", move || examine(&share, &name, &root, &second));
    let Ok(findings) = examined else {
        // It is nobody else's, so what hangs on it may be broken off: else its thread and its client would stay.
        mount::abandon(&place.second);
        return examined.context(NoAnswerSnafu { share: source.clone() })?;
    };
    let unmounted = mount::unmount(&place.second).context(MountingSnafu { share: source.clone() });
    let findings = findings?;
    unmounted?;
    // An empty folder that stays is no harm.
    let _ = fs::remove_dir(&place.second);
    Ok(findings)
}

/// What the operator should mend, once nothing is found that would lose data.
fn examine(source: &Source, volume: &str, root: &Path, second: &Path) -> Result<Vec<Finding>, ShareError> {
    let findings = findings_of(&[root, second], volume).context(PreflightSnafu { share: source.clone() })?;
    let (fatal, rest): (Vec<_>, _) = findings.into_iter().partition(|f| f.severity == Severity::Refuse);
    ensure!(fatal.is_empty(), UnsafeSnafu { share: source.clone(), findings: fatal });
    coherence::prove(root, second, Path::new(STRATA_DIR))
        .context(CoherenceSnafu { share: source.clone() })?;
    Ok(rest)
}

/// What is wrong with the options of these mounts of one volume: one in use may be an older one, another is
/// fresh, and each counts.
pub(super) fn findings_of(mounts: &[&Path], volume: &str) -> Result<Vec<Finding>, VolfileError> {
    let mut findings = Vec::new();
    for root in mounts {
        for finding in preflight(root, volume)? {
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_opened_twice_with_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let source = Source::Dir(dir.path().to_owned());
        let (first, findings) = open(&source, &[], Path::new("/unused")).unwrap();
        assert_eq!(findings, []);
        assert_eq!(open(&source, &[], Path::new("/unused")).unwrap().0.key, first.key);
        prove_writable(&first).unwrap();
        close(&first).unwrap();
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = open(&Source::Dir("/no/such".into()), &[], Path::new("/unused")).unwrap_err();
        assert!(error.to_string().contains("dir:/no/such"), "{error}");
    }
}
