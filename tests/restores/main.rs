//! Backups become volumes over the socket of a real driver (K10, invariant 5): from a folder, from an S3 server, from what
//! Cinder wrote; never a part of one, whoever dies and whatever is damaged.

mod broken;
#[allow(dead_code)]
#[path = "../standalone/calls.rs"]
mod calls;
mod cinder;
#[allow(dead_code)]
#[path = "../standalone/driver.rs"]
mod driver;
#[allow(dead_code)]
#[path = "../stores/faulty.rs"]
mod faulty;
mod forsaken;
#[allow(dead_code)]
#[path = "../backup/s3_server.rs"]
mod s3_server;
#[path = "../support/mod.rs"]
mod support;
mod underway;
mod whole;
mod world;
