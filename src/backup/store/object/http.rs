//! The HTTP client under S3: certificates, a proxy, and an eye on connections on which nothing moves.
//!
//! A deadline for a whole request would cut a large object on a slow line while its bytes still
//! move; so the time without any movement is bounded instead, in both directions.

use super::options::{S3Options, Timeouts};
use bytes::Bytes;
use http::Method;
use http::header::IF_NONE_MATCH;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{
    ClientConfigKey, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use object_store::{ClientOptions, Error};
use snafu::Snafu;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::time::Sleep;

/// A body is handed over in pieces of this size, so that it shows when one has gone.
const PIECE: usize = 64 << 10;
/// What the kernel may still hold of a body that was handed over whole (its largest send buffer).
const IN_THE_KERNEL: u64 = 4 << 20;
/// The slowest line, bytes a second, on which that much is waited for.
const SLOWEST: u64 = 64 << 10;

/// Makes HTTP clients for `object_store`: one for the bucket, one for whoever gives the credentials.
#[derive(Debug)]
pub(super) struct Connector {
    certificates: Vec<reqwest::Certificate>,
    proxy: Option<reqwest::Proxy>,
    timeouts: Timeouts,
}

impl Connector {
    pub fn new(options: &S3Options) -> Result<Self, Box<dyn StdError + Send + Sync>> {
        let mut certificates = Vec::new();
        if let Some(file) = &options.ca_file {
            let told = |reason: String| format!("the CA file {}: {reason}", file.display());
            let pem = std::fs::read(file).map_err(|e| told(e.to_string()))?;
            certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| told(chain(&e)))?;
            if certificates.is_empty() {
                return Err(told("it holds no certificate in PEM form".to_owned()).into());
            }
        }
        let proxy = options.proxy.as_deref().map(|url| {
            // The URL may hold a password.
            let proxy = reqwest::Proxy::all(url).map_err(|_| "the proxy is no URL, such as http://HOST:PORT");
            proxy.map(|proxy| proxy.no_proxy(reqwest::NoProxy::from_env()))
        });
        Ok(Connector { certificates, proxy: proxy.transpose()?, timeouts: options.timeouts })
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient, Error> {
        let Timeouts { mut connect, stall, .. } = self.timeouts;
        // So `object_store` asks the machine's own service for a role, which not every machine has.
        let own = options.get_config_value(&ClientConfigKey::ConnectTimeout);
        let maybe_absent = own.is_some_and(|value| ["1s", "1 second"].contains(&value.as_str()));
        if maybe_absent {
            connect = connect.min(Duration::from_secs(1));
        }
        let plain =
            options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|value| value == "true");
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("strata/", env!("CARGO_PKG_VERSION")))
            .https_only(!plain)
            .connect_timeout(connect)
            // Of sent bytes that nobody acknowledges, and of a peer that takes no more.
            .tcp_user_timeout(stall)
            .tls_certs_merge(self.certificates.clone());
        if let Some(proxy) = &self.proxy {
            builder = builder.proxy(proxy.clone());
        }
        let client = builder.build().map_err(|e| Error::Generic { store: "S3", source: chain(&e).into() })?;
        Ok(HttpClient::new(Watched { client, stall, maybe_absent }))
    }
}

#[derive(Debug)]
struct Watched {
    client: reqwest::Client,
    stall: Duration,
    /// Then nobody there means that there is no such service, not that it is away.
    maybe_absent: bool,
}

