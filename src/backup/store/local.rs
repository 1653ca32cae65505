//! A directory as a store. An object appears under its name by a rename, after its bytes and before
//! its folder are flushed, so a crash leaves it whole or absent.

use super::{
    BackendSnafu, MissingSnafu, NoRepositorySnafu, ObjectInfo, ObjectWriter, Store, StoreError,
    TooLargeSnafu, check_key,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use jiff::Timestamp;
use snafu::{IntoError, ResultExt, ensure};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Where objects are written before they get their name. A crash may leave a file here.
const STAGING: &str = ".strata-staging";

/// A directory of objects.
#[derive(Clone, Debug)]
pub struct LocalStore {
    root: PathBuf,
}

impl LocalStore {
    /// The store in `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        LocalStore { root: root.into() }
    }

    fn path(&self, key: &str) -> Result<PathBuf, StoreError> {
        check_key(key)?;
        Ok(self.root.join(key))
    }

    fn ensure_blocking(&self) -> Result<(), StoreError> {
        make_dirs(&self.root.join(STAGING)).map_err(|e| backend("making the directory", &self.label(), e))
    }

    fn label(&self) -> String {
        format!("file://{}", self.root.display())
    }

    fn put_blocking(&self, key: &str, body: &[u8]) -> Result<(), StoreError> {
        let mut staged = self.stage(key)?;
        staged.file.write_all(body).map_err(|e| backend("writing", key, e))?;
        self.name_blocking(staged)
    }

    fn stage(&self, key: &str) -> Result<Staged, StoreError> {
        self.path(key)?;
        let folder = self.root.join(STAGING);
        let path = folder.join(Uuid::new_v4().to_string());
        let opened = make_dirs(&folder)
            .and_then(|()| OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path));
        let file = opened.map_err(|e| backend("writing", key, e))?;
        Ok(Staged { key: key.to_owned(), path, file })
    }

    /// Gives what was written its name.
    fn name_blocking(&self, staged: Staged) -> Result<(), StoreError> {
        let target = self.path(&staged.key)?;
        let parent = target.parent().unwrap_or(&self.root);
        let write = || -> io::Result<()> {
            staged.file.sync_all()?;
            // A delete beside us may remove the folder once it is empty, between these two steps.
            for attempt in 0.. {
                make_dirs(parent)?;
                match fs::rename(&staged.path, &target) {
                    Err(e) if e.kind() == ErrorKind::NotFound && attempt < 10 => {}
                    other => {
                        other?;
                        break;
                    }
                }
            }
            sync_dir(parent)
        };
        write().map_err(|e| backend("writing", &staged.key, e))
    }

    fn get_blocking(&self, key: &str, limit: u64) -> Result<Bytes, StoreError> {
        let file = match File::open(self.path(key)?) {
            Err(e) if e.kind() == ErrorKind::NotFound => return MissingSnafu { key }.fail(),
            other => other.map_err(|e| backend("reading", key, e))?,
        };
        let size = file.metadata().map_err(|e| backend("reading", key, e))?.len();
        ensure!(size <= limit, TooLargeSnafu { key, size, limit });
        let mut body = Vec::with_capacity(size as usize);
        file.take(limit).read_to_end(&mut body).map_err(|e| backend("reading", key, e))?;
        Ok(body.into())
    }

    fn get_range_blocking(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let file = match File::open(self.path(key)?) {
            Err(e) if e.kind() == ErrorKind::NotFound => return MissingSnafu { key }.fail(),
            other => other.map_err(|e| backend("reading", key, e))?,
        };
        let size = file.metadata().map_err(|e| backend("reading", key, e))?.len();
        let mut body = vec![0; range.end.min(size).saturating_sub(range.start) as usize];
        file.read_exact_at(&mut body, range.start).map_err(|e| backend("reading", key, e))?;
        Ok(body.into())
    }

    fn delete_blocking(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key)?;
        match fs::remove_file(&path) {
            // Not there: already done.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
            other => other.map_err(|e| backend("removing", key, e))?,
        }
        let mut folder = path.parent();
        while let Some(dir) = folder.filter(|dir| *dir != self.root) {
            sync_dir(dir).map_err(|e| backend("removing", key, e))?;
            // Not empty is the usual answer; an empty folder left behind does no harm.
            if fs::remove_dir(dir).is_err() {
                break;
            }
            folder = dir.parent();
        }
        Ok(())
    }

    fn list_blocking(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        ensure!(self.root.is_dir(), NoRepositorySnafu { repository: self.label() });
        let mut found = Vec::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                // Removed since it was seen, being empty.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                other => other.map_err(|e| backend("listing", prefix, e))?,
            };
            for entry in entries {
                let entry = entry.map_err(|e| backend("listing", prefix, e))?;
                let path = entry.path();
                let Some(key) = path.strip_prefix(&self.root).ok().and_then(Path::to_str) else { continue };
                let kind = entry.file_type().map_err(|e| backend("listing", prefix, e))?;
                let below = format!("{key}/");
                if kind.is_dir()
                    && key != STAGING
                    && (below.starts_with(prefix) || prefix.starts_with(&below))
                {
                    folders.push(path);
                } else if kind.is_file() && key.starts_with(prefix) {
                    match entry.metadata() {
                        Err(e) if e.kind() == ErrorKind::NotFound => {}
                        Err(e) => return Err(backend("listing", prefix, e)),
                        Ok(meta) => {
                            let modified =
                                meta.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
                            let modified = modified.unwrap_or(Timestamp::UNIX_EPOCH);
                            found.push(ObjectInfo { key: key.to_owned(), size: meta.len(), modified });
                        }
                    }
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Runs `work` where blocking is allowed.
    fn blocking<T: Send + 'static>(
        &self,
        key: &str,
        work: impl FnOnce(&LocalStore, &str) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let (store, key) = (self.clone(), key.to_owned());
        Box::pin(async move {
            let for_error = key.clone();
            let task = tokio::task::spawn_blocking(move || work(&store, &key));
            task.await.boxed_context("working on", &for_error)?
        })
    }
}

