//! The bucket: how it is reached, and the requests that `object_store` signs but does not make.

use super::answer::{Page, UploadPage};
use super::cause::Cause;
use super::http::Connector;
use super::{Boxed, S3Options};
use crate::backup::store::{BackendSnafu, ObjectInfo, SettingsSnafu, StoreError, Unfinished};
use futures::{TryFutureExt, TryStreamExt};
use http::{Method, Request};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use object_store::client::{HttpClient, HttpConnector, HttpRequestBody};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};
use object_store::{ClientOptions, Error, RetryConfig, StaticCredentialProvider};
use snafu::{IntoError, ResultExt};
use std::sync::Arc;
use std::time::Duration;

/// Enough for any clock that S3 itself would accept.
const SIGNATURE_LIFETIME: Duration = Duration::from_secs(300);
/// Milliseconds before a page of a listing is asked for again.
const PAUSES: [u64; 5] = [200, 400, 800, 1600, 3200];
/// Pages of a listing: a server that never ends one is not followed for ever.
const MAX_PAGES: usize = 10_000;
/// Bytes of one: a thousand names of a kilobyte, of which each byte may be escaped, are 6 MB.
const MOST: usize = 32 << 20;

#[derive(Clone)]
pub(super) struct Bucket {
    pub client: Arc<AmazonS3>,
    http: HttpClient,
    region: String,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bucket({})", self.client)
    }
}

impl Bucket {
    pub fn connect(name: &str, options: &S3Options) -> Result<Bucket, StoreError> {
        let connector = Connector::new(options).context(SettingsSnafu)?;
        let builder = with_options(AmazonS3Builder::from_env().with_bucket_name(name), name, options)?;
        let plain = endpoint(&builder).is_some_and(|endpoint| endpoint.starts_with("http://"));
        let client_options = ClientOptions::new().with_allow_http(plain);
        let settings = |e: Error| SettingsSnafu.into_error(Box::new(e) as Boxed);
        let http = connector.connect(&client_options).map_err(settings)?;
        let region = builder.get_config_value(&AmazonS3ConfigKey::Region).unwrap_or_default();
        let retry = RetryConfig { retry_timeout: options.timeouts.give_up, ..RetryConfig::default() };
        let client = builder
            // Chunks carry digests of their own; hashing each once more costs a core (B15).
            .with_unsigned_payload(true)
            // One object a request: not every server knows the request for many.
            .with_disable_bulk_delete(true)
            .with_retry(retry)
            .with_client_options(client_options)
            .with_http_connector(connector)
            .build()
            .map_err(settings)?;
        Ok(Bucket { client: Arc::new(client), http, region })
    }

