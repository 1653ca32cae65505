//! Repositories by name: what a backup's handle (`bak://<repository>/…`) means here.

mod file;
mod settings;

pub use file::FileRepositories;

use super::Engine;
use super::restore::Limits;
use crate::volume::RepositoryName;
use futures::future::BoxFuture;
use snafu::Snafu;
use std::fmt::Debug;

/// A repository, opened. Nothing of its store was asked yet.
#[derive(Clone, Debug)]
pub struct Repository {
    /// What can be done with it.
    pub engine: Engine,
    /// How much a restore from it may have at a time.
    pub limits: Limits,
}

/// Why a name gives no repository.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(crate)))]
pub enum RepositoryError {
    /// Nobody has told of one by that name.
    #[snafu(display("there is no repository {name} here: {remedy}"))]
    Unknown {
        /// Which.
        name: RepositoryName,
        /// Where it would have to be told.
        remedy: String,
    },
    /// It is known, and its settings make no store.
    #[snafu(display("the repository {name} cannot be used: {reason}"))]
    Unusable {
        /// Which.
        name: RepositoryName,
        /// What is wrong with its settings, and what to do. Without secrets.
        reason: String,
    },
    /// Whatever holds the settings does not answer now.
    #[snafu(display("the settings of the repository {name} cannot be read now: {reason}"))]
    Away {
        /// Which.
        name: RepositoryName,
        /// Why.
        reason: String,
    },
}

/// Knows repositories by name, wherever their settings are kept. What changes there counts from the next call on.
pub trait Repositories: Debug + Send + Sync + 'static {
    /// Opens one.
    fn open<'a>(&'a self, name: &'a RepositoryName) -> BoxFuture<'a, Result<Repository, RepositoryError>>;
}
