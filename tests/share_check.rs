//! `strata share check` (G1, G2): on a real GlusterFS, and on a directory.

mod support;

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use strata::gluster::Source;
use support::{OpenShare, OwnVolume, PlainMount, run};

fn check(source: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
    command.args(["share", "check", source]).args(arguments).output().unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// The first words of the causes that are of that severity.
fn causes(report: &Value, severity: &str) -> Vec<String> {
    let findings = report["findings"].as_array().unwrap().iter();
    let causes =
        findings.filter(|finding| finding["severity"] == severity).map(|f| f["cause"].as_str().unwrap());
    causes.map(|cause| cause.split(' ').next().unwrap().to_owned()).collect()
}

fn mounts_of_commands() -> usize {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    table.lines().filter(|line| line.contains("/run/strata/commands")).count()
}

#[test]
fn a_directory_is_checked_and_its_nodes_are_listed_with_their_age() {
    let domain = support::domain::Domain::new();
    domain.create("pvc-1", strata::volume::VolumeKind::Qcow2);
    let source = domain.volumes.share().source.to_string();
    let nodes = domain.volumes.layout().nodes();
    let record = fs::read_to_string(nodes.join("node-1.json")).unwrap();
    let mut old: Value = serde_json::from_str(&record.replace("node-1", "node-0")).unwrap();
    old["heartbeat"] = json!("2026-01-01T00:00:00Z");
    fs::write(nodes.join("node-0.json"), old.to_string()).unwrap();
    fs::write(nodes.join("node-2.json"), "{").unwrap();

    let output = check(&source, &["-o", "json"]);
    let found = report(&output);
    assert_eq!(output.status.code(), Some(0), "{found}");
    assert_eq!(found["key"], domain.volumes.share().key.as_str());
    assert_eq!(
        (&found["safe"], &found["writable"], &found["volumes"]),
        (&json!(true), &json!("passed"), &json!(1))
    );
    assert!(found["free"].as_u64().unwrap() > 0 && found["total"].as_u64() >= found["free"].as_u64());
    let nodes = found["nodes"].as_array().unwrap();
    let silent: Vec<_> =
        nodes.iter().map(|node| (node["node"].as_str().unwrap(), node["silent"] == true)).collect();
    assert_eq!(silent, [("node-0", true), ("node-1", false), ("node-2", true)], "{found}");
    assert!(nodes[2]["problem"].as_str().unwrap().contains("node-2.json"), "{found}");

    let text = String::from_utf8(check(&source, &[]).stdout).unwrap();
    assert!(text.contains("uses this share") && text.contains("node-0") && text.contains("silent"), "{text}");
}

#[test]
fn a_share_that_cannot_be_reached_or_read_is_an_error() {
    assert_eq!(check("dir:/no/such/folder", &[]).status.code(), Some(1));
    assert_eq!(check("nonsense", &[]).status.code(), Some(2));
    assert_eq!(check("dir:/tmp", &["--options", "a b"]).status.code(), Some(2));
    let dir = support::scratch();
    let refused = check(&format!("dir:{}", dir.path().display()), &["--options", "ro", "-o", "json"]);
    assert_eq!(refused.status.code(), Some(4));
    assert!(report(&refused)["findings"][0]["remedy"].as_str().unwrap().contains("leave ro out"));
}

/// Images are opened past the kernel's cache only.
#[test]
fn a_filesystem_without_direct_io_is_unsafe() {
    support::need_root();
    let at = support::scratch();
    run("mount", &["-t", "ramfs", "none", at.path().to_str().unwrap()]);
    let output = check(&format!("dir:{}", at.path().display()), &["-o", "json"]);
    let left = fs::read_dir(at.path()).unwrap().count();
    run("umount", &[at.path().to_str().unwrap()]);
    let found = report(&output);
    assert_eq!((output.status.code(), &found["safe"], left), (Some(4), &json!(false), 0), "{found}");
    assert!(found["findings"][0]["cause"].as_str().unwrap().contains("takes no direct I/O"), "{found}");
}

/// Everything that is unsafe is said at once; the commands that are named mend it; nothing stays mounted and a
/// share that no driver has used gets nothing from being looked at.
#[test]
fn a_volume_is_unsafe_until_it_is_mended_as_told() {
    let Source::Gluster { host, .. } = support::gluster_share() else { panic!("a GlusterFS volume") };
    let dir = support::scratch();
    let volume = OwnVolume::new("unsafe", &host, dir.path());
    let source = format!("{host}:/unsafe");
    volume.set("features.shard", "on");
    volume.set("cluster.quorum-type", "none");
    run("gluster", &["--mode=script", "volume", "start", "unsafe"]);

    let output = check(&source, &["-o", "json"]);
    let found = report(&output);
    assert_eq!(output.status.code(), Some(4), "{found}");
    assert_eq!(causes(&found, "refuse"), ["client.strict-locks", "features.shard", "cluster.quorum-type"]);
    // The proof runs all the same.
    assert_eq!(
        (&found["options"], &found["coherent"], &found["writable"]),
        (&json!("failed"), &json!("passed"), &json!("passed"))
    );
    assert_eq!(found["key"], Value::Null);

    for finding in found["findings"].as_array().unwrap() {
        let remedy = finding["remedy"].as_str().unwrap();
        if finding["severity"] == "refuse" {
            let words: Vec<&str> = remedy.split(" (").next().unwrap().split(' ').skip(1).collect();
            run("gluster", &[&["--mode=script"], words.as_slice()].concat());
        }
    }
    let mended = check(&source, &["-o", "json"]);
    assert_eq!(mended.status.code(), Some(0), "{}", report(&mended));
    let mount = PlainMount::new(&source.parse().unwrap(), dir.path().join("plain"));
    let names = fs::read_dir(&mount.0).unwrap().map(|entry| entry.unwrap().file_name());
    let of_glusterfs = [".trashcan", ".shard"];
    let made: Vec<_> = names.filter(|name| of_glusterfs.iter().all(|other| name != other)).collect();
    assert!(made.is_empty(), "a look leaves nothing: {made:?}");

    // A mount beside it that caches is told, with a warning.
    let beside = report(&check(&source, &["-o", "json"]));
    let warnings = causes(&beside, "warn");
    assert!(warnings.iter().any(|cause| Path::new(cause) == mount.0), "{beside}");
    assert_eq!(mounts_of_commands(), 0);
}

#[test]
fn the_volume_of_the_tests_is_as_it_should_be() {
    let source = support::gluster_share();
    let dir = support::scratch();
    let share = OpenShare::new(&source, dir.path());
    let output = check(&source.to_string(), &["-o", "json"]);
    let found = report(&output);
    assert_eq!(output.status.code(), Some(0), "{found}");
    assert_eq!(found["key"], share.0.key.as_str());
    assert_eq!(found["findings"], json!([]), "not even the driver's own mount beside it");
    assert_eq!((&found["options"], &found["coherent"]), (&json!("passed"), &json!("passed")));
}
