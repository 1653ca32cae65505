//! The id of the request that the current span belongs to.

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Span, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::{LookupSpan, Registry};

const FIELD: &str = "request_id";

struct RequestId(String);

/// Keeps the ids of spans where [`current_request`] finds them.
#[derive(Clone, Copy, Debug)]
pub struct RequestIds;

#[derive(Default)]
struct Find(Option<String>);

impl Visit for Find {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == FIELD {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for RequestIds {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut find = Find::default();
        attributes.record(&mut find);
        if let (Some(request), Some(span)) = (find.0, context.span(id)) {
            span.extensions_mut().insert(RequestId(request));
        }
    }
}

/// The id of the request that is worked on here, if it is one.
pub fn current_request() -> Option<String> {
    let find = |(id, dispatch): (&Id, &tracing::Dispatch)| {
        let span = dispatch.downcast_ref::<Registry>()?.span(id)?;
        span.scope().find_map(|span| span.extensions().get::<RequestId>().map(|id| id.0.clone()))
    };
    Span::current().with_subscriber(find).flatten()
}
