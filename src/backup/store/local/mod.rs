//! A directory as a store. An object gets its name after its bytes are flushed, and is acknowledged
//! after its folder is: a crash leaves it whole or absent, and whole if it was acknowledged. A name
//! that is taken is refused by the kernel (link(2)), so that two writers never mix.

mod flush;
mod staged;
mod walk;

use super::{
    BackendSnafu, Exclusive, ExistsSnafu, MissingSnafu, NoRepositorySnafu, ObjectInfo, ObjectWriter, Store,
    StoreError, TooLargeSnafu, Unfinished, check_key,
};
use bytes::Bytes;
use flush::Flushes;
use futures::future::BoxFuture;
use snafu::{IntoError, ResultExt, ensure};
use staged::{Naming, STAGING, Staged, make_dirs};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

/// A directory of objects.
#[derive(Clone, Debug)]
pub struct LocalStore {
    root: PathBuf,
    naming: Naming,
    flushes: Arc<Flushes>,
}

impl LocalStore {
    /// The store in `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        LocalStore { root: root.into(), naming: Naming::Nameless, flushes: Arc::default() }
    }

    /// As on a filesystem that has no nameless files and, unless `links`, no hard links either.
    #[doc(hidden)]
    pub fn without_nameless_files(mut self, links: bool) -> Self {
        self.naming = if links { Naming::Link } else { Naming::Rename };
        self
    }

    fn path(&self, key: &str) -> Result<PathBuf, StoreError> {
        check_key(key)?;
        Ok(self.root.join(key))
    }

    fn ensure_blocking(&self) -> Result<(), StoreError> {
        make_dirs(&self.root, &self.flushes).map_err(|e| backend("making the directory", &self.label(), e))
    }

    fn label(&self) -> String {
        format!("file://{}", self.root.display())
    }

    fn put_blocking(&self, key: &str, body: &[u8]) -> Result<(), StoreError> {
        self.path(key)?;
        let write = || {
            let mut staged = Staged::new(&self.root, &self.flushes, self.naming, true)?;
            staged.file.write_all(body)?;
            Ok(staged)
        };
        self.replace_blocking(key, write().map_err(|e| backend("writing", key, e))?)
    }

    /// Gives what was written its name, also if that is taken.
    fn replace_blocking(&self, key: &str, staged: Staged) -> Result<(), StoreError> {
        let replaced = staged.replace(&self.root, &self.path(key)?, &self.flushes);
        replaced.map_err(|e| backend("writing", key, e))
    }

    fn put_new_blocking(&self, key: &str, body: &[u8]) -> Result<(), StoreError> {
        let mut staged = self.stage(key)?;
        staged.file.write_all(body).map_err(|e| backend("writing", key, e))?;
        match self.name_blocking(key, staged) {
            Err(StoreError::Exists { key }) => match self.get_blocking(&key, body.len() as u64) {
                Ok(found) if found == body => self.flush_folder(&key),
                Ok(_) | Err(StoreError::TooLarge { .. }) => ExistsSnafu { key }.fail(),
                Err(e) => Err(e),
            },
            done => done,
        }
    }

    /// Another may have given it its name and not have come to flushing.
    fn flush_folder(&self, key: &str) -> Result<(), StoreError> {
        let target = self.path(key)?;
        let flushed = target.parent().map_or(Ok(()), |folder| self.flushes.flush(folder));
        flushed.map_err(|e| backend("writing", key, e))
    }

    fn stage(&self, key: &str) -> Result<Staged, StoreError> {
        self.path(key)?;
        let staged = Staged::new(&self.root, &self.flushes, self.naming, false);
        staged.map_err(|e| backend("writing", key, e))
    }

    /// Gives what was written its name, if that is free.
    fn name_blocking(&self, key: &str, staged: Staged) -> Result<(), StoreError> {
        match staged.name(&self.path(key)?, &self.flushes) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => ExistsSnafu { key }.fail(),
            done => done.map_err(|e| backend("writing", key, e)),
        }
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

    fn copy_blocking(&self, from: &str, to: &str) -> Result<(), StoreError> {
        let mut source = match File::open(self.path(from)?) {
            Err(e) if e.kind() == ErrorKind::NotFound => return MissingSnafu { key: from }.fail(),
            other => other.map_err(|e| backend("copying", from, e))?,
        };
        let mut staged = self.stage(to)?;
        // By the kernel, which shares the blocks where the filesystem can, or has a file server do it. No hard link: that
        // would have the other's age, by which garbage is told, and its damages.
        io::copy(&mut source, &mut staged.file).map_err(|e| backend("copying", from, e))?;
        self.name_blocking(to, staged)
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
            self.flushes.flush(dir).map_err(|e| backend("removing", key, e))?;
            // Not empty is the usual answer; an empty folder left behind does no harm.
            if fs::remove_dir(dir).is_err() {
                break;
            }
            self.flushes.forget_entry(dir);
            folder = dir.parent();
        }
        Ok(())
    }

    fn list_blocking(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        ensure!(self.root.is_dir(), NoRepositorySnafu { repository: self.label() });
        walk::objects(&self.root, prefix).map_err(|e| backend("listing", prefix, e))
    }

    fn remove_unfinished_blocking(&self, id: &str) -> Result<(), StoreError> {
        check_key(id)?;
        match fs::remove_file(self.root.join(STAGING).join(id)) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other.map_err(|e| backend("removing", id, e)),
        }
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
            let span = tracing::Span::current();
            let task = tokio::task::spawn_blocking(move || span.in_scope(|| work(&store, &key)));
            task.await.boxed_context("working on", &for_error)?
        })
    }
}

/// A staged file and its store; nothing while bytes are being written on another thread.
#[derive(Debug)]
struct FileWriter {
    store: LocalStore,
    key: String,
    staged: Option<Staged>,
}

impl FileWriter {
    fn end(
        self,
        name: fn(&LocalStore, &str, Staged) -> Result<(), StoreError>,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        let FileWriter { store, key, staged } = self;
        store.blocking(&key, move |store, key| {
            let lost = || io::Error::other("an earlier write was broken off");
            name(store, key, staged.ok_or_else(|| backend("writing", key, lost()))?)
        })
    }
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
        self.end(LocalStore::name_blocking)
    }
    fn replace(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        self.end(LocalStore::replace_blocking)
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
    fn put_new<'a>(&'a self, key: &'a str, body: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        self.blocking(key, move |store, key| store.put_new_blocking(key, &body))
    }
    fn exclusive(&self) -> BoxFuture<'_, Result<Exclusive, StoreError>> {
        Box::pin(async { Ok(Exclusive::Honoured) })
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
    fn copy<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        let to = to.to_owned();
        self.blocking(from, move |store, from| store.copy_blocking(from, &to))
    }
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.blocking(key, |store, key| store.delete_blocking(key))
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<ObjectInfo>, StoreError>> {
        self.blocking(prefix, |store, prefix| store.list_blocking(prefix))
    }
    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<Unfinished>, StoreError>> {
        let failed = |e| backend("listing", STAGING, e);
        self.blocking("", move |store, _| walk::unfinished(&store.root).map_err(failed))
    }
    fn remove_unfinished<'a>(&'a self, of: &'a Unfinished) -> BoxFuture<'a, Result<(), StoreError>> {
        self.blocking(&of.id, |store, id| store.remove_unfinished_blocking(id))
    }
}

fn backend(operation: &'static str, key: &str, source: io::Error) -> StoreError {
    BackendSnafu { operation, key }.into_error(Box::new(source))
}
