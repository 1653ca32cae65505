//! What may go wrong between the API and the engine.

use snafu::Snafu;

/// A step of a reconciliation that is tried again later.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
pub enum Error {
    /// A request to the API.
    #[snafu(display("cannot {doing}: {}", said(source)))]
    Api {
        /// What was wanted.
        doing: String,
        /// The API's answer, or why there is none.
        #[snafu(source(from(::kube::Error, Box::new)))]
        source: Box<::kube::Error>,
    },
    /// The Lease is another's, or could not be renewed in time.
    #[snafu(display("this process no longer leads: {reason}"))]
    LeaseLost {
        /// Why.
        reason: String,
    },
    /// A part of the work has ended, which goes on as long as the process leads.
    #[snafu(display("a part of this process broke off, so all of it ends: {reason}"))]
    Broken {
        /// What happened.
        reason: String,
    },
    /// An object without what the API gives to each.
    #[snafu(display("an object has no {what}"))]
    Incomplete {
        /// What is missing.
        what: &'static str,
    },
}

/// What an answer of the API comes down to.
pub fn said(error: &::kube::Error) -> String {
    match error {
        ::kube::Error::Api(status) => status.message.clone(),
        other => crate_chain(other),
    }
}

fn crate_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// Whether the API said so with this code.
pub fn has_code(error: &::kube::Error, code: u16) -> bool {
    matches!(error, ::kube::Error::Api(status) if status.code == code)
}
