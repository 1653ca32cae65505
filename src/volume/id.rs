//! Ids and handles. What comes in is parsed into one of these or refused, so that nothing unparsed
//! ever becomes part of a path.

use crate::gluster::ShareKey;
use serde::{Deserialize, Serialize};
use snafu::{OptionExt, Snafu, ensure};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// The namespaces of name-based ids (RFC 9562, version 5): a retry of a call finds what the first try made.
const VOLUME_NAMESPACE: Uuid = Uuid::from_u128(0x6f1d_3c52_8b7a_4d0e_9a41_52c7_1e0b_7a01);
const SNAPSHOT_NAMESPACE: Uuid = Uuid::from_u128(0x6f1d_3c52_8b7a_4d0e_9a41_52c7_1e0b_7a02);

/// An id or handle that is none.
#[derive(Debug, Snafu)]
#[snafu(display("{text:?} is no {what}"), visibility(pub(super)))]
pub struct InvalidId {
    what: &'static str,
    text: String,
}

/// Only the hyphenated lower-case form: two spellings of one id must not name two folders.
pub(super) fn parse_uuid(what: &'static str, text: &str) -> Result<Uuid, InvalidId> {
    let id = Uuid::parse_str(text).ok().context(InvalidIdSnafu { what, text })?;
    ensure!(id.hyphenated().to_string() == text, InvalidIdSnafu { what, text });
    Ok(id)
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Uuid);

        impl $name {
            /// A new random id.
            pub fn random() -> Self {
                $name(Uuid::new_v4())
            }

            /// The id as a UUID.
            pub fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse_uuid($what, text).map($name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }
    };
}

uuid_id!(
    /// A volume: the name of its folder.
    VolumeId,
    "volume id"
);
uuid_id!(
    /// A snapshot of a volume.
    SnapshotId,
    "snapshot id"
);
uuid_id!(
    /// A layer: one state of the data, whichever file holds it.
    LayerId,
    "layer id"
);

impl LayerId {
    /// The base of a volume that was restored, in one life of it: by its id it is known that its state is what the backup
    /// holds, long after it was merged away.
    pub(super) fn of_restored(incarnation: Uuid, backup: &str) -> Self {
        LayerId(Uuid::new_v5(&incarnation, backup.as_bytes()))
    }
}

impl VolumeId {
    /// The id that belongs to a CSI name.
    pub fn from_name(name: &str) -> Self {
        VolumeId(Uuid::new_v5(&VOLUME_NAMESPACE, name.as_bytes()))
    }
}

impl SnapshotId {
    /// The id that belongs to a CSI name.
    pub fn from_name(name: &str) -> Self {
        SnapshotId(Uuid::new_v5(&SNAPSHOT_NAMESPACE, name.as_bytes()))
    }
}

/// A node's name: a DNS subdomain, as Kubernetes has it, so that it can be a file name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(String);

impl NodeId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
        // CSI bounds node ids to 256 bytes; with ".json" it must still be a file name.
        let len = !text.is_empty() && text.len() <= 192;
        let name =
            "node id (letters, digits, '-', '_' and '.', at most 192, beginning with a letter or digit)";
        ensure!(
            len && text.chars().all(fine) && text.starts_with(|c: char| c.is_ascii_alphanumeric()),
            InvalidIdSnafu { what: name, text }
        );
        Ok(NodeId(text.to_owned()))
    }
}

impl TryFrom<String> for NodeId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> String {
        id.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `<share-key>/<volume-id>`: what CSI calls the volume_id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeHandle {
    /// The share that holds it.
    pub share: ShareKey,
    /// The volume.
    pub volume: VolumeId,
}

/// `<share-key>/<volume-id>/<snap-id>`: what CSI calls the snapshot_id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotHandle {
    /// The share that holds it.
    pub share: ShareKey,
    /// The volume that it was taken of.
    pub volume: VolumeId,
    /// The snapshot.
    pub snapshot: SnapshotId,
}

