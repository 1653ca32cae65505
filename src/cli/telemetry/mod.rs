//! Logs, always to the standard error: results belong to the standard output. And traces, where somebody collects them.

mod json;
mod otlp;
mod text;

pub use otlp::TraceArgs;

use crate::trace::RequestIds;
use anyhow::Result;
use clap::ValueEnum;
use json::JsonLines;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::io;
use text::TextFields;
use tracing::Metadata;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For collectors: one JSON object a line.
    Json,
}

impl LogFormat {
    /// As written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

type Layers = Vec<Box<dyn Layer<Registry> + Send + Sync>>;

/// To be ended with the process.
#[must_use]
pub struct Telemetry(Option<SdkTracerProvider>);

impl Telemetry {
    /// Sends what is left of traces, for so long as that may take at most.
    pub fn end(self) {
        if let Some(provider) = self.0 {
            otlp::end(&provider);
        }
    }
}

/// Whether it is a span of this program.
fn is_own_span(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target().starts_with(env!("CARGO_PKG_NAME"))
}

/// Starts logging, and traces if they are asked for. What is said follows RUST_LOG, else it is `info`.
pub fn init(format: LogFormat, traces: Option<(&TraceArgs, &'static str)>) -> Result<Telemetry> {
    let mut layers: Layers = vec![RequestIds.with_filter(filter_fn(is_own_span)).boxed(), lines(format)];
    let mut provider = None;
    if let Some((args, role)) = traces
        && let Some((made, layer)) = otlp::start(args, role)?
    {
        layers.push(layer);
        provider = Some(made);
    }
    tracing_subscriber::registry().with(layers).init();
    Ok(Telemetry(provider))
}

fn lines(format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    match format {
        LogFormat::Text => tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .fmt_fields(TextFields)
            .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
            .with_target(false)
            .with_filter(filter)
            .boxed(),
        LogFormat::Json => JsonLines(io::stderr).with_filter(filter).boxed(),
    }
}
