//! A trace goes on in another process: W3C's `traceparent` among the headers of a call.

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// A parent whose trace nobody collects.
const NOWHERE: &str = "00-00000000000000000000000000000001-0000000000000001-00";

/// Headers of a call.
pub trait Carrier {
    /// One of them.
    fn get(&self, key: &str) -> Option<&str>;
    /// Sets one.
    fn set(&mut self, key: &'static str, value: String);
}

struct Reading<'a, C>(&'a C);

impl<C: Carrier> Extractor for Reading<'_, C> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)
    }

    /// The propagator asks for its own headers by name.
    fn keys(&self) -> Vec<&str> {
        Vec::new()
    }
}

struct Writing<'a, C>(&'a mut C);

impl<C: Carrier> Injector for Writing<'_, C> {
    fn set(&mut self, key: &str, value: String) {
        match key {
            "traceparent" => self.0.set("traceparent", value),
            "tracestate" => self.0.set("tracestate", value),
            _ => {}
        }
    }
}

/// The trace of the span is the caller's. Without one it begins a trace where it `may_begin` one, else it is part of none.
pub fn take_up(span: &Span, headers: &impl Carrier, may_begin: bool) {
    let own = TraceContextPropagator::new();
    let parent = match headers.get("traceparent") {
        Some(_) => own.extract_with_context(&Context::new(), &Reading(headers)),
        None if may_begin => return,
        None => own.extract_with_context(&Context::new(), &Reading(&Nowhere)),
    };
    // Refused where traces are not collected.
    let _ = span.set_parent(parent);
}

struct Nowhere;

impl Carrier for Nowhere {
    fn get(&self, key: &str) -> Option<&str> {
        (key == "traceparent").then_some(NOWHERE)
    }

    fn set(&mut self, _: &'static str, _: String) {}
}

/// The id of the current request and the current trace, for whoever is called.
pub fn take_along(headers: &mut impl Carrier) {
    if let Some(id) = super::current_request() {
        headers.set(super::REQUEST_ID, id);
    }
    let span = Span::current();
    if span.metadata().is_some_and(|metadata| metadata.target() == super::LOOKS) {
        headers.set("traceparent", NOWHERE.to_owned());
        return;
    }
    let context = span.context();
    if context.span().span_context().is_valid() {
        TraceContextPropagator::new().inject_context(&context, &mut Writing(headers));
    }
}
