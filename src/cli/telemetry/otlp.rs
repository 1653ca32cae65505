//! Traces for an OpenTelemetry collector, as protobuf over HTTP.
//!
//! Spans wait in a bounded queue that a thread of its own sends from: a collector that is slow or away costs spans, and no
//! call ever waits for it.

use crate::trace::LOOKS;
use anyhow::{Context, Result, ensure};
use clap::Args;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{Protocol, SpanExporter as OtlpExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::{Layer, Registry};

/// What is left is sent within that time, or not at all.
const LAST: Duration = Duration::from_secs(3);
/// Below the endpoint.
const PATH: &str = "/v1/traces";
const OF_TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";

/// Where traces are sent.
#[derive(Clone, Debug, Default, Args)]
pub struct TraceArgs {
    /// Send traces to that OpenTelemetry collector, as protobuf over HTTP: http://HOST:4318. OpenTelemetry's own variables
    /// (OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, …) count too.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<Endpoint>,
}

/// A collector's address; an empty one is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(String);

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim().trim_end_matches('/');
        match text.is_empty()
            || text.parse::<http::Uri>().is_ok_and(|uri| is_receiver(&uri) && uri.query().is_none())
        {
            true => Ok(Endpoint(text.to_owned())),
            false => Err(format!(
                "write http://HOST:PORT or https://HOST:PORT of an OTLP/HTTP receiver; {ELSEWHERE}"
            )),
        }
    }
}

/// The address is in the log and among the arguments of processes.
const ELSEWHERE: &str = "credentials go into OTEL_EXPORTER_OTLP_HEADERS";

fn is_receiver(uri: &http::Uri) -> bool {
    let has_credentials = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() && !has_credentials
}

impl TraceArgs {
    /// The same for a child process.
    pub fn to_args(&self) -> Vec<String> {
        let endpoint = self.otlp_endpoint.iter();
        endpoint.flat_map(|endpoint| ["--otlp-endpoint".to_owned(), endpoint.0.clone()]).collect()
    }

    /// Where to, if anywhere.
    fn url(&self) -> Result<Option<String>> {
        let of = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        if of("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        if let Some(of_traces) = of(OF_TRACES) {
            ensure!(
                of_traces.parse::<http::Uri>().is_ok_and(|uri| is_receiver(&uri)),
                "{OF_TRACES} is no URL such as https://HOST:PORT/v1/traces; {ELSEWHERE}"
            );
            return Ok(Some(of_traces));
        }
        let endpoint = self.otlp_endpoint.as_ref().filter(|endpoint| !endpoint.0.is_empty());
        Ok(endpoint.map(|endpoint| format!("{}{PATH}", endpoint.0)))
    }
}

type Made = (SdkTracerProvider, Box<dyn Layer<Registry> + Send + Sync>);

/// Begins to send, if somebody wants it.
pub fn start(args: &TraceArgs, role: &'static str) -> Result<Option<Made>> {
    let Some(url) = args.url()? else { return Ok(None) };
    // reqwest finds no TLS by itself where more than one could be meant.
    let _ = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider().install_default();
    let exporter = OtlpExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&url)
        .build()
        .with_context(|| format!("traces cannot be sent to {url}"))?;
    let provider = SdkTracerProvider::builder()
        .with_resource(resource(role))
        .with_batch_exporter(Telling { exporter, url, fails: AtomicBool::new(false) })
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(env!("CARGO_PKG_NAME")))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_filter(wanted())
        .boxed();
    Ok(Some((provider, layer)))
}

/// This program's spans, and its log lines as their events.
fn wanted() -> Targets {
    Targets::new().with_target(env!("CARGO_PKG_NAME"), LevelFilter::INFO).with_target(LOOKS, LevelFilter::OFF)
}

fn resource(role: &'static str) -> Resource {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let builder = Resource::builder().with_attributes([
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.namespace", "strata"),
        KeyValue::new("host.name", host),
        KeyValue::new("process.pid", i64::from(std::process::id())),
    ]);
    match std::env::var("OTEL_SERVICE_NAME").ok().filter(|name| !name.is_empty()) {
        Some(_) => builder.build(),
        None => builder.with_service_name(format!("strata-{role}")).build(),
    }
}

/// Sends what is left.
pub fn end(provider: &SdkTracerProvider) {
    if let Err(error) = provider.shutdown_with_timeout(LAST) {
        tracing::warn!(%error, "the last traces were not sent");
    }
}

/// Says once when traces cannot be sent, and once when they can be again.
#[derive(Debug)]
struct Telling {
    exporter: OtlpExporter,
    url: String,
    fails: AtomicBool,
}

impl SpanExporter for Telling {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let sent = self.exporter.export(batch).await;
        let failed_before = self.fails.swap(sent.is_err(), Ordering::Relaxed);
        match &sent {
            Err(error) if !failed_before => tracing::warn!(url = self.url, %error, "traces are lost"),
            Ok(()) if failed_before => tracing::info!(url = self.url, "traces are sent again"),
            _ => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, limit: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(limit)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_of_http_or_nothing() {
        for fine in ["http://collector:4318", "https://c.example/otlp/", ""] {
            assert!(fine.parse::<Endpoint>().is_ok(), "{fine}");
        }
        for wrong in [
            "collector:4318",
            "grpc://collector:4317",
            "http://",
            "http://c/?x=1",
            "http://me:hunter2@c:4318",
            "nonsense",
        ] {
            let error = wrong.parse::<Endpoint>().unwrap_err();
            assert!(error.contains("http://HOST:PORT") && error.contains("_HEADERS"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn the_path_of_traces_comes_behind_the_endpoint() {
        let url = |text: &str| TraceArgs { otlp_endpoint: Some(text.parse().unwrap()) }.url().unwrap();
        assert_eq!(url("http://c:4318/"), Some("http://c:4318/v1/traces".to_owned()));
        assert_eq!(url(""), None);
        assert_eq!(TraceArgs::default().url().unwrap(), None);
    }
}
