//! The kinds of store, from outside: one contract for all of them, and what happens when they fail.

mod contract;
mod copies;
mod directory;
mod endpoint;
mod faults;
mod faulty;
mod giver;
mod kinds;
mod mended;
mod moto;
mod requests;
mod roles;
#[path = "../backup/s3_server.rs"]
mod s3_server;
mod tunnel;
#[path = "../backup/util.rs"]
#[allow(dead_code)]
mod util;
