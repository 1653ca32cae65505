//! What speaks to the Kubernetes API, on a real API server.

#[path = "../support/apiserver/mod.rs"]
mod apiserver;
mod backups;
#[path = "../support/collector.rs"]
mod collector;
mod harness;
#[path = "../chart/helm.rs"]
#[allow(dead_code)]
mod helm;
#[path = "../chart/manifest.rs"]
#[allow(dead_code)]
mod manifest;
mod rights;
#[path = "../backup/s3_server.rs"]
#[allow(dead_code)]
mod s3_server;
#[path = "../support/mod.rs"]
mod support;
mod support_bundle;
