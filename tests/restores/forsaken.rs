//! A restore that nobody wants any more.

use crate::support::domain::Domain;
use jiff::{SignedDuration, Timestamp};
use strata::volume::record::{decode, encode};
use strata::volume::{CreateVolume, Restored, VolumeId, VolumeKind, VolumeSource};

/// After a day without a question the background takes it away; one that was asked for lately stays, and who holds its turn
/// is told.
#[test]
fn what_nobody_has_asked_about_for_a_day_goes() {
    let domain = Domain::new();
    let volumes = &domain.volumes;
    let handle = "bak://r/6f1d3c52-8b7a-4d0e-9a41-52c71e0b7a01/6f1d3c52-8b7a-4d0e-9a41-52c71e0b7a02";
    let request = CreateVolume {
        name: "restored".into(),
        required: None,
        limit: None,
        kind: VolumeKind::Qcow2,
        source: Some(VolumeSource::Backup(handle.parse().unwrap())),
        parameters: Default::default(),
    };
    let id = VolumeId::from_name("restored");
    assert!(volumes.find_restored(&request).unwrap().is_none());
    assert!(matches!(volumes.begin_restore(&request, 5 << 20).unwrap(), Restored::Underway(_)));
    let turn = volumes.restore_turn(id).unwrap().expect("the turn");
    assert!(volumes.restore_turn(id).unwrap().is_none(), "one at a time");
    assert_eq!((turn.bytes, turn.backup.to_string().as_str()), (5 << 20, handle));
    std::fs::write(turn.target(), b"half of it").unwrap();
    assert_eq!(volumes.volumes_to_tidy().unwrap(), []);
    volumes.tidy(id).unwrap();
    assert!(turn.is_wanted().unwrap());

    let path = volumes.layout().record(id);
    let mut record = decode(&std::fs::read(&path).unwrap()).unwrap();
    let asked_at = Timestamp::now() - SignedDuration::from_hours(25);
    record.restore.as_mut().unwrap().asked_at = asked_at;
    std::fs::write(&path, encode(&record)).unwrap();
    assert_eq!(volumes.volumes_to_tidy().unwrap(), [id]);
    // A question counts.
    assert!(volumes.find_restored(&request).unwrap().is_some());
    assert_eq!(volumes.volumes_to_tidy().unwrap(), []);
    let mut record = decode(&std::fs::read(&path).unwrap()).unwrap();
    record.restore.as_mut().unwrap().asked_at = asked_at;
    std::fs::write(&path, encode(&record)).unwrap();
    volumes.tidy(id).unwrap();
    assert!(!turn.is_wanted().unwrap());
    assert!(turn.finish().is_err(), "what was fetched meanwhile is nobody's");
    assert!(volumes.find_restored(&request).unwrap().is_none());
    drop(turn);
    volumes.tidy(id).unwrap();
    assert!(!volumes.layout().volume(id).exists());
}
