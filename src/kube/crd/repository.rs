//! `BackupRepository`: a place that backups go to.

use super::Condition;
use super::size::Size;
use crate::backup::format::Compression as Codec;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A place that backups go to: a bucket of an S3 server, or a directory.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "strata.dev",
    version = "v1alpha1",
    kind = "BackupRepository",
    plural = "backuprepositories",
    shortname = "brepo",
    category = "strata",
    status = "BackupRepositoryStatus",
    derive = "PartialEq",
    doc = "A place that backups go to: a bucket of an S3 server, or a directory. Its name has at most 40 characters.",
    printcolumn(name = "Reachable", type_ = "boolean", json_path = ".status.reachable"),
    printcolumn(name = "Backups", type_ = "integer", json_path = ".status.usage.backups"),
    printcolumn(name = "Bytes", type_ = "integer", json_path = ".status.usage.bytes"),
    printcolumn(name = "Checked", type_ = "date", json_path = ".status.lastChecked"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct BackupRepositorySpec {
    /// A bucket of an S3 server. Either this or `directory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3>,
    /// A directory that the backup container sees: for tests, or a share of another kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<Directory>,
    /// The driver whose installation looks at it and tells its state; Strata installed under another name leaves that alone.
    /// Without it: each installation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub driver: Option<String>,
    /// The namespaces whose snapshots may be backed up here. Without it, or empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_namespaces: Vec<String>,
    /// How objects are compressed that shrink by it.
    #[serde(default)]
    pub compression: Compression,
    /// Bytes of a volume per object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_size: Option<Size>,
    /// Bytes of a volume per hash, of full backups: the grain of the incremental ones made on them. Without it, by the
    /// size of the volume. The chunk size is a multiple of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_block_size: Option<Size>,
    /// Bytes per second that one backup uploads at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Size>,
    /// Uploads of one backup at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub concurrency: Option<u32>,
    /// Backups into this repository at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub max_backups: Option<u32>,
    /// Percent of each new backup's objects that are read back and checked once it is made, at random. The manifest, the
    /// listing and the hashes are always checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub verify_percent: Option<u32>,
}

/// A bucket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3 {
    /// The server's URL, unless it is Amazon's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^https?://[^/?#]+/?$"))]
    pub endpoint: Option<String>,
    /// The bucket. It is made when it is missing, if the credentials allow it.
    #[schemars(regex(pattern = r"^[a-z0-9._-]{1,63}$"))]
    pub bucket: String,
    /// What all names of objects begin with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = r"^[A-Za-z0-9!_.()/-]*$"))]
    pub prefix: Option<String>,
    /// The region to sign for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub region: Option<String>,
    /// Whether the bucket is in the path of requests (http://HOST/BUCKET/) rather than in the host's name.
    #[serde(default = "yes")]
    pub path_style: bool,
    /// Certificates in PEM to trust besides the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
    /// The Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and perhaps AWS_SESSION_TOKEN, in the namespace that Strata
    /// runs in. Without it: the credentials of the backup container's own role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
}

fn yes() -> bool {
    true
}

/// A Secret in the namespace that Strata runs in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Directory {
    /// Where it is.
    #[schemars(regex(pattern = r"^/.+"))]
    pub path: String,
}

/// How objects are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Fast and small.
    #[default]
    Zstd,
    /// As Cinder does by default.
    Zlib,
    /// Small and slow.
    Bz2,
    /// Not at all.
    None,
}

impl From<Compression> for Codec {
    fn from(compression: Compression) -> Codec {
        match compression {
            Compression::Zstd => Codec::Zstd,
            Compression::Zlib => Codec::Zlib,
            Compression::Bz2 => Codec::Bz2,
            Compression::None => Codec::None,
        }
    }
}

/// What is known of a repository.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupRepositoryStatus {
    /// Whether it answered when it was last looked at.
    pub reachable: bool,
    /// When that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::time")]
    pub last_checked: Option<jiff::Timestamp>,
    /// Why it is not reachable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<RepositoryUsage>,
    /// The generation of the spec that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Reachable`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// What a repository holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryUsage {
    /// Complete backups.
    pub backups: u64,
    /// Volumes that have one.
    pub volumes: u64,
    /// Bytes of all objects.
    pub bytes: u64,
}
