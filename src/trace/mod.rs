//! What a log line or a trace belongs to: a call, or a job in the background.
//!
//! A call or a job has one span, with the id of the request, and as soon as it is known with the volume and the snapshot. Its
//! lines show these (`cli/telemetry`); calls of other processes take the id along, and the trace where traces are collected.
//! Both are found through the current span alone: whoever goes on elsewhere, on another thread or in another task, takes the span along.

mod remote;
mod request;

pub use remote::{Carrier, take_along, take_up};
pub use request::{RequestIds, current_request};

use std::fmt::Display;
use tracing::{Span, error_span, field::Empty};

/// On the wire between processes.
pub const REQUEST_ID: &str = "x-request-id";
/// Spans of that target are no part of traces.
pub const LOOKS: &str = "strata::looks";
/// A foreign id of more letters is none.
const LONGEST_ID: usize = 64;

/// An id of 16 letters.
fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()[..16].to_owned()
}

/// Whether an id that somebody sends fits into a log line.
fn is_fine(id: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !id.is_empty() && id.len() <= LONGEST_ID && id.chars().all(fine)
}

/// The span of a call that came in. `service` and `method` as on the wire; `id`: of the request, if the caller has sent one.
///
/// It is of the level of errors, so that no setting of the log takes the ids off the lines that are left.
pub fn call(service: &str, method: &str, id: Option<&str>) -> Span {
    let id = id.filter(|id| is_fine(id)).map_or_else(new_id, str::to_owned);
    error_span!(
        "call",
        request_id = id,
        method,
        volume = Empty,
        snapshot = Empty,
        node = Empty,
        otel.name = format!("{service}/{method}"),
        otel.kind = "server",
        otel.status_code = Empty,
        code = Empty,
    )
}

/// The span of a call that goes out, within whatever asks for it.
pub fn asking(method: &'static str, whom: &str) -> Span {
    error_span!(
        "asking",
        asks = method,
        whom,
        otel.name = method,
        otel.kind = "client",
        otel.status_code = Empty
    )
}

/// The span of a look at work that goes on elsewhere, which comes again and again: for lines of the log alone.
pub fn looking(method: &'static str, whom: &str) -> Span {
    error_span!(target: LOOKS, "looking", asks = method, whom)
}

/// The span of a job in the background, with a request id of its own.
pub fn job(kind: &'static str) -> Span {
    error_span!(
        parent: None,
        "job",
        request_id = new_id(),
        job = kind,
        volume = Empty,
        snapshot = Empty,
        backup = Empty,
        object = Empty,
        otel.name = kind,
        otel.status_code = Empty,
    )
}

/// The current call or job is about that volume.
pub fn about_volume(volume: impl Display) {
    Span::current().record("volume", tracing::field::display(volume));
}

/// The current call or job is about that snapshot.
pub fn about_snapshot(snapshot: impl Display) {
    Span::current().record("snapshot", tracing::field::display(snapshot));
}

/// The current call or job has failed.
pub fn failed() {
    Span::current().record("otel.status_code", "ERROR");
}

/// The same work, on whatever thread, as part of what is current now.
pub fn within<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let span = Span::current();
    move || span.in_scope(work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn the_id_of_a_request_is_found_from_within_and_goes_with_the_work() {
        let subscriber = tracing_subscriber::registry().with(RequestIds);
        tracing::subscriber::with_default(subscriber, || {
            assert_eq!(current_request(), None);
            let call = call("csi.v1.Controller", "CreateVolume", Some("abc-1"));
            let work = call.in_scope(|| {
                let inner = tracing::info_span!("inner");
                inner.in_scope(|| within(current_request))
            });
            assert_eq!(current_request(), None);
            assert_eq!(work(), Some("abc-1".to_owned()));
            call.in_scope(|| {
                let own = job("merge").in_scope(current_request).unwrap();
                assert!(own != "abc-1" && is_fine(&own), "{own}");
            });
        });
    }

    #[test]
    fn an_id_that_does_not_fit_into_a_line_is_replaced() {
        let subscriber = tracing_subscriber::registry().with(RequestIds);
        tracing::subscriber::with_default(subscriber, || {
            for wrong in ["", "a b", "a\nb", "\"", &"x".repeat(65)] {
                let id = call("s", "m", Some(wrong)).in_scope(current_request).unwrap();
                assert_eq!(id.len(), 16, "{wrong:?} became {id:?}");
            }
        });
    }
}