impl HttpService for Watched {
    fn call<'service, 'call>(
        &'service self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'call>>
    where
        'service: 'call,
        Self: 'call,
    {
        Box::pin(self.exchange(request))
    }
}

impl Watched {
    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        // The second try of a conditional write is answered "is there already" if the first one landed, and then
        // looked into; that of a removal finds nothing to remove.
        let conditional = parts.method == Method::PUT && parts.headers.contains_key(IF_NONE_MATCH);
        let harmless = conditional || parts.method == Method::DELETE;
        let length = body.content_length() as u64;
        let moved = Arc::new(Moved::new());
        let url = reqwest::Url::parse(&parts.uri.to_string())
            .map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        let mut outgoing = reqwest::Request::new(parts.method, url);
        *outgoing.headers_mut() = parts.headers;
        *outgoing.body_mut() = Some(match length {
            0 => Bytes::new().into(),
            _ => reqwest::Body::wrap(Outgoing { pieces: pieces(body), moved: Arc::clone(&moved) }),
        });
        let allowance = self.stall + Duration::from_millis(length.min(IN_THE_KERNEL) * 1000 / SLOWEST);
        let answer = tokio::select! {
            answer = self.client.execute(outgoing) => answer.map_err(|e| match self.maybe_absent && e.is_connect() {
                true => HttpError::new(HttpErrorKind::Unknown, Failed { text: chain(&e) }),
                false => failure(e, harmless),
            })?,
            () = moved.stalled(allowance) => {
                let kind = if harmless { HttpErrorKind::Request } else { HttpErrorKind::Timeout };
                return Err(HttpError::new(kind, Stalled { seconds: allowance.as_secs_f64() }));
            }
        };
        let (parts, body) = http::Response::<reqwest::Body>::from(answer).into_parts();
        let timer = Box::pin(tokio::time::sleep(self.stall));
        let body = Incoming { body, timer, stall: self.stall };
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}

/// Nothing came and nothing went.
#[derive(Debug, Snafu)]
#[snafu(display("no byte moved for {seconds:.1} s"))]
struct Stalled {
    seconds: f64,
}

/// What an HTTP client says, with all of its causes.
#[derive(Debug, Snafu)]
#[snafu(display("{text}"))]
struct Failed {
    text: String,
}

/// Errors say what `object_store` may try again; the client's own text leaves the cause out.
fn failure(error: reqwest::Error, harmless: bool) -> HttpError {
    let text = chain(&error);
    let io = |kinds: &[io::ErrorKind]| {
        let mut next: Option<&(dyn StdError + 'static)> = error.source();
        while let Some(cause) = next {
            if cause.downcast_ref::<io::Error>().is_some_and(|cause| kinds.contains(&cause.kind())) {
                return true;
            }
            next = cause.source();
        }
        false
    };
    let kind = if text.contains("invalid peer certificate") || error.is_builder() {
        // Certificates do not get better by asking again.
        HttpErrorKind::Unknown
    } else if error.is_connect() || harmless {
        HttpErrorKind::Request
    } else if error.is_timeout() || io(&[io::ErrorKind::TimedOut]) {
        HttpErrorKind::Timeout
    } else if error.is_decode() {
        HttpErrorKind::Decode
    } else {
        // Reset, closed too early, answered with no HTTP: all that a healthy server does not do.
        HttpErrorKind::Interrupted
    };
    HttpError::new(kind, Failed { text })
}

/// An error with its causes; each once, no URL (it may hold a signature).
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        let said = match cause.downcast_ref::<reqwest::Error>() {
            Some(e) if e.url().is_some() => {
                e.to_string().replace(&format!(" for url ({})", e.url().map_or("", |url| url.as_str())), "")
            }
            _ => cause.to_string(),
        };
        if !text.contains(&said) {
            let between = if text.is_empty() { "" } else { ": " };
            text = format!("{text}{between}{said}");
        }
        next = cause.source();
    }
    text
}

/// When something last moved.
#[derive(Debug)]
struct Moved {
    begun: Instant,
    /// Milliseconds after `begun`.
    last: AtomicU64,
}

impl Moved {
    fn new() -> Self {
        Moved { begun: Instant::now(), last: AtomicU64::new(0) }
    }

    fn now(&self) {
        self.last.store(self.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    async fn stalled(&self, allowance: Duration) {
        loop {
            let due = Duration::from_millis(self.last.load(Ordering::Relaxed)) + allowance;
            match due.checked_sub(self.begun.elapsed()) {
                Some(left) if !left.is_zero() => tokio::time::sleep(left).await,
                _ => return,
            }
        }
    }
}

/// The parts of a body that is all in memory.
fn pieces(mut body: object_store::client::HttpRequestBody) -> VecDeque<Bytes> {
    let mut pieces = VecDeque::new();
    let mut context = Context::from_waker(Waker::noop());
    while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut context) {
        pieces.extend(frame.into_data().ok().filter(|data| !data.is_empty()));
    }
    pieces
}

/// A body on its way to the server.
struct Outgoing {
    pieces: VecDeque<Bytes>,
    moved: Arc<Moved>,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.moved.now();
        let Some(first) = self.pieces.front_mut() else { return Poll::Ready(None) };
        let piece = first.split_to(first.len().min(PIECE));
        if first.is_empty() {
            self.pieces.pop_front();
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.pieces.iter().map(|piece| piece.len() as u64).sum())
    }
}

/// A body on its way from the server.
struct Incoming {
    body: reqwest::Body,
    timer: Pin<Box<Sleep>>,
    stall: Duration,
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let stall = self.stall;
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => {
                self.timer.as_mut().reset(tokio::time::Instant::now() + stall);
                Poll::Ready(frame.map(|frame| frame.map_err(|e| failure(e, false))))
            }
            Poll::Pending if self.timer.as_mut().poll(context).is_ready() => {
                let stalled = Stalled { seconds: stall.as_secs_f64() };
                Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Timeout, stalled))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