/// A file without its name yet; removed when it is dropped before it has one.
#[derive(Debug)]
struct Staged {
    key: String,
    path: PathBuf,
    file: File,
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Not there: it has its name. Else nothing more can be done about it here; it is never used again.
        let _ = fs::remove_file(&self.path);
    }
}

/// A staged file and its store; nothing while bytes are being written on another thread.
#[derive(Debug)]
struct FileWriter {
    store: LocalStore,
    key: String,
    staged: Option<Staged>,
}

impl ObjectWriter for FileWriter {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), StoreError>> {
        let (staged, key) = (self.staged.take(), self.key.clone());
        let write = self.store.blocking(&key, move |_, key| {
            let lost = || io::Error::other("an earlier write was broken off");
            let mut staged = staged.ok_or_else(|| backend("writing", key, lost()))?;
            staged.file.write_all(&bytes).map_err(|e| backend("writing", key, e))?;
            Ok(staged)
        });
        Box::pin(async move {
            self.staged = Some(write.await?);
            Ok(())
        })
    }
    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        let FileWriter { store, key, staged } = *self;
        store.clone().blocking(&key, move |_, key| {
            let lost = || io::Error::other("an earlier write was broken off");
            store.name_blocking(staged.ok_or_else(|| backend("writing", key, lost()))?)
        })
    }
    fn abort(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        let FileWriter { store, key, staged } = *self;
        store.blocking(&key, move |_, _| {
            drop(staged);
            Ok(())
        })
    }
}

/// Turns the failure of a blocking task into an error of the store.
trait BoxedContext<T> {
    fn boxed_context(self, operation: &'static str, key: &str) -> Result<T, StoreError>;
}

impl<T> BoxedContext<T> for Result<T, tokio::task::JoinError> {
    fn boxed_context(self, operation: &'static str, key: &str) -> Result<T, StoreError> {
        self.map_err(|e| Box::new(e) as Box<dyn std::error::Error + Send + Sync>)
            .context(BackendSnafu { operation, key })
    }
}

impl Store for LocalStore {
    fn ensure(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.blocking("", |store, _| store.ensure_blocking())
    }
    fn put<'a>(&'a self, key: &'a str, body: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        self.blocking(key, move |store, key| store.put_blocking(key, &body))
    }
    fn get<'a>(&'a self, key: &'a str, limit: u64) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        self.blocking(key, move |store, key| store.get_blocking(key, limit))
    }
    fn get_range<'a>(&'a self, key: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        self.blocking(key, move |store, key| store.get_range_blocking(key, range))
    }
    fn begin<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Box<dyn ObjectWriter>, StoreError>> {
        self.blocking(key, |store, key| {
            let staged = Some(store.stage(key)?);
            let writer = FileWriter { store: store.clone(), key: key.to_owned(), staged };
            Ok(Box::new(writer) as Box<dyn ObjectWriter>)
        })
    }
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.blocking(key, |store, key| store.delete_blocking(key))
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<ObjectInfo>, StoreError>> {
        self.blocking(prefix, |store, prefix| store.list_blocking(prefix))
    }
}

fn backend(operation: &'static str, key: &str, source: io::Error) -> StoreError {
    BackendSnafu { operation, key }.into_error(Box::new(source))
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// `mkdir -p`, private, each new folder's entry flushed in its parent.
fn make_dirs(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        make_dirs(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        other => other.and_then(|()| dir.parent().map_or(Ok(()), sync_dir)),
    }
}
