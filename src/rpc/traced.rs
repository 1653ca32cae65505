//! Calls between processes take along what they belong to.

use crate::trace::{self, Carrier};
use tonic::codegen::http::{self, HeaderMap, HeaderValue};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tracing::Span;

/// Whoever probes for life calls it, all the time.
const PROBED: &str = "csi.v1.Identity";

/// Sidecars and kubelet call these: what they ask for is where traces begin.
const BEGINS: &str = "csi.v1.";

/// A channel whose calls tell the other side which request and trace they belong to.
pub type Traced = InterceptedService<Channel, TakeAlong>;

/// Makes such a channel of it.
pub fn traced(channel: Channel) -> Traced {
    InterceptedService::new(channel, TakeAlong)
}

/// Puts them among the headers.
#[derive(Clone, Copy, Debug)]
pub struct TakeAlong;

impl Interceptor for TakeAlong {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        trace::take_along(&mut Headers(request.metadata_mut()));
        Ok(request)
    }
}

struct Headers<'a>(&'a mut MetadataMap);

impl Carrier for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn set(&mut self, key: &'static str, value: String) {
        if let Ok(value) = MetadataValue::try_from(value) {
            self.0.insert(key, value);
        }
    }
}

struct Received<'a>(&'a HeaderMap);

impl Carrier for Received<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value: &HeaderValue| value.to_str().ok())
    }

    fn set(&mut self, _: &'static str, _: String) {}
}

/// The span of a call that came in: for `Server::trace_fn`.
pub fn span_of(request: &http::Request<()>) -> Span {
    let (service, method) = request.uri().path().trim_start_matches('/').split_once('/').unwrap_or_default();
    if service == PROBED {
        return Span::none();
    }
    let headers = Received(request.headers());
    let span = trace::call(service, method, headers.get(trace::REQUEST_ID));
    // The others' calls belong to something, or are looks that come again and again.
    trace::take_up(&span, &headers, service.starts_with(BEGINS));
    span
}
