//! Effects on the Linux host, each behind a trait with a recording fake for unit tests.

pub mod exec;
pub mod fsio;
