//! Log lines for collectors: one JSON object each, flat, so that every field can be asked for by its name.
//!
//! What a span has (the request's id, the volume, the snapshot) is on each line within it. Of two fields of one name the
//! event's counts, then the innermost span's.

use serde_json::{Map, Value, json};
use std::fmt::Debug;
use std::io::Write;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// For traces alone.
pub const FOR_TRACES: &str = "otel.";
/// What lines of libraries that log in another way say of themselves.
const OF_LIBRARIES: &str = "log.";

/// Writes the lines.
pub struct JsonLines<W>(pub W);

#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        if !field.name().starts_with(FOR_TRACES) {
            self.0.insert(field.name().to_owned(), value.into());
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }
    /// Beyond what JSON's readers take for a number it is a text.
    fn record_u128(&mut self, field: &Field, value: u128) {
        match u64::try_from(value) {
            Ok(small) => self.put(field, small),
            Err(_) => self.put(field, value.to_string()),
        }
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format!("{value:?}"));
    }
}

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let (mut line, mut spans) = (Map::new(), Vec::new());
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            spans.push(span.name());
            if let Some(fields) = span.extensions().get::<Fields>() {
                line.extend(fields.0.clone());
            }
        }
        let mut own = Fields::default();
        event.record(&mut own);
        let target = own.0.remove("log.target");
        own.0.retain(|name, _| !name.starts_with(OF_LIBRARIES));
        line.extend(own.0);
        line.insert("timestamp".to_owned(), json!(jiff::Timestamp::now()));
        line.insert("level".to_owned(), json!(event.metadata().level().as_str()));
        line.insert("target".to_owned(), target.unwrap_or_else(|| json!(event.metadata().target())));
        if !spans.is_empty() {
            line.insert("spans".to_owned(), json!(spans));
        }
        let mut bytes = Value::Object(line).to_string().into_bytes();
        bytes.push(b'\n');
        // At once, so that lines of others do not get in between. There is nobody to tell that it failed.
        let _ = self.0.make_writer().write_all(&bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::layer::SubscriberExt;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_has_what_its_spans_have_and_its_own_fields_count_first() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::registry().with(JsonLines(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let call = crate::trace::call("s", "CreateVolume", Some("r1"));
            let _call = call.entered();
            tracing::info!("before");
            crate::trace::about_volume("v1");
            let _asking = crate::trace::asking("agent/cut_volume", "node-1").entered();
            tracing::warn!(method = "own", took_ms = 7_u128, "a \"quoted\"\nline");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [before, after] = lines.as_slice() else { panic!("{text}") };
        assert_eq!((&before["request_id"], &before["method"]), (&json!("r1"), &json!("CreateVolume")));
        assert_eq!(before["volume"], Value::Null);
        let expected = json!({
            "timestamp": after["timestamp"], "target": after["target"], "level": "WARN",
            "message": "a \"quoted\"\nline", "method": "own", "took_ms": 7, "request_id": "r1", "volume": "v1",
            "asks": "agent/cut_volume", "whom": "node-1", "spans": ["call", "asking"],
        });
        assert_eq!(*after, expected);
    }
}