    /// Makes the bucket.
    pub async fn create(&self, label: &str) -> Result<(), StoreError> {
        let failed =
            |source: Boxed| BackendSnafu { operation: "making the bucket", key: label }.into_error(source);
        let url = self.client.signed_url(Method::PUT, &Path::default(), SIGNATURE_LIFETIME).await;
        let url = url.map_err(|e| failed(Box::new(Cause::of(&e))))?;
        // Amazon wants no constraint for its first region, and the right one for each other.
        let body = match self.region.as_str() {
            "" | "us-east-1" => String::new(),
            region => format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
            ),
        };
        let (status, text) = self.ask(Method::PUT, url.as_str(), body).await.map_err(failed)?;
        // 409: it is ours already, somebody was faster. If it is another's, the first write says so.
        if status.is_success() || status.as_u16() == 409 {
            return Ok(());
        }
        let cause = Cause::of_answer(&status.to_string(), &text);
        Err(failed(format!("{cause}; make the bucket yourself, or give the right to do so").into()))
    }

    /// Uploads in parts that were begun below `prefix` (which ends with a slash or is empty), whoever began them.
    pub async fn uploads(&self, prefix: &str) -> Result<Vec<Unfinished>, StoreError> {
        let failed = |source: Boxed| {
            BackendSnafu { operation: "listing the unfinished uploads of", key: prefix }.into_error(source)
        };
        let (mut found, mut after) = (Vec::new(), None::<(String, String)>);
        for _ in 0..MAX_PAGES {
            let mut query = vec![("uploads", String::new()), ("prefix", prefix.to_owned())];
            if let Some((key, id)) = after.take() {
                query.extend([("key-marker", key), ("upload-id-marker", id)]);
            }
            // A server that does not know the question has none to tell.
            let Some(text) = self.page(query).await.map_err(failed)? else { return Ok(Vec::new()) };
            let page = UploadPage::parse(&text, prefix).map_err(failed)?;
            found.extend(page.uploads);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        found.sort();
        Ok(found)
    }

    /// Objects whose names begin so; the names are any text.
    pub async fn list_as_text(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let failed = |source: Boxed| BackendSnafu { operation: "listing", key: prefix }.into_error(source);
        let (mut found, mut after) = (Vec::new(), None::<String>);
        loop {
            let mut query = vec![
                ("list-type", "2".to_owned()),
                ("encoding-type", "url".to_owned()),
                ("prefix", prefix.to_owned()),
            ];
            query.extend(after.clone().map(|token| ("continuation-token", token)));
            let text = self.page(query).await.map_err(failed)?;
            let text = text.ok_or_else(|| failed("the server does not know the request".into()))?;
            let page = Page::parse(&text).map_err(failed)?;
            found.extend(page.objects);
            match page.next {
                None => return Ok(found),
                Some(next) if after.as_ref() == Some(&next) => {
                    return Err(failed("the server gives the same page again and again".into()));
                }
                next => after = next,
            }
        }
    }

    /// One page of a listing; nothing from a server that does not know the question. Asked for again when the server
    /// is overloaded or the line breaks.
    async fn page(&self, query: Vec<(&'static str, String)>) -> Result<Option<String>, Boxed> {
        let mut pauses = PAUSES.iter();
        loop {
            match self.page_once(&query).await {
                Err(Refusal { passes: true, cause }) => match pauses.next() {
                    Some(pause) => tokio::time::sleep(Duration::from_millis(*pause)).await,
                    None => return Err(cause),
                },
                done => return done.map_err(|refusal| refusal.cause),
            }
        }
    }

    async fn page_once(&self, query: &[(&'static str, String)]) -> Result<Option<String>, Refusal> {
        let signed = SignedUrlOptions::new().with_query(query.to_vec());
        let root = Path::default();
        let url = self.client.signed_url_opts(Method::GET, &root, SIGNATURE_LIFETIME, &signed).await;
        let url = url.map_err(|e| Refusal { passes: false, cause: Box::new(Cause::of(&e)) })?;
        let asked = self.ask(Method::GET, url.as_str(), String::new()).await;
        let (status, text) = asked.map_err(|cause| Refusal { passes: true, cause })?;
        match status.as_u16() {
            404 | 405 | 501 => Ok(None),
            _ if status.is_success() => Ok(Some(text)),
            code => {
                let cause = Box::new(Cause::of_answer(&status.to_string(), &text));
                Err(Refusal { passes: code == 429 || code >= 500, cause })
            }
        }
    }

    /// Breaks off one of those.
    pub async fn abort(&self, path: &Path, id: &str) -> Result<(), Error> {
        match self.client.abort_multipart(path, &id.to_owned()).await {
            // Not there: finished or broken off already.
            Err(Error::NotFound { .. }) => Ok(()),
            other => other,
        }
    }

    async fn ask(
        &self,
        method: Method,
        url: &str,
        body: String,
    ) -> Result<(http::StatusCode, String), Boxed> {
        let request = Request::builder().method(method).uri(url).header("content-length", body.len());
        let request = request.body(HttpRequestBody::from(body))?;
        let answer = self.http.execute(request).map_err(|e| e.to_string()).await?;
        let status = answer.status();
        let (mut text, mut parts) = (Vec::new(), answer.into_body().bytes_stream());
        while let Some(part) = parts.try_next().await.map_err(|e| e.to_string())? {
            text.extend_from_slice(&part);
            if text.len() > MOST {
                return Err("the server's answer does not end".into());
            }
        }
        Ok((status, String::from_utf8_lossy(&text).into_owned()))
    }
}

fn endpoint(builder: &AmazonS3Builder) -> Option<String> {
    let get = |key| builder.get_config_value(&key);
    get(AmazonS3ConfigKey::S3Endpoint).or_else(|| get(AmazonS3ConfigKey::Endpoint))
}

fn with_options(
    mut builder: AmazonS3Builder,
    bucket: &str,
    options: &S3Options,
) -> Result<AmazonS3Builder, StoreError> {
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    if let Some((key_id, secret_key)) = options.credentials.clone() {
        // Whole: a token of the environment belongs to the keys of the environment.
        let credential = AwsCredential { key_id, secret_key, token: options.session_token.clone() };
        builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(credential)));
    }
    let get = |key| builder.get_config_value(&key);
    let virtual_hosts = options.virtual_host_style
        || get(AmazonS3ConfigKey::VirtualHostedStyleRequest).is_some_and(|value| value == "true");
    if let Some(server) = options.endpoint.clone().or_else(|| endpoint(&builder)) {
        let server = server.trim_end_matches('/');
        let Some((scheme, host)) = server.split_once("://").filter(|(_, host)| !host.is_empty()) else {
            let reason = format!("the endpoint {server:?} is no URL, such as https://HOST:PORT");
            return Err(SettingsSnafu.into_error(Boxed::from(reason)));
        };
        let server = match virtual_hosts {
            true => format!("{scheme}://{bucket}.{host}"),
            false => server.to_owned(),
        };
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, server);
    }
    Ok(builder.with_virtual_hosted_style_request(virtual_hosts))
}

/// Why there is no page, and whether to ask again.
struct Refusal {
    passes: bool,
    cause: Boxed,
}
