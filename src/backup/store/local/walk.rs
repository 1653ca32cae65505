//! Listing a directory of objects.

use super::staged::STAGING;
use crate::backup::store::{ObjectInfo, Unfinished, check_key};
use jiff::Timestamp;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::path::Path;

/// Every file below `root` whose name begins with `prefix`, in order.
pub(super) fn objects(root: &Path, prefix: &str) -> io::Result<Vec<ObjectInfo>> {
    let mut found = Vec::new();
    // Nothing that begins so is outside the folder that the prefix names.
    let start = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
    if !start.is_empty() && check_key(start).is_err() {
        return Ok(found);
    }
    let mut folders = vec![start.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(root.join(&folder)) {
            // Removed since it was seen, being empty; or the prefix goes on below an object.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
            // Root's own, at the top of a filesystem: it holds no object.
            Err(e) if e.kind() == ErrorKind::PermissionDenied && folder == "lost+found" => continue,
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let key = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            let kind = entry.file_type()?;
            if kind.is_dir() && key != STAGING {
                let below = format!("{key}/");
                if below.starts_with(prefix) || prefix.starts_with(&below) {
                    folders.push(key);
                }
            } else if kind.is_file() && key.starts_with(prefix) {
                match entry.metadata() {
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    meta => found.push(info(key, &meta?)),
                }
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// What writers left in the staging folder, or are writing there.
pub(super) fn unfinished(root: &Path) -> io::Result<Vec<Unfinished>> {
    let entries = match fs::read_dir(root.join(STAGING)) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(id) = entry.file_name().into_string() else { continue };
        match entry.metadata() {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            meta => {
                let meta = meta?;
                found.push(Unfinished { key: String::new(), id, size: meta.len(), begun: modified(&meta) });
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn info(key: String, meta: &Metadata) -> ObjectInfo {
    ObjectInfo { key, size: meta.len(), modified: modified(meta) }
}

fn modified(meta: &Metadata) -> Timestamp {
    let time = meta.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
    time.unwrap_or(Timestamp::UNIX_EPOCH)
}
