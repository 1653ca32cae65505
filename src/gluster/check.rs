//! All that can be told about a share at once, for its operator. What opening a share proves too, but this goes
//! on after what it finds, and leaves a share that no driver has used yet without an identity.

use super::coherence::{self, CoherenceError};
use super::identity::{self, STRATA_DIR};
use super::mount::{self, Volume};
use super::open::{
    MountDirSnafu, MountingSnafu, NoAnswerSnafu, NoDirectorySnafu, PreflightSnafu, SETTLE_LIMIT, ShareError,
    findings_of,
};
use super::options::MountOption;
use super::place::Place;
use super::preflight::{Finding, Severity};
use super::volfile::VolfileError;
use super::{ShareKey, Source, neighbours};
use crate::host::deadline::within;
use serde::Serialize;
use snafu::{ResultExt, ensure};
use std::path::{Path, PathBuf};

/// How one part of the check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it should be, perhaps with a warning.
    Passed,
    /// There is a finding about it.
    Failed,
    /// It says nothing here: a directory has neither options nor a second mount, and a share that cannot be
    /// written cannot be tested by writing.
    NotTried,
}

/// A share that was looked at, and that stays mounted for as long as this lives.
#[derive(Debug)]
pub struct Checked {
    /// Its root in this process.
    pub root: PathBuf,
    /// None: no driver has used it yet.
    pub key: Option<ShareKey>,
    /// A probe file was written and read back.
    pub writable: Outcome,
    /// The volume's options and those of its mounts.
    pub options: Outcome,
    /// Two mounts show each other's changes at once.
    pub coherent: Outcome,
    /// What is wrong, the worst first.
    pub findings: Vec<Finding>,
    mount: Option<PathBuf>,
}

impl Checked {
    /// Whether a driver may use it.
    pub fn is_safe(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity != Severity::Refuse)
    }
}

impl Drop for Checked {
    fn drop(&mut self) {
        if let Some(at) = &self.mount
            && mount::unmount(at).is_err()
        {
            // It is the check's own: nothing else can be lost with it.
            mount::abandon(at);
        }
    }
}

/// Mounts a share under `mount_dir`, where it is a GlusterFS volume, and looks at everything that its safety
/// depends on. Blocks, within bounds. An error means that it could not be looked at.
pub fn check(source: &Source, options: &[MountOption], mount_dir: &Path) -> Result<Checked, ShareError> {
    let mut checked = match source {
        Source::Dir(path) => check_dir(source, path)?,
        Source::Gluster { host, volume } => {
            let place = Place::prepare(source, mount_dir).context(MountDirSnafu { share: source.clone() })?;
            let volume = Volume { host, path: volume, options, log: &place.log, wanted: &|| true };
            check_gluster(source, &volume, &place)?
        }
    };
    checked.findings.sort_by_key(|finding| finding.severity != Severity::Refuse);
    Ok(checked)
}

/// What is found out by reading and writing files.
struct Looked {
    key: Option<ShareKey>,
    writable: Outcome,
    findings: Vec<Finding>,
}

fn check_dir(source: &Source, path: &Path) -> Result<Checked, ShareError> {
    ensure!(path.is_dir(), NoDirectorySnafu { share: source.clone() });
    let root = path.to_owned();
    let looked = within(SETTLE_LIMIT, "the check", move || look(&root, None))
        .context(NoAnswerSnafu { share: source.clone() })?;
    Ok(Checked {
        root: path.to_owned(),
        key: looked.key,
        writable: looked.writable,
        options: Outcome::NotTried,
        coherent: Outcome::NotTried,
        findings: looked.findings,
        mount: None,
    })
}

