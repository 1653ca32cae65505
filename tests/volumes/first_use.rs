//! The first time that a volume is mounted: whether a filesystem is made, by what its record says and what is on it
//! (invariant 1; docs/decisions/0015-mkfs.md).

use crate::support::domain::{Domain, write_at};
use crate::support::run;
use rstest::rstest;
use std::path::{Path, PathBuf};
use strata::host::mkfs::{Content, Formatter, LinuxFormatter};
use strata::host::mount::FsType;
use strata::volume::*;

/// What its record tells of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// No node has ever opened it.
    Untouched,
    /// A node opened it and did not come to the end: half a mkfs may be on it.
    Tried,
    /// It was handed out.
    Used,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    Nothing,
    Ext4,
    Xfs,
    TwoThings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Made,
    Kept,
    Refused,
}

fn ext4() -> Access {
    Access::Mount { fs: FsType::Ext4, flags: Vec::new() }
}

/// A raw image is its disk.
fn image(domain: &Domain, volume: VolumeId) -> PathBuf {
    let record = std::fs::read(domain.volumes.layout().record(volume)).unwrap();
    let record = record::decode(&record).unwrap();
    domain.volumes.layout().image(volume, &record.active_layer().unwrap().file)
}

fn put(on: On, image: &Path) {
    let path = image.to_str().unwrap();
    match on {
        On::Nothing => {}
        On::Xfs => drop(run("mkfs.xfs", &["-q", path])),
        On::Ext4 | On::TwoThings => {
            let files = crate::support::scratch();
            std::fs::write(files.path().join("here"), "somebody's").unwrap();
            run("mkfs.ext4", &["-q", "-d", files.path().to_str().unwrap(), path]);
        }
    }
    if on == On::TwoThings {
        write_at(image, 0, b"LUKS\xba\xbe\0\x01");
    }
}

/// The daemon is there, the device too, and the mount is not.
fn try_in_vain(domain: &Domain, volume: VolumeId) {
    let staging_path = domain.dir.path().join("no-folder");
    std::fs::write(&staging_path, "").unwrap();
    domain.volumes.publish(volume, &domain.node, Purpose::Write).unwrap();
    let request = StageVolume { volume, staging_path, access: ext4() };
    domain.staging.stage(&domain.volumes, &request).unwrap_err();
    domain.volumes.unpublish(volume, None).unwrap();
}

#[rstest]
#[case(Before::Untouched, On::Nothing, Then::Made)]
#[case(Before::Untouched, On::Ext4, Then::Refused)]
#[case(Before::Untouched, On::Xfs, Then::Refused)]
#[case(Before::Untouched, On::TwoThings, Then::Refused)]
#[case(Before::Tried, On::Nothing, Then::Made)]
#[case(Before::Tried, On::Ext4, Then::Made)]
#[case(Before::Tried, On::Xfs, Then::Made)]
#[case(Before::Tried, On::TwoThings, Then::Made)]
#[case(Before::Used, On::Nothing, Then::Refused)]
#[case(Before::Used, On::Ext4, Then::Kept)]
#[case(Before::Used, On::Xfs, Then::Refused)]
#[case(Before::Used, On::TwoThings, Then::Refused)]
fn a_filesystem_is_made_where_nobodys_data_can_be(
    #[case] before: Before,
    #[case] on: On,
    #[case] then: Then,
) {
    let domain = Domain::new();
    let volume = domain.create("pvc", VolumeKind::RawSparse);
    let image = image(&domain, volume);
    match before {
        Before::Untouched => {}
        Before::Tried => {
            try_in_vain(&domain, volume);
            let file = std::fs::File::options().write(true).open(&image).unwrap();
            file.set_len(0).and_then(|()| file.set_len(1 << 30)).unwrap();
        }
        Before::Used => {
            domain.attach(volume, Access::Block);
            domain.detach(volume);
        }
    }
    put(on, &image);
    let probed = LinuxFormatter.probe(&image).unwrap();
    let mut mounted = domain.try_attach(volume, ext4());
    if mounted.is_err() {
        mounted = domain.try_attach(volume, ext4());
    }
    match (then, &mounted) {
        (Then::Made, Ok(target)) => {
            assert!(!target.join("here").exists() && target.join("lost+found").exists())
        }
        (Then::Kept, Ok(target)) => {
            assert_eq!(std::fs::read_to_string(target.join("here")).unwrap(), "somebody's");
        }
        (Then::Refused, Err(error)) => {
            assert!(matches!(error, Error::Precondition { .. }), "{error}");
            assert_eq!(LinuxFormatter.probe(&image).unwrap(), probed, "it was not touched");
            assert_eq!(probed == Content::Blank, on == On::Nothing);
        }
        (_, found) => panic!("{then:?} was expected: {found:?}"),
    }
    if mounted.is_ok() {
        domain.detach(volume);
    } else {
        domain.volumes.unpublish(volume, None).unwrap();
    }
}

/// A copy of a volume whose first mount was broken off has what that left, and is as new.
#[test]
fn a_copy_of_half_a_mkfs_is_made_anew() {
    let domain = Domain::new();
    let source = domain.create("pvc-source", VolumeKind::Qcow2);
    try_in_vain(&domain, source);
    let snapshot = domain.volumes.snapshot(source, "s1").unwrap();
    for (name, of) in [
        ("of-volume", VolumeSource::Volume(domain.volumes.handle(source))),
        ("of-snapshot", VolumeSource::Snapshot(snapshot.handle)),
    ] {
        let copy = domain.create_from(name, VolumeKind::Qcow2, Some(of));
        domain.attach(copy, ext4());
        domain.detach(copy);
    }
}
