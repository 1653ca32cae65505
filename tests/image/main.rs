//! The container image, as `scripts/build-test-image` has built it with this build's program: what is in it, and that
//! every role runs from its root, started as the chart says, and does the main job with the programs in it.

#[allow(dead_code)]
#[path = "../standalone/calls.rs"]
mod calls;
mod cluster;
mod container;
mod contents;
mod driver;
#[allow(dead_code)]
#[path = "../chart/helm.rs"]
mod helm;
mod job;
#[allow(dead_code)]
#[path = "../chart/manifest.rs"]
mod manifest;
#[path = "../support/mod.rs"]
mod support;
mod unpacked;
