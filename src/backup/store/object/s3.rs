//! The bucket: how it is reached, and the requests that `object_store` signs but does not make.

use super::cause::{Cause, element};
use super::http::Connector;
use super::{Boxed, S3Options};
use crate::backup::store::{BackendSnafu, SettingsSnafu, StoreError, Unfinished};
use futures::TryFutureExt;
use http::{Method, Request};
use jiff::Timestamp;
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
/// Pages of a listing: a server that never ends one is not followed for ever.
const MAX_PAGES: usize = 10_000;

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
            let query = SignedUrlOptions::new().with_query(query);
            let root = Path::default();
            let url = self.client.signed_url_opts(Method::GET, &root, SIGNATURE_LIFETIME, &query).await;
            let url = url.map_err(|e| failed(Box::new(Cause::of(&e))))?;
            let (status, text) = self.ask(Method::GET, url.as_str(), String::new()).await.map_err(failed)?;
            // A server that does not know the question has none to tell.
            if matches!(status.as_u16(), 404 | 405 | 501) {
                return Ok(Vec::new());
            }
            if !status.is_success() {
                return Err(failed(Box::new(Cause::of_answer(&status.to_string(), &text))));
            }
            found.extend(text.split("<Upload>").skip(1).filter_map(|upload| parse(upload, prefix)));
            let marker = |name| element(&text, name).map(plain).filter(|marker| !marker.is_empty());
            match (marker("NextKeyMarker"), marker("NextUploadIdMarker")) {
                (Some(key), Some(id)) if element(&text, "IsTruncated") == Some("true") => {
                    after = Some((key, id))
                }
                _ => break,
            }
        }
        found.sort();
        Ok(found)
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
        let text = answer.into_body().bytes().await.unwrap_or_default();
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

fn parse(upload: &str, prefix: &str) -> Option<Unfinished> {
    let key = plain(element(upload, "Key")?);
    let begun = element(upload, "Initiated").and_then(|time| time.parse::<Timestamp>().ok())?;
    Some(Unfinished {
        key: key.strip_prefix(prefix)?.to_owned(),
        id: plain(element(upload, "UploadId")?),
        size: 0,
        begun,
    })
}

/// Text without XML's escapes.
fn plain(text: &str) -> String {
    let escapes =
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&apos;", "'"), ("&amp;", "&")];
    escapes.iter().fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_upload_is_read_from_a_listing() {
        let upload = "<Key>a/volume_1/x&amp;y</Key><UploadId>2~z</UploadId>\
                      <Initiated>2026-01-02T03:04:05.000Z</Initiated></Upload>";
        let read = parse(upload, "a/").unwrap();
        assert_eq!((read.key.as_str(), read.id.as_str()), ("volume_1/x&y", "2~z"));
        assert_eq!(read.begun.to_string(), "2026-01-02T03:04:05Z");
        assert_eq!(parse(upload, "b/"), None);
    }
}
