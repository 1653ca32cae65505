//! Where a source is mounted on this node.

use super::Source;
use crate::host::fsio::FsError;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Where a source is mounted on this node. Held, so that two callers take turns.
pub(super) struct Place {
    pub root: PathBuf,
    /// For the tests that need another mount of the same share.
    pub second: PathBuf,
    pub log: PathBuf,
    _turn: File,
}

impl Place {
    pub fn prepare(source: &Source, mount_dir: &Path) -> Result<Self, FsError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| FsError { action, path, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(mount_dir)
            .map_err(failed("make the folder", mount_dir))?;
        // The kernel lists mounts by their real paths.
        let dir = mount_dir.canonicalize().map_err(failed("resolve", mount_dir))?;
        let name = folder_name(source);
        if dir.as_os_str().as_encoded_bytes().contains(&b',') {
            // mount(8) would take what follows for more options.
            let error = std::io::Error::new(std::io::ErrorKind::InvalidInput, "a comma in its path");
            return Err(failed("mount under", &dir)(error));
        }
        let lock = dir.join(format!("{name}.lock"));
        let turn = File::create(&lock).map_err(failed("create", &lock))?;
        flock(&turn, FlockOperation::LockExclusive)
            .map_err(std::io::Error::from)
            .map_err(failed("lock", &lock))?;
        let log = dir.join(format!("{name}.log"));
        let root = dir.join(name);
        Ok(Place { second: second(&root), root, log, _turn: turn })
    }
}

/// Where a source is, or is to be, mounted below `mount_dir`; a directory is where it is.
pub fn mount_point(source: &Source, mount_dir: &Path) -> PathBuf {
    match source {
        Source::Dir(path) => path.clone(),
        Source::Gluster { .. } => mount_dir.join(folder_name(source)),
    }
}

/// Where a source that is mounted there is mounted once more for a while.
pub(super) fn second(root: &Path) -> PathBuf {
    root.with_added_extension("second")
}

/// Readable, and different for sources that differ.
fn folder_name(source: &Source) -> String {
    let text = source.to_string();
    let digest = Sha256::digest(text.as_bytes());
    let readable: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).take(48).collect();
    format!(
        "{}-{:02x}{:02x}{:02x}{:02x}",
        readable.replace("--", "-"),
        digest[0],
        digest[1],
        digest[2],
        digest[3]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_differ_where_sources_do() {
        let name = |text: &str| folder_name(&text.parse().unwrap());
        assert!(name("10.0.0.1:/images").starts_with("10.0.0.1-images-"));
        assert_ne!(name("a:/b-c"), name("a:/b/c"));
    }
}