impl SnapshotHandle {
    /// The handle of the volume that it was taken of.
    pub fn volume_handle(&self) -> VolumeHandle {
        VolumeHandle { share: self.share.clone(), volume: self.volume }
    }
}

impl FromStr for VolumeHandle {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let what = "volume handle (<share-key>/<volume-id>)";
        let invalid = || InvalidIdSnafu { what, text }.build();
        let (share, volume) = text.split_once('/').ok_or_else(invalid)?;
        Ok(VolumeHandle {
            share: share.parse().map_err(|_| invalid())?,
            volume: volume.parse().map_err(|_| invalid())?,
        })
    }
}

impl FromStr for SnapshotHandle {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let what = "snapshot handle (<share-key>/<volume-id>/<snapshot-id>)";
        let invalid = || InvalidIdSnafu { what, text }.build();
        let (volume, snapshot) = text.rsplit_once('/').ok_or_else(invalid)?;
        let VolumeHandle { share, volume } = volume.parse().map_err(|_| invalid())?;
        Ok(SnapshotHandle { share, volume, snapshot: snapshot.parse().map_err(|_| invalid())? })
    }
}

impl fmt::Display for VolumeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.share, self.volume)
    }
}

impl fmt::Display for SnapshotHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.share, self.volume, self.snapshot)
    }
}

macro_rules! handle_as_text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(handle: $name) -> String {
                handle.to_string()
            }
        }
    };
}
handle_as_text!(VolumeHandle);
handle_as_text!(SnapshotHandle);

#[cfg(test)]
mod tests {
    use super::*;

    /// Invariant 6: what tries to leave its folder is no id.
    #[rstest::rstest]
    #[case("../../etc/passwd")]
    #[case("share/../6f1d3c52-8b7a-4d0e-9a41-52c71e0b7a01")]
    #[case("share/6F1D3C52-8B7A-4D0E-9A41-52C71E0B7A01")]
    #[case("share/6f1d3c528b7a4d0e9a4152c71e0b7a01")]
    #[case("share/6f1d3c52-8b7a-4d0e-9a41-52c71e0b7a01/..")]
    #[case("SHARE/6f1d3c52-8b7a-4d0e-9a41-52c71e0b7a01")]
    #[case("/6f1d3c52-8b7a-4d0e-9a41-52c71e0b7a01")]
    #[case("share/6f1d3c52-8b7a-4d0e-9a41-52c71e0b7a01\0")]
    #[case("")]
    fn a_malformed_handle_is_refused(#[case] text: &str) {
        assert!(text.parse::<VolumeHandle>().is_err());
        assert!(text.parse::<SnapshotHandle>().is_err());
        assert!(text.parse::<VolumeId>().is_err());
    }

    #[rstest::rstest]
    #[case("..")]
    #[case(".hidden")]
    #[case("a/b")]
    #[case("")]
    #[case("-rf")]
    fn a_node_id_that_is_no_plain_name_is_refused(#[case] text: &str) {
        assert!(text.parse::<NodeId>().is_err());
    }

    #[test]
    fn handles_survive_a_round_trip_and_fit_csi() {
        let share: ShareKey = "k".repeat(40).parse().unwrap();
        let handle = SnapshotHandle {
            share,
            volume: VolumeId::from_name("pvc-1"),
            snapshot: SnapshotId::from_name("snap-1"),
        };
        let text = handle.to_string();
        assert!(text.len() <= 128, "{} bytes", text.len());
        assert_eq!(text.parse::<SnapshotHandle>().unwrap(), handle);
        let volume = handle.volume_handle();
        assert_eq!(volume.to_string().parse::<VolumeHandle>().unwrap(), volume);
    }

    #[test]
    fn one_name_is_one_id_whatever_is_in_it() {
        assert_eq!(VolumeId::from_name("../x"), VolumeId::from_name("../x"));
        assert_ne!(VolumeId::from_name("a"), VolumeId::from_name("b"));
    }
}
