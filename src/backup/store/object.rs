//! S3 (and memory, for tests) through `object_store`: signing, retries with backoff, listing pages.

use super::{
    BackendSnafu, Exclusive, ExistsSnafu, MissingSnafu, NoRepositorySnafu, ObjectInfo, ObjectWriter,
    SettingsSnafu, Store, StoreError, TooLargeSnafu, check_key, probe,
};
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use http::{Method, Request};
use jiff::Timestamp;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::{HttpConnector, HttpRequestBody, ReqwestConnector};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{ClientOptions, Error, ObjectStore, ObjectStoreExt, PutMode, WriteMultipart};
use snafu::{IntoError, ResultExt, ensure};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

type Boxed = Box<dyn std::error::Error + Send + Sync>;

/// A whole chunk over a slow line; retries make up for a connection that hangs.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);
/// Tries to make an object whose name is taken one moment and free the next.
const RACES: usize = 5;
/// Enough for any clock that S3 itself would accept.
const SIGNATURE_LIFETIME: Duration = Duration::from_secs(300);

/// What the AWS_* variables do not say, or say otherwise.
#[derive(Clone, Default)]
pub struct S3Options {
    /// Access key and secret key.
    pub credentials: Option<(String, String)>,
    /// Of a server that is not Amazon's.
    pub endpoint: Option<String>,
    /// The region to sign for.
    pub region: Option<String>,
    /// `http://BUCKET.HOST/…` where the default for an endpoint is `http://HOST/BUCKET/…`.
    pub virtual_host_style: bool,
}

/// A store behind `object_store`'s trait, below a prefix of its own.
#[derive(Clone, Debug)]
pub struct ObjectBacked {
    inner: Arc<dyn ObjectStore>,
    label: String,
    /// Ends with a slash unless it is empty.
    prefix: String,
    s3: Option<S3Bucket>,
    /// Found out before the first write, once for all clones.
    exclusive: Arc<OnceCell<Exclusive>>,
}

#[derive(Clone, Debug)]
struct S3Bucket {
    client: Arc<AmazonS3>,
    options: ClientOptions,
    region: String,
}

impl ObjectBacked {
    /// A store that ends with the process.
    pub fn memory() -> Self {
        let inner = Arc::new(InMemory::new());
        let label = "memory:".to_owned();
        ObjectBacked { inner, label, prefix: String::new(), s3: None, exclusive: Arc::default() }
    }

