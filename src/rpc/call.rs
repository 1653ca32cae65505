//! A client's call with a deadline, and what became of it.

use super::offload::chain;
use snafu::Snafu;
use std::error::Error as _;
use std::future::Future;
use std::time::Duration;
use tonic::{Code, Response, Status};

/// Why a call brought no answer, or not the one that was hoped for.
#[derive(Clone, Debug, Snafu)]
pub enum CallError {
    /// No connection, or none any more, or no answer in time: what the server did is unknown.
    #[snafu(display("{reason}"))]
    Unreachable {
        /// What happened.
        reason: String,
    },
    /// The server answered with an error.
    #[snafu(display("{message}"))]
    Answered {
        /// Its code.
        code: Code,
        /// Its words.
        message: String,
    },
}

/// Waits for an answer, but not for ever.
pub async fn bounded<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(judge(&status)),
        Err(_) => UnreachableSnafu { reason: format!("no answer within {} s", limit.as_secs()) }.fail(),
    }
}

/// A status that came over the wire has no source; one that the transport made up has.
fn judge(status: &Status) -> CallError {
    match status.source() {
        Some(source) => CallError::Unreachable { reason: chain(source) },
        None => CallError::Answered { code: status.code(), message: status.message().to_owned() },
    }
}
