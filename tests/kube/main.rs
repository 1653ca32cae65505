//! What speaks to the Kubernetes API, on a real API server.

#[path = "../support/apiserver/mod.rs"]
mod apiserver;
mod harness;
