//! Format v1: the chunked backup of OpenStack Cinder, to the byte.
//!
//! ```text
//! <prefix>          volume_<volume uuid>/<UTC YYYYmmddHHMMSS>/az_<zone>_backup_<backup uuid>
//! <prefix>-%05d     chunks, from 00001
//! <prefix>_sha256file   one SHA-256 per hash block of the whole volume
//! <prefix>_metadata     the manifest, written last: a set without it is not a backup
//! ```
//!
//! What is parsed here was written by somebody else: every field is checked before it is used.

mod codec;
mod hash_text;
mod hashes;
mod json;
mod manifest;
mod names;
mod packer;

pub use codec::{CodecError, Compression};
pub use hash_text::{ENTRY, HashFrame, HashHeader, ZeroText, digest_in, entry, entry_of_text, is_entry};
pub(in crate::backup) use hashes::hex;
pub use hashes::{Digest, HashList, digest_of, is_hash_block, zero_digest};
pub use manifest::{Extent, Manifest, VolumeMeta, md5_hex};
pub use names::{Prefix, ZoneName};
pub use packer::Packer;

use snafu::Snafu;

/// The only version of the format that is written, and read.
pub const VERSION: &str = "1.0.0";
/// Cinder's default object size.
pub const DEFAULT_CHUNK_SIZE: u64 = 52_428_800;
/// Cinder's default hash block.
pub const DEFAULT_HASH_BLOCK: u64 = 32_768;
/// One chunk is held in memory whole, so a manifest may not ask for more than this.
pub const MAX_CHUNK_SIZE: u64 = 1 << 30;
/// Smaller blocks would make the hash file larger than the volume.
pub const MIN_HASH_BLOCK: u64 = 512;

/// What to do about a file that is not what was stored.
const BRING_BACK: &str = "bring it back from a copy of the repository, or delete the backup";

/// Why a manifest or a hash file cannot be used.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(crate)))]
pub enum FormatError {
    /// Not JSON, or not of the expected shape.
    #[snafu(display("{key} cannot be read: {source}; {BRING_BACK}"))]
    Syntax {
        /// The object.
        key: String,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A version from the future, or from nowhere.
    #[snafu(display("{key} has version {version:?}; this program reads {VERSION}: use a newer one"))]
    UnknownVersion {
        /// The object.
        key: String,
        /// As found.
        version: String,
    },
    /// A field that contradicts another one or leaves its range.
    #[snafu(display("{key} is damaged or was tampered with: {reason}; {BRING_BACK}"))]
    Invalid {
        /// The object.
        key: String,
        /// Which rule is broken.
        reason: String,
    },
    /// The volume's metadata has a version that is not understood.
    #[snafu(display(
        "the volume metadata in {key} has version {version}; versions 1 and 2 are known: use a newer strata"
    ))]
    UnknownMetaVersion {
        /// The object.
        key: String,
        /// As found.
        version: String,
    },
}
