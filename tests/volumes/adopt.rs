//! Adoption of what Cinder's GlusterFS driver left, made as Cinder makes it (G16, X5).

use crate::support::cinder::{BLOCK, CinderVolume};
use crate::support::domain::{Domain, On, write_at};
use crate::{answer, said, strata};
use rstest::rstest;
use serde_json::json;
use std::os::unix::fs::MetadataExt;
use strata::image::lock::ImageLock;
use strata::volume::{Access, Policy, SnapshotHandle, VolumeId};

#[rstest]
#[case(On::Folder, "raw")]
#[case(On::Folder, "qcow2")]
#[case(On::Gluster, "raw")]
fn a_volume_with_snapshots_is_adopted_and_lives_on(#[case] on: On, #[case] format: &str) {
    let domain = Domain::of(on, Policy::default());
    let volumes = &domain.volumes;
    let root = &volumes.share().root;
    let folder = domain.name("cinder");
    std::fs::create_dir(root.join(&folder)).unwrap();
    let cinder = CinderVolume::new(&root.join(&folder), format, 3);
    let inode = std::fs::metadata(cinder.path("")).unwrap().ino();
    // As Cinder's user has them.
    for file in std::fs::read_dir(root.join(&folder)).unwrap() {
        std::os::unix::fs::chown(file.unwrap().path(), Some(165), Some(165)).unwrap();
    }
    let name = domain.name("db");
    let arguments = ["--cinder", &cinder.id, "--from", &folder, "--name", &name];
    let adopted = answer(volumes, "import", &[&arguments[..], &["--manifest"]].concat());
    let volume: VolumeId = cinder.id.parse().unwrap();
    assert_eq!(
        (&adopted["handle"], &adopted["capacity"]),
        (&json!(volumes.handle(volume).to_string()), &json!(1 << 30))
    );
    // Not copied, and nothing left under the old names.
    let base = volumes.layout().image(volume, &cinder.name(""));
    assert_eq!(std::fs::metadata(&base).unwrap().ino(), inode);
    for layer in ["", &cinder.snapshots[0], &cinder.snapshots[2]] {
        let meta = std::fs::metadata(volumes.layout().image(volume, &cinder.name(layer))).unwrap();
        assert_eq!((meta.mode() & 0o777, meta.uid(), meta.gid()), (0o600, 0, 0));
    }
    assert_eq!(std::fs::read_dir(root.join(&folder)).unwrap().count(), 0);
    let report = volumes.inspect(volume).unwrap();
    assert_eq!((report.problems, report.pending), (vec![], vec![]));
    let handles: Vec<SnapshotHandle> = adopted["snapshots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|handle| handle.as_str().unwrap().parse().unwrap())
        .collect();
    assert_eq!(
        handles.iter().map(|handle| handle.snapshot.to_string()).collect::<Vec<_>>(),
        cinder.snapshots
    );
    let contents = &adopted["manifest"][2];
    assert_eq!(contents["kind"], "VolumeSnapshotContent");
    assert_eq!(contents["spec"]["source"]["snapshotHandle"], handles[0].to_string());

    let verify = |kept: &[usize], now: &[u8]| {
        for index in kept {
            let view = volumes.get_snapshot(volume, handles[*index].snapshot).unwrap().unwrap();
            assert!(domain.read_snapshot(&view, 8 * BLOCK) == cinder.states[*index], "snapshot {index}");
        }
        assert!(domain.read(volume, now.len()) == now);
    };
    let mut now = cinder.states[3].clone();
    verify(&[0, 1, 2], &now);
    // The same again finds it.
    assert_eq!(answer(volumes, "import", &arguments)["snapshots"], adopted["snapshots"]);

    let device = domain.attach(volume, Access::Block);
    now[7 * BLOCK..].fill(9);
    write_at(&device, 7 * BLOCK as u64, &now[7 * BLOCK..]);
    domain.detach(volume);
    volumes.delete_snapshot(volume, handles[1].snapshot).unwrap();
    volumes.tidy(volume).unwrap();
    verify(&[0, 2], &now);
    volumes.snapshot(volume, "ours").unwrap();
    volumes.delete_snapshot(volume, handles[0].snapshot).unwrap();
    volumes.tidy(volume).unwrap();
    verify(&[2], &now);
    domain.check(volume);
}

#[test]
fn a_volume_that_never_had_a_snapshot_needs_its_format() {
    let domain = Domain::new();
    let volumes = &domain.volumes;
    let cinder = CinderVolume::new(&volumes.share().root, "raw", 0);
    let refused = strata(volumes, "import", &["--cinder", &cinder.id]);
    assert!(refused.status.code() == Some(4) && said(&refused).contains("--format"), "{}", said(&refused));
    answer(volumes, "import", &["--cinder", &cinder.id, "--format", "raw", "--name", "db"]);
    assert!(domain.read(cinder.id.parse().unwrap(), 8 * BLOCK) == cinder.states[0]);
    assert_eq!(answer(volumes, "list", &[])[0]["name"], "db");
}

#[test]
fn what_is_not_as_cinder_leaves_it_is_refused_and_not_touched() {
    let domain = Domain::new();
    let volumes = &domain.volumes;
    let root = volumes.share().root.clone();
    let cinder = CinderVolume::new(&root, "raw", 2);
    let (first, second) = (cinder.snapshots[0].clone(), cinder.snapshots[1].clone());
    let table = std::fs::read_to_string(cinder.path("info")).unwrap();
    let refused = |why: &str| {
        let before = cinder.files();
        let output = strata(volumes, "import", &["--cinder", &cinder.id]);
        assert!(!output.status.success() && said(&output).contains(why), "{why}: {}", said(&output));
        assert_eq!(cinder.files(), before);
        assert_eq!(volumes.list().unwrap(), []);
    };
    let with_table = |text: String, why: &str| {
        std::fs::write(cinder.path("info"), text).unwrap();
        refused(why);
        std::fs::write(cinder.path("info"), &table).unwrap();
    };
    with_table(table.replace("active", "passive"), "\"active\"");
    with_table("[]".to_owned(), "no table");
    with_table(table.replace(&format!("\"{}\"", cinder.name(&first)), "\"../volume-x\""), "no plain name");
    with_table(
        table.replace(&format!("\"{}\"", cinder.name(&first)), &format!("\"{}\"", cinder.name(""))),
        "no overlay",
    );
    with_table(table.replace(&format!("\"{first}\":"), "\"tmp-snap\":"), "no snapshot's id");
    let mut one_less: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&table).unwrap();
    one_less.remove(&first).unwrap();
    with_table(serde_json::to_string(&one_less).unwrap(), "in no entry");
    // An older state of the table: the newest overlay is not in its chain.
    let older =
        format!("{{\"active\": \"{}\", \"{first}\": \"{}\"}}", cinder.name(&first), cinder.name(&first));
    with_table(older, "is not in its chain");

    std::fs::write(cinder.path("tmp-snap-x"), "x").unwrap();
    refused("is not in its chain");
    std::fs::remove_file(cinder.path("tmp-snap-x")).unwrap();
    let aside = domain.dir.path().join("aside");
    for file in [cinder.path(&first), cinder.path("info")] {
        std::fs::rename(&file, &aside).unwrap();
        refused(if file == cinder.path("info") { "no volume-" } else { "is not there" });
        std::fs::rename(&aside, &file).unwrap();
    }
    // A link that leads away from the share.
    std::fs::rename(cinder.path(""), &aside).unwrap();
    std::os::unix::fs::symlink(&aside, cinder.path("")).unwrap();
    refused("is a link");
    std::fs::remove_file(cinder.path("")).unwrap();
    std::fs::rename(&aside, cinder.path("")).unwrap();
    // Nova still has it open.
    let held = ImageLock::write(&cinder.path(&second)).unwrap();
    refused("in use");
    drop(held);
    let wrong = strata(volumes, "import", &["--cinder", &cinder.id, "--format", "qcow2"]);
    assert!(said(&wrong).contains("is raw by what stands on it"), "{}", said(&wrong));
    for from in ["..", "volumes", "missing"] {
        let output = strata(volumes, "import", &["--cinder", &cinder.id, "--from", from]);
        assert!(!output.status.success(), "{from}: {}", said(&output));
    }
    answer(volumes, "import", &["--cinder", &cinder.id]);
    assert!(domain.read(cinder.id.parse().unwrap(), 8 * BLOCK) == cinder.states[2]);
}

