//! Shares: where images live. Source and identity, mount, preflight, coherence.

mod share;

pub use share::{Share, ShareKey, Source};
