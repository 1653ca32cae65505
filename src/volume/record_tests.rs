use super::*;
use crate::image::Format;

pub(crate) fn sample() -> Record {
    let id = VolumeId::from_name("pvc-1");
    let incarnation = Uuid::from_u128(7);
    let base = LayerId::random();
    let top = LayerId::random();
    let layer = |layer, file: &str, parent: Option<LayerId>| Layer {
        id: layer,
        incarnation,
        file: file.to_owned(),
        format: Format::Qcow2,
        size: 1 << 30,
        parent: parent.map(|layer| ParentLayer { volume: id, layer }),
        closed: false,
    };
    Record {
        generation: 3,
        id,
        incarnation,
        name: "pvc-1".to_owned(),
        capacity: 1 << 30,
        kind: VolumeKind::Qcow2,
        parameters: BTreeMap::from([("kind".to_owned(), "qcow2".to_owned())]),
        source: None,
        state: State::Ready,
        new: true,
        created_at: Timestamp::UNIX_EPOCH,
        epoch: 0,
        layers: vec![layer(base, "volume-a", None), layer(top, "volume-a.b", Some(base))],
        active: Some(top),
        snapshots: vec![Snapshot {
            id: SnapshotId::from_name("snap-1"),
            name: "snap-1".to_owned(),
            layer: base,
            incarnation,
            created_at: Timestamp::UNIX_EPOCH,
            size: 1 << 30,
            consistency: Consistency::Filesystem,
            blank: false,
        }],
        pins: vec![],
        attachments: vec![Attachment {
            node: "n1".parse().unwrap(),
            published_at: Timestamp::UNIX_EPOCH,
            opened: Some(1),
            role: Role::default(),
            reads: None,
        }],
        intent: Some(Intent::Cut {
            snapshot: SnapshotId::from_name("snap-2"),
            frozen: top,
            overlay: LayerId::random(),
            file: "volume-a.c".to_owned(),
        }),
        merge: None,
        trash: vec![],
        imported: None,
        restore: None,
    }
}

#[test]
fn a_record_survives_a_round_trip() {
    let record = sample();
    assert_eq!(decode(&encode(&record)).unwrap(), record);
}

/// Invariant 6: a record damaged at any byte is detected.
#[test]
fn a_change_of_any_byte_is_detected() {
    let bytes = encode(&sample());
    for position in 0..bytes.len() {
        for flip in [0x01, 0x20, 0x80] {
            let mut damaged = bytes.clone();
            damaged[position] ^= flip;
            assert!(decode(&damaged).is_err(), "byte {position} changed by {flip:#x} went unseen");
        }
    }
    for length in 0..bytes.len() {
        assert!(decode(&bytes[..length]).is_err(), "cut to {length} bytes went unseen");
    }
    let mut longer = bytes.clone();
    longer.push(b'\n');
    assert!(decode(&longer).is_err(), "a byte too many went unseen");
}

#[test]
fn a_record_of_a_later_schema_is_refused_by_its_number() {
    let text = String::from_utf8(encode(&sample())).unwrap().replace("\"schema\": 1", "\"schema\": 2");
    assert!(decode(text.as_bytes()).unwrap_err().contains("schema 2"));
}

#[rstest::rstest]
#[case("../volume-x")]
#[case("volume-../../x")]
#[case("/etc/passwd")]
#[case("volume.json")]
fn a_layer_whose_file_leaves_the_folder_is_refused(#[case] file: &str) {
    let mut record = sample();
    record.layers[0].file = file.to_owned();
    assert!(decode(&encode(&record)).is_err());
}

/// G10: the table names the overlay of each snapshot, as Cinder's does.
#[test]
fn the_info_table_is_cinders() {
    let record = sample();
    let table = record.info_table();
    assert_eq!(table["active"], "volume-a.b");
    assert_eq!(table[&SnapshotId::from_name("snap-1").to_string()], "volume-a.b");
}

/// Records of before know no readers, and a writer's attachment is written as it always was.
#[test]
fn only_a_reader_says_what_it_is() {
    let mut record = sample();
    let text = String::from_utf8(encode(&record)).unwrap();
    assert!(!text.contains("\"role\"") && !text.contains("\"reads\""));
    let layer = record.layers[0].id;
    let (node, published_at) = ("n2".parse().unwrap(), Timestamp::UNIX_EPOCH);
    let reads = Some(layer);
    record.attachments[0].opened = None;
    record.attachments.push(Attachment { node, published_at, opened: Some(2), role: Role::Reader, reads });
    assert_eq!(decode(&encode(&record)).unwrap(), record);
    assert_eq!((record.writer(), record.reader()), (None, Some(&"n2".parse().unwrap())));
}