/// A table that lies there alone is Cinder's own business, unless it says what the volume's record says.
#[test]
fn a_table_without_images_goes_only_if_it_is_that_of_the_volume() {
    let domain = Domain::new();
    let volumes = &domain.volumes;
    let cinder = CinderVolume::new(&volumes.share().root, "raw", 2);
    let table = std::fs::read_to_string(cinder.path("info")).unwrap();
    answer(volumes, "import", &["--cinder", &cinder.id]);
    let other = table.replace(&cinder.snapshots[0], &uuid::Uuid::new_v4().to_string());
    for (table, stays) in [(other, true), ("[]".to_owned(), true), (table, false)] {
        std::fs::write(cinder.path("info"), table).unwrap();
        answer(volumes, "import", &["--cinder", &cinder.id]);
        assert_eq!(cinder.path("info").exists(), stays);
    }
}

/// Whatever lies in the volume's folder and is none of the images may stand on them.
#[test]
fn an_image_that_cinder_does_not_have_stops_an_adoption() {
    let domain = Domain::new();
    let volumes = &domain.volumes;
    let cinder = CinderVolume::new(&volumes.share().root, "qcow2", 1);
    let folder = volumes.layout().volume(cinder.id.parse().unwrap());
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join(cinder.name("later")), "an overlay").unwrap();
    let before = cinder.files();
    let refused = strata(volumes, "import", &["--cinder", &cinder.id]);
    assert!(
        refused.status.code() == Some(4) && said(&refused).contains("none of Cinder's"),
        "{}",
        said(&refused)
    );
    assert_eq!(cinder.files(), before);
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1);
}
