//! S3 (and memory, for tests) through `object_store`: signing, retries with backoff, listing pages.

mod answer;
mod cause;
mod http;
mod listing;
mod probe;
mod s3;
mod upload;

pub use upload::Upload;

use super::options::{self, S3Options};
use super::{
    BackendSnafu, CannotCopySnafu, Exclusive, ExistsSnafu, MissingSnafu, NoRepositorySnafu, ObjectInfo,
    ObjectWriter, PROBE, Store, StoreError, TooLargeSnafu, Unfinished, check_key,
};
use bytes::{Bytes, BytesMut};
use cause::Cause;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};
use s3::Bucket;
use snafu::{IntoError, ResultExt, ensure};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::OnceCell;
use upload::PartWriter;

type Boxed = Box<dyn std::error::Error + Send + Sync>;

/// Times that an object is read which the server never sends whole.
const READS: usize = 3;
/// Tries to make an object whose name is taken one moment and free the next.
const RACES: usize = 5;
/// A store behind `object_store`'s trait, below a prefix of its own.
#[derive(Clone)]
pub struct ObjectBacked {
    inner: Arc<dyn ObjectStore>,
    label: String,
    /// Ends with a slash unless it is empty.
    prefix: String,
    s3: Option<Bucket>,
    /// Found out before the first write, once for all clones.
    exclusive: Arc<OnceCell<Exclusive>>,
}

/// Its URL alone: what else it knows holds secrets.
impl fmt::Debug for ObjectBacked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectBacked({})", self.label)
    }
}

impl ObjectBacked {
    /// A store that ends with the process.
    pub fn memory() -> Self {
        let inner = Arc::new(InMemory::new());
        let label = "memory:".to_owned();
        ObjectBacked { inner, label, prefix: String::new(), s3: None, exclusive: Arc::default() }
    }

    /// A bucket; credentials and the rest from the AWS_* variables. Nothing is contacted yet.
    pub fn s3(bucket: &str, prefix: &str, options: &S3Options) -> Result<Self, StoreError> {
        let s3 = Bucket::connect(bucket, options)?;
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(ObjectBacked {
            inner: Arc::clone(&s3.client) as Arc<dyn ObjectStore>,
            label: format!("s3://{bucket}/{prefix}"),
            prefix,
            s3: Some(s3),
            exclusive: Arc::default(),
        })
    }

    fn path(&self, key: &str) -> Result<Path, StoreError> {
        check_key(key)?;
        let path = Path::parse(format!("{}{key}", self.prefix));
        path.map_err(|e| Box::new(e) as Boxed).context(BackendSnafu { operation: "naming", key })
    }

    fn error(&self, operation: &'static str, key: &str, source: Error) -> StoreError {
        match source {
            source if no_such_bucket(&source) => NoRepositorySnafu { repository: &self.label }.build(),
            Error::NotFound { .. } => MissingSnafu { key }.build(),
            source => BackendSnafu { operation, key }.into_error(Box::new(Cause::of(&source))),
        }
    }

    /// An object's URL.
    pub fn url_of(&self, key: &str) -> String {
        format!("{}{key}", self.label)
    }

    /// Whether there is such an object. A missing bucket is an error.
    pub async fn has(&self, key: &str) -> Result<bool, StoreError> {
        match self.inner.head(&self.path(key)?).await {
            Ok(_) => Ok(true),
            // Its answer has no body that could tell a missing bucket from a missing object.
            Err(Error::NotFound { .. }) => {
                let listed = self.inner.list(Some(&self.path(key)?)).next().await;
                listed.transpose().map(|_| false).map_err(|e| self.error("looking for", key, e))
            }
            Err(e) => Err(self.error("looking for", key, e)),
        }
    }

    async fn found_exclusive(&self) -> Result<Exclusive, StoreError> {
        let probe = || async {
            let found = probe::exclusive(self.inner.as_ref(), &self.prefix).await;
            let found = found.map_err(|e| self.error("trying to write into", &self.label, e))?;
            match found {
                Some(Exclusive::Honoured) => {}
                Some(Exclusive::Ignored) => tracing::warn!(
                    repository = self.label,
                    "the store replaces objects although told to make new ones (If-None-Match): \
                     what another may have made is looked for before it is written"
                ),
                None => tracing::warn!(
                    repository = self.label,
                    "the store cannot be tried out, for the credentials do not give the right to write {PROBE}*: \
                     what another may have made is looked for before it is written"
                ),
            }
            Ok(found.unwrap_or(Exclusive::Ignored))
        };
        self.exclusive.get_or_try_init(probe).await.copied()
    }

    async fn put_exclusively(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let conditional = self.found_exclusive().await? == Exclusive::Honoured;
        for _ in 0..RACES {
            // Only where it must be: a request for each object.
            let there = !conditional && self.is_there(key).await?;
            let mode = if conditional { PutMode::Create } else { PutMode::Overwrite };
            let done = match there {
                true => None,
                false => Some(self.inner.put_opts(&path, body.clone().into(), mode.into()).await),
            };
            match done {
                Some(Ok(_)) => return Ok(()),
                // Refused: by what an earlier try of ours stored, its answer lost, or by another's.
                None | Some(Err(Error::AlreadyExists { .. })) => {}
                Some(Err(e)) => return Err(self.error("writing", key, e)),
            }
            match self.get_whole(key, body.len() as u64).await {
                Ok(found) if found == body => return Ok(()),
                // Refused because another was writing it, who then did not: ours may come through now.
                Err(StoreError::Missing { .. }) => {}
                Ok(_) | Err(StoreError::TooLarge { .. }) => break,
                Err(e) => return Err(e),
            }
        }
        ExistsSnafu { key }.fail()
    }

