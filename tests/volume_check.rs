//! `strata volume check` on a share in a folder (G10).

mod support;

use std::process::{Command, Output};
use strata::volume::{Access, VolumeKind};
use support::domain::Domain;

fn check(domain: &Domain, arguments: &[&str]) -> Output {
    let share = format!("dir:{}", domain.volumes.share().root.display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
    command.args(["volume", "check", "--share", &share]).args(arguments);
    command.output().unwrap()
}

#[test]
fn a_chain_is_shown_and_what_is_wrong_with_it_ends_in_exit_code_1() {
    let domain = Domain::new();
    let volume = domain.create("pvc-shown", VolumeKind::Qcow2);
    let snapshot = domain.volumes.snapshot(volume, "snap").unwrap();
    let handle = domain.volumes.handle(volume).to_string();

    let healthy = check(&domain, &[&handle]);
    let text = String::from_utf8(healthy.stdout).unwrap();
    assert_eq!(healthy.status.code(), Some(0), "{text}");
    assert!(text.contains("pvc-shown") && text.contains(&snapshot.handle.snapshot.to_string()), "{text}");

    // Also while a daemon has it open.
    domain.attach(volume, Access::Block);
    let json = check(&domain, &["-o", "json"]);
    let reports: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(reports[0]["layers"].as_array().unwrap().len(), 2, "{reports}");
    assert_eq!(reports[0]["problems"], serde_json::json!([]));
    domain.detach(volume);

    std::fs::write(domain.volumes.layout().volume(volume).join("volume-stranger"), "x").unwrap();
    let wrong = check(&domain, &[&volume.to_string()]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8(wrong.stdout).unwrap().contains("volume-stranger"));

    assert_eq!(check(&domain, &["not-a-volume"]).status.code(), Some(2));
    assert_eq!(check(&domain, &["6f1d3c52-8b7a-4d0e-9a41-52c71e0b7a01"]).status.code(), Some(3));
}
