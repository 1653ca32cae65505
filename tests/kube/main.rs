//! What speaks to the Kubernetes API, on a real API server.

#[path = "../support/apiserver/mod.rs"]
mod apiserver;
mod harness;
#[path = "../chart/helm.rs"]
#[allow(dead_code)]
mod helm;
#[path = "../chart/manifest.rs"]
#[allow(dead_code)]
mod manifest;
mod rights;