    /// A bucket, credentials and the rest from the AWS_* variables.
    pub fn s3(bucket: &str, prefix: &str, options: &S3Options) -> Result<Self, StoreError> {
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
        if let Some(endpoint) = &options.endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
        }
        if let Some(region) = &options.region {
            builder = builder.with_region(region);
        }
        if let Some((key, secret)) = &options.credentials {
            builder = builder.with_access_key_id(key).with_secret_access_key(secret);
        }
        let plain_http = builder
            .get_config_value(&AmazonS3ConfigKey::Endpoint)
            .is_some_and(|endpoint| endpoint.starts_with("http://"));
        let client_options = ClientOptions::new().with_allow_http(plain_http).with_timeout(REQUEST_TIMEOUT);
        let region = builder.get_config_value(&AmazonS3ConfigKey::Region).unwrap_or_default();
        let client = builder
            .with_virtual_hosted_style_request(options.virtual_host_style)
            // Chunks carry digests of their own; hashing each once more costs a core (B15).
            .with_unsigned_payload(true)
            .with_client_options(client_options.clone())
            .build()
            .map_err(|e| Box::new(e) as Boxed)
            .context(SettingsSnafu)?;
        let client = Arc::new(client);
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(ObjectBacked {
            inner: Arc::clone(&client) as Arc<dyn ObjectStore>,
            label: format!("s3://{bucket}/{prefix}"),
            prefix,
            s3: Some(S3Bucket { client, options: client_options, region }),
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
            source => BackendSnafu { operation, key }.into_error(Box::new(source)),
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

    /// Begins an object that is sent in parts and is there when it is finished.
    pub async fn begin_upload(&self, key: &str, part: usize) -> Result<Upload, StoreError> {
        let begun = self.inner.put_multipart(&self.path(key)?).await;
        let begun = begun.map_err(|e| self.error("beginning the upload of", key, e))?;
        let parts = WriteMultipart::new_with_chunk_size(begun, part);
        Ok(Upload { store: self.clone(), key: key.to_owned(), parts })
    }

    async fn found_exclusive(&self) -> Result<Exclusive, StoreError> {
        let probe = || async {
            let found = probe::exclusive(self.inner.as_ref(), &self.prefix).await;
            let found = found.map_err(|e| self.error("trying to write into", &self.label, e))?;
            if found == Exclusive::Ignored {
                tracing::warn!(
                    repository = self.label,
                    "the store replaces objects although told to make new ones (If-None-Match): \
                     each is looked for before it is written"
                );
            }
            Ok(found)
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

    async fn get_whole(&self, key: &str, limit: u64) -> Result<Bytes, StoreError> {
        let failed = |e| self.error("reading", key, e);
        let found = self.inner.get(&self.path(key)?).await.map_err(failed)?;
        let size = found.meta.size;
        ensure!(size <= limit, TooLargeSnafu { key, size, limit });
        // Counted as it comes: the size in the header is only what the server claims.
        let mut body = BytesMut::new();
        let mut stream = found.into_stream();
        while let Some(part) = stream.try_next().await.map_err(failed)? {
            let size = body.len() as u64 + part.len() as u64;
            ensure!(size <= limit, TooLargeSnafu { key, size, limit });
            if body.is_empty() && size == limit {
                return Ok(part);
            }
            body.extend_from_slice(&part);
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

    async fn list_prefix(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        // The interface lists by folders; the rest of the prefix is compared here.
        let whole = format!("{}{prefix}", self.prefix);
        let folder = whole.rsplit_once('/').map(|(folder, _)| Path::from(folder));
        let mut stream = self.inner.list(folder.as_ref());
        let mut found = Vec::new();
        while let Some(next) = stream.next().await {
            let meta = next.map_err(|e| self.error("listing", prefix, e))?;
            let key = meta.location.as_ref();
            if let Some(key) = key.strip_prefix(&self.prefix).filter(|key| key.starts_with(prefix)) {
                let modified = Timestamp::from_millisecond(meta.last_modified.timestamp_millis());
                let modified = modified.unwrap_or(Timestamp::UNIX_EPOCH);
                found.push(ObjectInfo { key: key.to_owned(), size: meta.size, modified });
            }
        }
        found.sort();
        Ok(found)
    }

    /// Makes the bucket. `object_store` has no such call, but signs a request for one.
    async fn create_bucket(&self, s3: &S3Bucket) -> Result<(), StoreError> {
        let context = BackendSnafu { operation: "making the bucket", key: &self.label };
        let url = s3.client.signed_url(Method::PUT, &Path::default(), SIGNATURE_LIFETIME).await;
        let url = url.map_err(|e| Box::new(e) as Boxed).context(context)?;
        // Amazon wants no constraint for its first region, and the right one for each other.
        let body = match s3.region.as_str() {
            "" | "us-east-1" => String::new(),
            region => format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
            ),
        };
        let request = Request::put(url.as_str())
            .header("content-length", body.len())
            .body(HttpRequestBody::from(body))
            .map_err(|e| Box::new(e) as Boxed)
            .context(context)?;
        let http = ReqwestConnector::default().connect(&s3.options);
        let http = http.map_err(|e| Box::new(e) as Boxed).context(context)?;
        let answer = http.execute(request).await.map_err(|e| Box::new(e) as Boxed).context(context)?;
        let status = answer.status();
        // 409: it is ours already, somebody was faster. If it is another's, the first write says so.
        if status.is_success() || status.as_u16() == 409 {
            return Ok(());
        }
        let text = answer.into_body().bytes().await.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        Err(context.into_error(format!("the server answered {status}: {text}").into()))
    }
}

/// An object on its way: not there until it is finished.
#[derive(Debug)]
pub struct Upload {
    store: ObjectBacked,
    key: String,
    parts: WriteMultipart,
}

impl Upload {
    /// Takes bytes, once fewer than `most` parts are under way.
    pub async fn send(&mut self, bytes: Bytes, most: usize) -> Result<(), StoreError> {
        let ready = self.parts.wait_for_capacity(most).await;
        ready.map_err(|e| self.store.error("uploading", &self.key, e))?;
        self.parts.put(bytes);
        Ok(())
    }

    /// Makes it an object; if that fails, what was sent is removed.
    pub async fn finish(self) -> Result<(), StoreError> {
        let Upload { store, key, parts } = self;
        parts.finish().await.map(drop).map_err(|e| store.error("finishing the upload of", &key, e))
    }

    /// Removes what was sent.
    pub async fn abort(self) -> Result<(), StoreError> {
        let Upload { store, key, parts } = self;
        parts.abort().await.map_err(|e| store.error("breaking off the upload of", &key, e))
    }
}

/// Bytes of one part. Ten thousand of them, the most that S3 takes, are the hashes of some 30 TiB.
const PART: usize = 8 << 20;
/// Parts of one object on their way at a time.
const PARTS_UNDER_WAY: usize = 3;

/// An object that becomes an upload in parts only once it is larger than one.
#[derive(Debug)]
struct PartWriter {
    store: ObjectBacked,
    key: String,
    first: BytesMut,
    upload: Option<Upload>,
}

impl PartWriter {
    async fn take(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        if let Some(upload) = &mut self.upload {
            return upload.send(bytes, PARTS_UNDER_WAY).await;
        }
        self.first.extend_from_slice(&bytes);
        if self.first.len() >= PART {
            let upload = self.upload.insert(self.store.begin_upload(&self.key, PART).await?);
            upload.send(std::mem::take(&mut self.first).freeze(), PARTS_UNDER_WAY).await?;
        }
        Ok(())
    }
}

impl ObjectWriter for PartWriter {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.take(bytes))
    }
    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(async move {
            let Some(upload) = self.upload else {
                return self.store.put_exclusively(&self.key, self.first.freeze()).await;
            };
            // S3 has no exclusive end of an upload that all servers know: names never collide.
            if self.store.is_there(&self.key).await? {
                upload.abort().await?;
                return ExistsSnafu { key: self.key }.fail();
            }
            upload.finish().await
        })
    }
    fn abort(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(async move {
            match self.upload {
                Some(upload) => upload.abort().await,
                None => Ok(()),
            }
        })
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
            let folder = Path::from(self.prefix.as_str());
            match self.inner.list(Some(&folder)).next().await {
                None | Some(Ok(_)) => Ok(()),
                Some(Err(e)) if no_such_bucket(&e) => self.create_bucket(s3).await,
                Some(Err(e)) => Err(self.error("opening", &self.label, e)),
            }
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
            let writer = PartWriter { store, key, first: BytesMut::new(), upload: None };
            Ok(Box::new(writer) as Box<dyn ObjectWriter>)
        })
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
}
