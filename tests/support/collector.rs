//! A collector of traces: what exporters send is decoded as OpenTelemetry defines it.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use prost::Message;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A span, as it came.
#[derive(Clone, Debug)]
pub struct Received {
    pub service: String,
    pub name: String,
    pub trace: String,
    pub id: String,
    pub parent: String,
}

/// Listens until the test ends.
#[derive(Clone)]
pub struct Collector {
    pub url: String,
    spans: Arc<Mutex<Vec<Received>>>,
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Collector {
    pub fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let collector = Collector { url, spans: Arc::default(), bodies: Arc::default() };
        let taken = collector.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let taken = taken.clone();
                std::thread::spawn(move || while taken.take(&stream).is_some() {});
            }
        });
        collector
    }

    pub fn spans(&self) -> Vec<Received> {
        self.spans.lock().unwrap().clone()
    }

    /// Whether that text came along, in whatever field.
    pub fn holds(&self, text: &str) -> bool {
        let bodies = self.bodies.lock().unwrap();
        bodies.iter().any(|body| body.windows(text.len()).any(|part| part == text.as_bytes()))
    }

    /// One request; None: the connection is over.
    fn take(&self, stream: &TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line == "\r\n" {
                break;
            }
            head.push(line.to_ascii_lowercase());
        }
        let header = |name: &str| {
            head.iter().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
        };
        assert!(head[0].starts_with("post /v1/traces "), "{head:?}");
        assert_eq!(header("content-type:").as_deref(), Some("application/x-protobuf"), "{head:?}");
        let length: usize = header("content-length:").expect("a length").parse().unwrap();
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let request = ExportTraceServiceRequest::decode(body.as_slice()).expect("protobuf");
        self.spans.lock().unwrap().extend(request.resource_spans.iter().flat_map(received));
        self.bodies.lock().unwrap().push(body);
        let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
        let mut stream = stream;
        stream.write_all(answer.as_bytes()).ok()
    }
}

fn received(of_process: &ResourceSpans) -> Vec<Received> {
    let attributes = of_process.resource.iter().flat_map(|resource| &resource.attributes);
    let service = attributes.filter(|pair| pair.key == "service.name").find_map(|pair| {
        match pair.value.as_ref()?.value.as_ref()? {
            Value::StringValue(name) => Some(name.clone()),
            _ => None,
        }
    });
    let service = service.unwrap_or_default();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let spans = of_process.scope_spans.iter().flat_map(|scope| &scope.spans);
    spans
        .map(|span| Received {
            service: service.clone(),
            name: span.name.clone(),
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
        })
        .collect()
}
