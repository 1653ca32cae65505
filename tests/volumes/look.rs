//! List, show and check: what is there, and what is wrong with it (G10, K17).

use crate::support::domain::{Domain, write_at};
use crate::{answer, said, strata};
use serde_json::json;
use strata::image::lock::ImageLock;
use strata::qsd::DaemonHost;
use strata::volume::{Access, VolumeKind, VolumeSource};

#[test]
fn a_chain_is_shown_and_what_is_wrong_with_it_ends_in_exit_code_1() {
    let domain = Domain::new();
    let volume = domain.create("pvc-shown", VolumeKind::Qcow2);
    let snapshot = domain.volumes.snapshot(volume, "snap").unwrap();
    let handle = domain.volumes.handle(volume).to_string();
    let check = |arguments: &[&str]| strata(&domain.volumes, "check", arguments);

    let healthy = check(&[&handle]);
    assert_eq!(healthy.status.code(), Some(0), "{}", said(&healthy));
    let text = said(&healthy);
    assert!(text.contains("pvc-shown") && text.contains(&snapshot.handle.snapshot.to_string()), "{text}");

    // Also while a daemon has it open.
    domain.attach(volume, Access::Block);
    let reports = answer(&domain.volumes, "check", &["--images"]);
    assert_eq!(reports[0]["layers"].as_array().unwrap().len(), 2, "{reports}");
    assert_eq!((&reports[0]["problems"], &reports[0]["pending"]), (&json!([]), &json!([])));
    let verdicts = reports[0]["images"].to_string();
    assert!(verdicts.contains("open for writing") && verdicts.contains("sound"), "{verdicts}");
    domain.detach(volume);

    std::fs::write(domain.volumes.layout().volume(volume).join("volume-stranger"), "x").unwrap();
    let wrong = check(&[&volume.to_string()]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(said(&wrong).contains("volume-stranger"));

    assert_eq!(check(&["not-a-volume"]).status.code(), Some(2));
    assert_eq!(check(&["6f1d3c52-8b7a-4d0e-9a41-52c71e0b7a01"]).status.code(), Some(3));
}

#[test]
fn a_volume_is_listed_and_shown_with_all_that_stands_on_it() {
    let domain = Domain::new();
    let volumes = &domain.volumes;
    let volume = domain.create("pvc-source", VolumeKind::Qcow2);
    let first = volumes.snapshot(volume, "first").unwrap();
    let second = volumes.snapshot(volume, "second").unwrap();
    let clone = domain.create_from(
        "pvc-clone",
        VolumeKind::Qcow2,
        Some(VolumeSource::Snapshot(first.handle.clone())),
    );
    let _pinned = volumes.pin_snapshot(volume, second.handle.snapshot, "a reader").unwrap();
    domain.attach(volume, Access::Block);

    let listed = answer(volumes, "list", &[]);
    let line = |name| listed.as_array().unwrap().iter().find(|line| line["name"] == name).unwrap();
    let source = line("pvc-source");
    assert_eq!(source["handle"], volumes.handle(volume).to_string());
    assert_eq!(
        (&source["capacity"], &source["layers"], &source["snapshots"]),
        (&json!(1 << 30), &json!(3), &json!(2))
    );
    assert_eq!((&source["attached_to"], &source["state"]), (&json!(["node-1"]), &json!("ready")));
    assert!(source["allocated"].as_u64().unwrap() > 0);
    assert_eq!(line("pvc-clone")["attached_to"], json!([]));
    let table = said(&strata(volumes, "list", &[]));
    assert!(table.contains("HANDLE") && table.contains("1.0 GiB") && table.contains("node-1"), "{table}");

    let shown = answer(volumes, "show", &[&volumes.handle(volume).to_string()]);
    let chain = shown["chains"][0].as_array().unwrap();
    assert_eq!(
        chain.iter().map(|layer| &layer["active"]).collect::<Vec<_>>(),
        [&json!(true), &json!(false), &json!(false)]
    );
    assert_eq!(chain[1]["snapshots"], json!([second.handle.to_string()]));
    assert_eq!(chain[2]["snapshots"], json!([first.handle.to_string()]));
    assert_eq!(chain[2]["clones"], json!([volumes.handle(clone).to_string()]));
    assert_eq!(
        (&shown["pins"][0]["owner"], &shown["pins"][0]["layer"]),
        (&json!("a reader"), &chain[1]["id"])
    );
    assert_eq!(
        (&shown["attachments"][0]["node"], &shown["attachments"][0]["opened"]),
        (&json!("node-1"), &json!(1))
    );
    let text = said(&strata(volumes, "show", &[&clone.to_string()]));
    assert!(
        text.contains(&format!("of volume {volume}")) && text.contains(&first.handle.to_string()),
        "{text}"
    );
    let text = said(&strata(volumes, "show", &[&volume.to_string()]));
    assert!(text.contains("by a reader, until") && text.contains("epoch 1"), "{text}");
    // As the background leaves it.
    let note = json!({"run": uuid::Uuid::nil(), "direction": "commit", "done": 1 << 20, "total": 4 << 20,
        "updated_at": "2026-01-01T00:00:00Z"});
    let path = volumes.layout().background(volume);
    std::fs::write(&path, note.to_string()).unwrap();
    let text = said(&strata(volumes, "show", &[&volume.to_string()]));
    assert!(text.contains("a merge (commit): 1.0 MiB of 4.0 MiB, 25 %"), "{text}");
    let mut failed = note.clone();
    failed["error"] = json!("no room");
    std::fs::write(&path, failed.to_string()).unwrap();
    assert_eq!(answer(volumes, "show", &[&volume.to_string()])["background"], failed);
    assert_eq!(strata(volumes, "show", &["6f1d3c52-8b7a-4d0e-9a41-52c71e0b7a01"]).status.code(), Some(3));
}

#[test]
fn one_damaged_volume_hides_no_other() {
    let domain = Domain::new();
    let volumes = &domain.volumes;
    let whole = domain.create("pvc-whole", VolumeKind::Qcow2);
    let torn = domain.create("pvc-torn", VolumeKind::Qcow2);
    let bare = domain.create("pvc-bare", VolumeKind::RawSparse);
    write_at(&volumes.layout().record(torn), 30, b"x");
    std::fs::remove_file(volumes.layout().record(bare)).unwrap();

    let listed = answer(volumes, "list", &[]);
    let state = |volume| {
        let handle = volumes.handle(volume).to_string();
        listed.as_array().unwrap().iter().find(|line| line["handle"] == handle).unwrap()["state"].clone()
    };
    assert_eq!(
        (state(whole), state(torn), state(bare)),
        (json!("ready"), json!("damaged"), json!("damaged"))
    );
    let checked = strata(volumes, "check", &["-o", "json"]);
    assert_eq!(checked.status.code(), Some(1));
    let reports: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    let problems = |volume: strata::volume::VolumeId| {
        let id = volume.to_string();
        reports.as_array().unwrap().iter().find(|report| report["id"] == id).unwrap()["problems"].to_string()
    };
    assert_eq!(problems(whole), "[]");
    assert!(problems(torn).contains("damaged") && problems(bare).contains("no record"), "{reports}");
    let shown = strata(volumes, "show", &[&torn.to_string()]);
    assert!(shown.status.code() == Some(1) && said(&shown).contains("--repair"), "{}", said(&shown));
}

#[test]
fn who_has_an_image_open_is_compared_with_the_record() {
    let domain = Domain::new();
    let volumes = &domain.volumes;
    let volume = domain.create("pvc-held", VolumeKind::Qcow2);
    let image = volumes.layout().image(volume, &domain.files(volume)[0]);
    let report = || volumes.inspect(volume).unwrap();
    let held = ImageLock::write(&image).unwrap();
    assert!(report().problems[0].contains("no node has opened it"), "{:?}", report());
    drop(held);
    assert!(report().problems.is_empty());

    domain.attach(volume, Access::Block);
    assert_eq!((report().problems, report().pending), (vec![], vec![]));
    std::fs::remove_file(volumes.layout().node(&domain.node)).unwrap();
    assert!(report().problems[0].contains("not registered"), "{:?}", report());
    for daemon in domain.daemons.list().unwrap() {
        domain.daemons.stop(&daemon.name).unwrap();
    }
    assert!(report().pending[0].contains("image lock no more"), "{:?}", report());
}

/// After a rollback: what this version does not know is neither passed over nor repaired away.
#[test]
fn a_record_of_a_newer_version_is_refused_and_not_rebuilt() {
    let domain = Domain::new();
    let volume = domain.create("pvc-newer", VolumeKind::RawSparse);
    let path = domain.volumes.layout().record(volume);
    let newer = std::fs::read_to_string(&path).unwrap().replace("\"schema\": 1", "\"schema\": 2");
    std::fs::write(&path, &newer).unwrap();
    for refused in [domain.volumes.get(volume).map(drop), domain.volumes.repair(volume, None).map(drop)] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("a newer version of strata wrote it"), "{error}");
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), newer);
}
