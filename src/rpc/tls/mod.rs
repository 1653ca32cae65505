//! TLS on both sides of a connection, with certificates from a folder that may change at any time.
//!
//! TLS 1.3 alone, both sides show a certificate, and nothing is resumed: each connection is judged by what
//! the folder holds when it begins, and goes on when the folder changes.

mod certificates;
mod client;
mod files;
mod incoming;
mod noting;
mod own;
mod stream;
#[cfg(test)]
pub(crate) mod testing;

pub use certificates::{Certificates, keep_watch};
pub use client::{Liveness, channel};
pub use files::TlsError;
pub use incoming::incoming;
pub use noting::Trouble;
pub use own::Side;
pub use stream::{Peer, PeerStream, only_expected_peers};
