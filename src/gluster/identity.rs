//! A share's own id and its folders, and the proof that it can be written.

use super::ShareKey;
use crate::host::direct_io;
use crate::host::fsio::{self, FsError};
use serde::{Deserialize, Serialize};
use snafu::{OptionExt, ResultExt, Snafu, ensure};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The folder of what belongs to the share as a whole.
pub const STRATA_DIR: &str = ".strata";
/// The folders of a share. Images and records are nobody else's to read.
const FOLDERS: &[&str] = &[STRATA_DIR, "volumes", "locks", "nodes"];
const SCHEMA: u32 = 1;

/// `.strata/share.json`: written once, by whichever node came first. What a newer version added to it is passed over.
#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    schema: u32,
    key: ShareKey,
    created_at: String,
}

/// Why a share has no usable identity.
#[derive(Debug, Snafu)]
pub enum IdentityError {
    /// The share cannot be written (G2).
    #[snafu(display("the share at {} is not writable: {source}", root.display()))]
    NotWritable {
        /// Its root.
        root: PathBuf,
        /// The step that failed.
        source: FsError,
    },
    /// What was written did not come back.
    #[snafu(display("the share at {} does not read back what was written to it", root.display()))]
    Unfaithful {
        /// Its root.
        root: PathBuf,
    },
    /// Images cannot be opened past the kernel's cache.
    #[snafu(display(
        "the share at {} takes no direct I/O ({source}), which images need: use a filesystem that does",
        root.display()
    ))]
    NotDirect {
        /// Its root.
        root: PathBuf,
        /// What the probe met.
        source: io::Error,
    },
    /// A file or folder of the share failed.
    #[snafu(display("{source}"))]
    Files {
        /// The step that failed.
        source: FsError,
    },
    /// Not what was written there once.
    #[snafu(display("{} is damaged ({reason}): restore it from a backup or another node's log, do not delete it: \
        every handle of this share begins with its key", path.display()))]
    Damaged {
        /// The identity's file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Volumes without an identity: it was deleted, and a new one would orphan every handle.
    #[snafu(display("the share at {} holds volumes but {STRATA_DIR}/share.json is gone: restore it", root.display()))]
    Lost {
        /// Its root.
        root: PathBuf,
    },
}

/// Makes the share's folders and its identity if they are not there, and answers its key. Of any number of
/// nodes that do so at once, all get the same key.
pub fn establish(root: &Path) -> Result<ShareKey, IdentityError> {
    let path = root.join(STRATA_DIR).join("share.json");
    if let Some(key) = read(&path)? {
        make_folders(root)?;
        return Ok(key);
    }
    if has_entries(&root.join("volumes"))? {
        // Another node may have made both since the first look.
        return read(&path)?.context(LostSnafu { root });
    }
    make_folders(root)?;
    let identity =
        Identity { schema: SCHEMA, key: ShareKey::random(), created_at: jiff::Timestamp::now().to_string() };
    let text = serde_json::to_vec_pretty(&identity).expect("strings and numbers always serialise");
    match fsio::create_exclusive(&path, &text) {
        Ok(()) => {}
        // Another node was first: its key is the share's.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(IdentityError::Files { source }),
    }
    match read(&path)? {
        Some(key) => Ok(key),
        None => DamagedSnafu { path, reason: "gone as soon as it was written" }.fail(),
    }
}

/// The key of a share, if it has one yet. Changes nothing.
pub(super) fn look(root: &Path) -> Result<Option<ShareKey>, IdentityError> {
    let key = read(&root.join(STRATA_DIR).join("share.json"))?;
    if key.is_none() && has_entries(&root.join("volumes"))? {
        return LostSnafu { root }.fail();
    }
    Ok(key)
}

/// Proves by a probe file that the share can be written, synced and read back (G2), also past the kernel's cache.
pub fn probe_writable(root: &Path) -> Result<(), IdentityError> {
    let name = format!(".strata-probe-{}", uuid::Uuid::new_v4().simple());
    let path = root.join(&name);
    fsio::create_exclusive(&path, name.as_bytes()).context(NotWritableSnafu { root })?;
    let read = fs::read(&path);
    let direct = direct_io::probe(&path);
    fs::remove_file(&path)
        .map_err(|source| FsError { action: "remove", path: path.clone(), source })
        .context(NotWritableSnafu { root })?;
    ensure!(read.is_ok_and(|bytes| bytes == name.as_bytes()), UnfaithfulSnafu { root });
    direct.context(NotDirectSnafu { root })
}

fn read(path: &Path) -> Result<Option<ShareKey>, IdentityError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(files("read", path, source)),
    };
    let damaged = |reason: String| DamagedSnafu { path, reason }.fail();
    match serde_json::from_slice::<Identity>(&text) {
        Ok(identity) if identity.schema != SCHEMA => damaged(format!("unknown schema {}", identity.schema)),
        Ok(identity) if identity.created_at.parse::<jiff::Timestamp>().is_err() => {
            damaged(format!("{:?} is no time", identity.created_at))
        }
        Ok(identity) => Ok(Some(identity.key)),
        Err(error) => damaged(error.to_string()),
    }
}

fn make_folders(root: &Path) -> Result<(), IdentityError> {
    let mut made = false;
    for name in FOLDERS {
        let path = root.join(name);
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => made = true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(files("make the folder", &path, source)),
        }
        let mode =
            fs::metadata(&path).map_err(|source| files("look at", &path, source))?.permissions().mode();
        if mode & 0o777 != 0o700 {
            fs::set_permissions(&path, Permissions::from_mode(0o700))
                .map_err(|source| files("set the mode of", &path, source))?;
        }
    }
    if made {
        fsio::sync_dir(root).context(FilesSnafu)?;
    }
    Ok(())
}

fn has_entries(path: &Path) -> Result<bool, IdentityError> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(files("list", path, source)),
    }
}

fn files(action: &'static str, path: &Path, source: io::Error) -> IdentityError {
    IdentityError::Files { source: FsError { action, path: path.to_owned(), source } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let key = establish(dir.path()).unwrap();
        assert_eq!(establish(dir.path()).unwrap(), key);
        for name in FOLDERS {
            let mode = fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{name}");
        }
    }

    /// A node that is not upgraded yet, or rolled back, keeps its shares.
    #[test]
    fn an_identity_that_a_newer_version_wrote_more_into_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let key = establish(dir.path()).unwrap();
        let path = dir.path().join(".strata/share.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"schema\"", "\"later\": {\"x\": [1]},\n  \"schema\"")).unwrap();
        assert_eq!(establish(dir.path()).unwrap(), key);
    }

    #[test]
    fn a_damaged_identity_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        establish(dir.path()).unwrap();
        let path = dir.path().join(".strata/share.json");
        let good = fs::read_to_string(&path).unwrap();
        for bad in
            ["", "{}", &good.replace("\"schema\": 1", "\"schema\": 2"), &good.replace("created", "created_")]
        {
            fs::write(&path, bad).unwrap();
            assert!(matches!(establish(dir.path()), Err(IdentityError::Damaged { .. })), "{bad}");
            assert_eq!(fs::read_to_string(&path).unwrap(), *bad);
        }
    }

    #[test]
    fn volumes_without_an_identity_get_no_new_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("volumes/some")).unwrap();
        assert!(matches!(establish(dir.path()), Err(IdentityError::Lost { .. })));
    }

    #[test]
    fn the_probe_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        probe_writable(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let error = probe_writable(&dir.path().join("missing")).unwrap_err();
        assert!(error.to_string().contains("not writable"), "{error}");
    }
}
