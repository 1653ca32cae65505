//! What CSI demands of a driver, row by row of docs/grpc-codes.md, over the socket of a real driver.

#[allow(dead_code)]
#[path = "../standalone/calls.rs"]
mod calls;
#[allow(dead_code)]
#[path = "../standalone/driver.rs"]
mod driver;
#[path = "../support/mod.rs"]
mod support;

mod capacity;
mod codes;
mod listing;
mod publishing;
mod requests;
mod stats;
