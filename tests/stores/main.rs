//! The kinds of store, from outside: one contract for all of them, and what happens when they fail.

mod contract;
mod directory;
mod faults;
mod faulty;
mod kinds;
mod moto;
mod requests;
#[path = "../backup/s3_server.rs"]
mod s3_server;
#[path = "../backup/util.rs"]
#[allow(dead_code)]
mod util;