fn check_gluster(source: &Source, volume: &Volume<'_>, place: &Place) -> Result<Checked, ShareError> {
    volume.mount(&place.root).context(MountingSnafu { share: source.clone() })?;
    let mut checked = Checked {
        root: place.root.clone(),
        key: None,
        writable: Outcome::NotTried,
        options: Outcome::NotTried,
        coherent: Outcome::NotTried,
        findings: Vec::new(),
        mount: Some(place.root.clone()),
    };
    volume.mount(&place.second).context(MountingSnafu { share: source.clone() })?;
    let (root, second, name) = (place.root.clone(), place.second.clone(), volume.name().to_owned());
    let examined = within(SETTLE_LIMIT, "the check", move || examine(&root, &second, &name));
    if mount::unmount(&place.second).is_err() {
        mount::abandon(&place.second);
    }
    let _ = std::fs::remove_dir(&place.second);
    let (looked, options, coherent) = examined
        .context(NoAnswerSnafu { share: source.clone() })?
        .context(PreflightSnafu { share: source.clone() })?;
    checked.findings = looked.findings;
    checked.findings.extend(neighbours::findings(volume, &[&place.root, &place.second]));
    (checked.key, checked.writable) = (looked.key, looked.writable);
    (checked.options, checked.coherent) = (options, coherent);
    Ok(checked)
}

fn examine(root: &Path, second: &Path, volume: &str) -> Result<(Looked, Outcome, Outcome), VolfileError> {
    let findings = findings_of(&[root, second], volume)?;
    let fatal = findings.iter().any(|finding| finding.severity == Severity::Refuse);
    let options = if fatal { Outcome::Failed } else { Outcome::Passed };
    let mut looked = look(root, Some(volume));
    looked.findings.extend(findings);
    let coherent = match looked.writable {
        Outcome::Passed => prove(root, second, volume, &mut looked.findings),
        _ => Outcome::NotTried,
    };
    Ok((looked, options, coherent))
}

/// Key and writability.
fn look(root: &Path, volume: Option<&str>) -> Looked {
    let mut findings = Vec::new();
    let mut refuse = |cause: String, remedy: String| {
        findings.push(Finding { severity: Severity::Refuse, cause, remedy });
    };
    let key = identity::look(root).unwrap_or_else(|error| {
        refuse(error.to_string(), format!("put {STRATA_DIR}/share.json back from a backup of it"));
        None
    });
    let writable = match identity::probe_writable(root) {
        Ok(()) => Outcome::Passed,
        Err(error) => {
            refuse(error.to_string(), writable_remedy(volume));
            Outcome::Failed
        }
    };
    Looked { key, writable, findings }
}

fn writable_remedy(volume: Option<&str>) -> String {
    match volume {
        Some(volume) => format!(
            "gluster volume status {volume} (are all bricks up, is there room?); gluster volume set {volume} \
             features.read-only off; gluster volume set {volume} features.worm off"
        ),
        None => "look at the filesystem's room, mount options and owner".to_owned(),
    }
}

/// The test of two mounts.
fn prove(root: &Path, second: &Path, volume: &str, findings: &mut Vec<Finding>) -> Outcome {
    // A share without an identity gets no folder from a check.
    let folder = if root.join(STRATA_DIR).is_dir() { STRATA_DIR } else { "" };
    let Err(error) = coherence::prove(root, second, Path::new(folder)) else { return Outcome::Passed };
    let remedy = match &error {
        CoherenceError::Incoherent { .. } => {
            format!("gluster volume set {volume} performance.stat-prefetch off, and check again")
        }
        CoherenceError::Probe { .. } => format!("gluster volume status {volume}, and check again"),
    };
    findings.push(Finding { severity: Severity::Refuse, cause: error.to_string(), remedy });
    Outcome::Failed
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn checked(dir: &Path) -> Checked {
        check(&Source::Dir(dir.to_owned()), &[], Path::new("/unused")).unwrap()
    }

    #[test]
    fn a_directory_that_nobody_used_is_safe_and_stays_empty() {
        let dir = tempfile::tempdir().unwrap();
        let found = checked(dir.path());
        assert!(found.is_safe() && found.key.is_none());
        assert_eq!((found.writable, found.coherent), (Outcome::Passed, Outcome::NotTried));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn volumes_without_an_identity_are_unsafe() {
        let dir = tempfile::tempdir().unwrap();
        let key = identity::establish(dir.path()).unwrap();
        assert_eq!(checked(dir.path()).key, Some(key));
        fs::create_dir(dir.path().join("volumes/some")).unwrap();
        fs::remove_file(dir.path().join(".strata/share.json")).unwrap();
        let found = checked(dir.path());
        assert!(!found.is_safe());
        assert!(found.findings[0].cause.contains("share.json is gone"), "{:?}", found.findings);
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let missing = Source::Dir("/no/such".into());
        assert!(check(&missing, &[], Path::new("/unused")).is_err());
    }
}
