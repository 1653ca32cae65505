//! A repository's URL.

use super::{BadUrlSnafu, LocalStore, ObjectBacked, S3Options, Store, StoreError};
use snafu::ensure;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// Where a repository is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepositoryUrl {
    /// `s3://BUCKET[/PREFIX]`.
    S3 {
        /// The bucket: Cinder's "container".
        bucket: String,
        /// Without slashes at its ends; may be empty.
        prefix: String,
    },
    /// `file:///DIRECTORY`.
    Local(PathBuf),
}

impl FromStr for RepositoryUrl {
    type Err = StoreError;
    fn from_str(url: &str) -> Result<Self, Self::Err> {
        let bad = |reason: &'static str| BadUrlSnafu { url, reason };
        if let Some(rest) = url.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
            ensure!(
                (1..=63).contains(&bucket.len()) && bucket.chars().all(fine),
                bad("a bucket's name has 1 to 63 lower-case letters, digits, '-' and '.'")
            );
            let prefix = prefix.trim_matches('/');
            // Text that is neither escaped nor to be escaped means the same to every program.
            let is_plain = |c: char| c.is_ascii_graphic() && !"\\*?%".contains(c);
            let is_key = super::check_key(prefix).is_ok() && prefix.chars().all(is_plain);
            let prefix_fine = prefix.is_empty() || is_key;
            ensure!(prefix_fine, bad("that prefix cannot be part of an object's name"));
            return Ok(RepositoryUrl::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() });
        }
        let path = url.strip_prefix("file://").filter(|path| path.starts_with('/'));
        match path {
            Some(path) => Ok(RepositoryUrl::Local(PathBuf::from(path))),
            None if url.starts_with("file:") => bad("a directory is absolute: three slashes").fail(),
            None => bad("unknown scheme").fail(),
        }
    }
}

impl fmt::Display for RepositoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RepositoryUrl::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            RepositoryUrl::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            RepositoryUrl::Local(path) => write!(f, "file://{}", path.display()),
        }
    }
}

/// Opens the store of a repository. Nothing is contacted yet.
pub fn open(url: &RepositoryUrl, options: &S3Options) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match url {
        RepositoryUrl::S3 { bucket, prefix } => Arc::new(ObjectBacked::s3(bucket, prefix, options)?),
        RepositoryUrl::Local(path) => Arc::new(LocalStore::new(path)),
    })
}
