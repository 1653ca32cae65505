//! What can still be read of a damaged record. Each part is believed for itself, and held to the images by the rebuild.

use super::record::{Attachment, Layer, Record, SCHEMA, Snapshot, State};
use super::view::{VolumeKind, VolumeSource};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Parts of a record; what is None or missing could not be read.
#[derive(Debug, Default)]
pub(super) struct Salvage {
    /// All of it is there, though not as it was written.
    pub(super) whole: bool,
    pub(super) generation: Option<u64>,
    pub(super) incarnation: Option<Uuid>,
    pub(super) name: Option<String>,
    pub(super) kind: Option<VolumeKind>,
    pub(super) parameters: Option<BTreeMap<String, String>>,
    pub(super) source: Option<VolumeSource>,
    pub(super) state: Option<State>,
    pub(super) created_at: Option<Timestamp>,
    pub(super) epoch: Option<u64>,
    pub(super) layers: Vec<Layer>,
    pub(super) snapshots: Vec<Snapshot>,
    /// Those are all that there were.
    pub(super) snapshots_known: bool,
    pub(super) attachments: Option<Vec<Attachment>>,
}

/// Reads what there is, from JSON that may be cut short or changed anywhere.
pub(super) fn salvage(bytes: &[u8]) -> Salvage {
    let text = String::from_utf8_lossy(bytes);
    let whole = serde_json::from_str::<Value>(&text).ok();
    let whole = whole.and_then(|file| serde_json::from_value::<Record>(file.get("record")?.clone()).ok());
    if let Some(record) = whole {
        return Salvage {
            whole: true,
            generation: Some(record.generation),
            incarnation: Some(record.incarnation),
            name: Some(record.name),
            kind: Some(record.kind),
            parameters: Some(record.parameters),
            source: record.source,
            state: Some(record.state),
            created_at: Some(record.created_at),
            epoch: Some(record.epoch),
            layers: record.layers,
            snapshots: record.snapshots,
            snapshots_known: true,
            attachments: Some(record.attachments),
        };
    }
    Salvage {
        whole: false,
        generation: line(&text, "generation"),
        incarnation: line(&text, "incarnation"),
        name: line(&text, "name"),
        kind: line(&text, "kind"),
        parameters: block(&text, "parameters"),
        source: block(&text, "source"),
        state: line(&text, "state"),
        created_at: line(&text, "created_at"),
        epoch: line(&text, "epoch"),
        layers: objects(&text),
        snapshots: objects(&text),
        snapshots_known: block::<Vec<Snapshot>>(&text, "snapshots").is_some(),
        attachments: block(&text, "attachments"),
    }
}

/// Whether the record is as it was written, by a version of strata that knows more: no damage to be repaired.
pub(super) fn is_of_another_version(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Head {
        schema: u32,
        checksum: String,
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(head) = serde_json::from_str::<Head>(text) else { return false };
    let record = text.split_once("\n  \"record\": ").and_then(|(_, rest)| rest.strip_suffix("\n}\n"));
    let digest = record.map(|record| Sha256::digest(compact(record)));
    let digest = digest.map(|digest| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    head.schema > SCHEMA || digest == Some(head.checksum)
}

/// JSON without the white space between its parts.
fn compact(text: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let keep = |c: &char| {
        let inside = quoted;
        quoted ^= *c == '"' && !escaped;
        escaped = inside && *c == '\\' && !escaped;
        inside || !c.is_ascii_whitespace()
    };
    text.chars().filter(keep).collect()
}

/// Where the value of one of the record's own fields begins: they are indented by four spaces.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let lead = format!("\n    \"{key}\": ");
    text.find(&lead).map(|at| &text[at + lead.len()..])
}

fn line<T: DeserializeOwned>(text: &str, key: &str) -> Option<T> {
    // A line without an end may be half of it.
    let (value, _) = field(text, key)?.split_once('\n')?;
    serde_json::from_str(value.trim_end_matches(',')).ok()
}

/// A value of several lines, whatever comes after it.
fn block<T: DeserializeOwned>(text: &str, key: &str) -> Option<T> {
    serde_json::Deserializer::from_str(field(text, key)?).into_iter().next()?.ok()
}

/// Every object in the text that is a whole one of that kind.
fn objects<T: DeserializeOwned>(text: &str) -> Vec<T> {
    let starts = text.match_indices('{').map(|(at, _)| &text[at..]);
    starts.filter_map(|rest| serde_json::Deserializer::from_str(rest).into_iter().next()?.ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::record::{encode, tests::sample};
    use super::*;

    #[test]
    fn a_changed_byte_costs_what_it_is_in() {
        let record = sample();
        let text = String::from_utf8(encode(&record)).unwrap();
        let found = salvage(text.replace("\"generation\": 3", "\"generation\": 4").as_bytes());
        assert!(found.whole && found.layers == record.layers);
        // A layer that is broken in itself is not there; the others are.
        let broken = text.replacen(&record.layers[0].id.to_string(), "x", 1);
        let found = salvage(broken.as_bytes());
        assert!(!found.whole);
        assert_eq!(found.layers, record.layers[1..]);
        assert_eq!(found.snapshots, record.snapshots);
        assert_eq!((found.name, found.generation), (Some("pvc-1".to_owned()), Some(3)));
        assert_eq!(found.parameters, Some(record.parameters.clone()));
        assert_eq!(found.attachments, Some(record.attachments));
    }

    #[test]
    fn a_newer_version_is_no_damage() {
        let text =
            String::from_utf8(encode(&Record { name: "a \\\" b:  c".to_owned(), ..sample() })).unwrap();
        let checksum = |text: &str| text.split('"').nth(5).unwrap().to_owned();
        let more =
            text.replace("    \"trash\": []", "    \"trash\": [],\n    \"later\": {\n      \"x\": 1\n    }");
        assert_ne!(more, text);
        let record = more.split_once("\n  \"record\": ").unwrap().1.strip_suffix("\n}\n").unwrap();
        let digest: String =
            Sha256::digest(compact(record)).iter().map(|byte| format!("{byte:02x}")).collect();
        let newer = more.replace(&checksum(&text), &digest);
        assert!(is_of_another_version(newer.as_bytes()));
        assert!(!is_of_another_version(more.as_bytes()));
        assert!(is_of_another_version(text.replace("\"schema\": 1", "\"schema\": 2").as_bytes()));
        // The compact form is the one that the checksum is of.
        assert!(is_of_another_version(text.as_bytes()));
        assert!(!is_of_another_version(text.replace("pvc", "pvd").as_bytes().split_at(200).0));
    }

    #[test]
    fn what_is_cut_off_is_not_made_up() {
        let record = sample();
        let bytes = encode(&record);
        for length in 0..bytes.len() {
            let found = salvage(&bytes[..length]);
            assert!(found.layers.iter().all(|layer| record.layers.contains(layer)));
            assert!(found.snapshots.iter().all(|snapshot| record.snapshots.contains(snapshot)));
            assert!(!found.snapshots_known || found.snapshots == record.snapshots);
            assert!(found.name.is_none_or(|name| name == "pvc-1"));
            assert!(!found.whole || length >= bytes.len() - 2);
        }
        let before_snapshots = bytes.windows(11).position(|w| w == b"\"snapshots\"").unwrap();
        assert_eq!(salvage(&bytes[..before_snapshots]).layers, record.layers);
    }
}
