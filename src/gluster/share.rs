//! What a share is: its source as configured, the key it carries, and its root on this node.

use serde::{Deserialize, Serialize};
use snafu::{Snafu, ensure};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// CSI handles fit 128 bytes; two UUIDs and separators take 74 of them.
const MAX_SHARE_KEY: usize = 40;

/// The short id that a share carries in `.strata/share.json`: the first part of every handle.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ShareKey(String);

/// A share key that is none.
#[derive(Debug, Snafu)]
#[snafu(display("{text:?} is no share key: 1 to {MAX_SHARE_KEY} characters of a-z, 0-9 and -"))]
pub struct InvalidShareKey {
    text: String,
}

impl ShareKey {
    /// A new random key.
    pub fn random() -> Self {
        let hex = uuid::Uuid::new_v4().simple().to_string();
        ShareKey(hex[..12].to_owned())
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ShareKey {
    type Err = InvalidShareKey;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        ensure!(
            !text.is_empty() && text.len() <= MAX_SHARE_KEY && text.chars().all(fine),
            InvalidShareKeySnafu { text }
        );
        Ok(ShareKey(text.to_owned()))
    }
}

impl TryFrom<String> for ShareKey {
    type Error = InvalidShareKey;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ShareKey> for String {
    fn from(key: ShareKey) -> String {
        key.0
    }
}

impl fmt::Display for ShareKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a share comes from, as the operator writes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// `HOST:/VOLUME`, mounted by us.
    Gluster {
        /// A server of the trusted pool.
        host: String,
        /// The volume, and a folder in it if there is one.
        volume: String,
    },
    /// `dir:/PATH`, there already.
    Dir(PathBuf),
}

/// A source that cannot be read.
#[derive(Debug, Snafu)]
#[snafu(display(
    "{text:?} is no share: write HOST:/VOLUME for GlusterFS, or dir:/ABSOLUTE/PATH for a directory"
))]
pub struct InvalidSource {
    text: String,
}

impl FromStr for Source {
    type Err = InvalidSource;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidSourceSnafu { text }.build();
        let (host, path) = text.split_once(":/").ok_or_else(invalid)?;
        ensure!(!path.split('/').any(|part| part == ".."), InvalidSourceSnafu { text });
        if host == "dir" {
            return Ok(Source::Dir(PathBuf::from(format!("/{path}"))));
        }
        let host_fine = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        let volume_fine = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        ensure!(
            !host.is_empty()
                && !host.starts_with('-')
                && host.chars().all(host_fine)
                && !path.is_empty()
                && path.chars().all(volume_fine),
            InvalidSourceSnafu { text }
        );
        Ok(Source::Gluster { host: host.to_owned(), volume: path.to_owned() })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Gluster { host, volume } => write!(f, "{host}:/{volume}"),
            Source::Dir(path) => write!(f, "dir:{}", path.display()),
        }
    }
}

/// A share that is mounted and proved usable.
#[derive(Clone, Debug)]
pub struct Share {
    /// What every handle on it begins with.
    pub key: ShareKey,
    /// As configured.
    pub source: Source,
    /// Its root on this node.
    pub root: PathBuf,
}