    async fn is_there(&self, key: &str) -> Result<bool, StoreError> {
        match self.inner.head(&self.path(key)?).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(e) => Err(self.error("looking for", key, e)),
        }
    }

    async fn copy_new(&self, from: &str, to: &str) -> Result<(), StoreError> {
        let (source, target) = (self.path(from)?, self.path(to)?);
        // Most servers have no exclusive copy.
        ensure!(!self.is_there(to).await?, ExistsSnafu { key: to });
        match self.inner.copy(&source, &target).await {
            Ok(()) => Ok(()),
            Err(e) if cause::is_refusal(&e) => {
                Err(CannotCopySnafu { key: from }.into_error(Box::new(Cause::of(&e))))
            }
            Err(e) => Err(self.error("copying", from, e)),
        }
    }

    /// Reads an object; again from its begin, some times, when the server stops in the middle of it.
    async fn get_whole(&self, key: &str, limit: u64) -> Result<Bytes, StoreError> {
        let mut broken_off = 0;
        loop {
            match self.get_once(key, limit, &mut broken_off).await {
                Err(StoreError::Backend { .. }) if (1..READS).contains(&broken_off) => {}
                done => return done,
            }
        }
    }

    /// Counts when it ends too early.
    async fn get_once(&self, key: &str, limit: u64, broken_off: &mut usize) -> Result<Bytes, StoreError> {
        let failed = |e| self.error("reading", key, e);
        let found = self.inner.get(&self.path(key)?).await.map_err(failed)?;
        let size = found.meta.size;
        ensure!(size <= limit, TooLargeSnafu { key, size, limit });
        // Counted as it comes: the size in the header is only what the server claims.
        let mut body = BytesMut::new();
        let mut stream = found.into_stream();
        loop {
            let next = stream.try_next().await;
            if next.is_err() {
                *broken_off += 1;
            }
            let Some(part) = next.map_err(failed)? else { break };
            let got = body.len() as u64 + part.len() as u64;
            ensure!(got <= limit, TooLargeSnafu { key, size: got, limit });
            if body.is_empty() && got == size {
                return Ok(part);
            }
            if body.is_empty() {
                body.reserve(size as usize);
            }
            body.extend_from_slice(&part);
        }
        if (body.len() as u64) < size {
            *broken_off += 1;
            let reason = format!("the server sent {} of {size} bytes", body.len());
            return Err(BackendSnafu { operation: "reading", key }.into_error(reason.into()));
        }
        Ok(body.freeze())
    }

    async fn get_part(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let failed = |e| self.error("reading", key, e);
        let path = self.path(key)?;
        // Past the end S3 answers 416, which is no byte here: only then is the size asked for.
        match self.inner.get_range(&path, range.clone()).await {
            Ok(bytes) => Ok(bytes),
            Err(e @ Error::NotFound { .. }) => Err(failed(e)),
            Err(e) => match self.inner.head(&path).await.map_err(failed)?.size {
                size if range.start >= size => Ok(Bytes::new()),
                _ => Err(failed(e)),
            },
        }
    }
}

/// S3 answers 404 for a missing bucket as for a missing object; only the body tells them apart.
fn no_such_bucket(error: &Error) -> bool {
    error.to_string().contains("<Code>NoSuchBucket</Code>")
}

impl Store for ObjectBacked {
    fn ensure(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let Some(s3) = &self.s3 else { return Ok(()) };
            self.ensure_bucket(s3).await
        })
    }
    fn put<'a>(&'a self, key: &'a str, body: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let done = self.inner.put(&self.path(key)?, body.into()).await;
            done.map(drop).map_err(|e| self.error("writing", key, e))
        })
    }
    fn put_new<'a>(&'a self, key: &'a str, body: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.put_exclusively(key, body))
    }
    fn exclusive(&self) -> BoxFuture<'_, Result<Exclusive, StoreError>> {
        Box::pin(self.found_exclusive())
    }
    fn get<'a>(&'a self, key: &'a str, limit: u64) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(self.get_whole(key, limit))
    }
    fn get_range<'a>(&'a self, key: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(self.get_part(key, range))
    }
    fn begin<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Box<dyn ObjectWriter>, StoreError>> {
        Box::pin(async move {
            self.path(key)?;
            let (store, key) = (self.clone(), key.to_owned());
            Ok(Box::new(PartWriter::new(store, key)) as Box<dyn ObjectWriter>)
        })
    }
    fn copy<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.copy_new(from, to))
    }
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            match self.inner.delete(&self.path(key)?).await {
                // Not there: already done.
                Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
                Err(e) => Err(self.error("removing", key, e)),
            }
        })
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<ObjectInfo>, StoreError>> {
        Box::pin(self.list_prefix(prefix))
    }
    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<Unfinished>, StoreError>> {
        Box::pin(async move {
            match &self.s3 {
                Some(s3) => s3.uploads(&self.prefix).await,
                None => Ok(Vec::new()),
            }
        })
    }
    fn remove_unfinished<'a>(&'a self, of: &'a Unfinished) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let Some(s3) = &self.s3 else { return Ok(()) };
            let done = s3.abort(&self.path(&of.key)?, &of.id).await;
            done.map_err(|e| self.error("breaking off the upload of", &of.key, e))
        })
    }
}
