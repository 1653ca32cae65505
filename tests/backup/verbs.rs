//! The verbs that look after a repository, through the real binary.

use crate::cli::Shell;
use crate::s3_server::S3Server;
use crate::util::noise;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use uuid::Uuid;

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap()
}

/// Three backups of one volume, each on the one before.
fn three(shell: &Shell) -> Vec<Value> {
    let (image, volume) = (shell.path("volume.raw"), Uuid::new_v4().to_string());
    let mut data = noise(5, 300_001);
    let mut made = Vec::new();
    for at in [0, 70_000, 140_000] {
        data[at] ^= 1;
        std::fs::write(&image, &data).unwrap();
        made.push(shell.create(&image, &volume, "latest"));
    }
    made
}

fn restored(shell: &Shell, backup: &str) -> Vec<u8> {
    let to = shell.path(&format!("restored-{}", Uuid::new_v4()));
    shell.json("restore", &["--backup", backup, "--to", to.to_str().unwrap()]);
    std::fs::read(&to).unwrap()
}

fn looked_after(shell: &Shell) {
    let made = three(shell);
    let ids: Vec<&str> = made.iter().map(|made| text(made, "backup_id")).collect();
    let newest = restored(shell, ids[2]);
    let deleted = shell.json("delete", &["--backup", ids[1], "--rebase"]);
    assert_eq!(deleted["rebased"][0]["backup_id"], ids[2]);
    assert_eq!(deleted["rebased"][0]["parent_id"], ids[0]);
    let plan = shell.json("prune", &["--keep-last", "1", "--rebase", "--dry-run"]);
    assert_eq!((&plan["dry_run"], &plan["kept"], &plan["removed"]), (&json!(true), &json!(1), &json!(1)));
    assert_eq!(
        (&plan["backups"][1]["reasons"], &plan["backups"][1]["rebased"]),
        (&json!(["last"]), &json!(true))
    );
    assert_eq!(shell.json("list", &[]).as_array().unwrap().len(), 2);
    let shown = String::from_utf8(shell.run("prune", &["--keep-daily", "1"]).stdout).unwrap();
    assert!(shown.contains(&format!("needed by {}", ids[2])) && shown.contains("daily"), "{shown}");
    shell.json("prune", &["--keep-last", "1", "--rebase"]);
    let listed = shell.json("list", &[]);
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["depth"]), (1, &json!(1)));
    assert!(restored(shell, ids[2]) == newest);
    shell.fails(2, "--keep-last", "prune", &[]);
    shell.fails(2, "no span of time", "gc", &["--older-than", "soon"]);
    let clean = shell.json("gc", &["--older-than", "0s"]);
    assert_eq!((&clean["removed"], &clean["bytes_freed"]), (&json!([]), &json!(0)));
}

#[test]
fn looked_after_in_a_directory() {
    let shell = Shell::local();
    looked_after(&shell);
    // A broken off set: too young for the default, named in a dry run, gone without.
    let key = format!("volume_{}/20260101000000/az_nova_backup_{}", Uuid::new_v4(), Uuid::new_v4());
    let chunk = shell.path("repo").join(format!("{key}-00001"));
    std::fs::create_dir_all(chunk.parent().unwrap()).unwrap();
    std::fs::write(&chunk, b"half").unwrap();
    assert_eq!(shell.json("gc", &[])["young"][0]["kind"], "incomplete");
    let output = shell.run("gc", &["--older-than", "0s", "--dry-run"]);
    assert!(String::from_utf8(output.stdout).unwrap().contains(&key) && chunk.exists());
    assert_eq!(shell.json("gc", &["--older-than", "0s"])["removed"][0]["bytes"], 4);
    assert!(!chunk.exists());
}

#[test]
fn looked_after_on_s3() {
    let server = S3Server::start();
    looked_after(&Shell::s3(&server));
}

fn exported(shell: &Shell) {
    let made = three(shell);
    let (first, last) = (text(&made[0], "backup_id"), text(&made[2], "backup_id"));
    let diff = shell.json("diff", &[first, last]);
    assert_eq!((&diff["bytes_differ"], &diff["ranges_total"]), (&json!(8192), &json!(2)));
    assert_eq!(diff["ranges"][0], json!({"offset": 69_632, "length": 4096}));
    let records = shell.json("export-record", &["--backup", last, "--container", "bucket"]);
    assert_eq!((records.as_array().unwrap().len(), &records[0]["backup_id"]), (3, &json!(first)));
    let other = format!("--to-repository=file://{}", shell.path("other").display());
    let output = shell.run("export-full", &["--backup", last, &other, "--progress", "json", "-o", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    let moment: Value = serde_json::from_str(errors.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&moment["percent"], &moment["bytes_done"], &moment["eta_seconds"]),
        (&json!(100.0), &json!(300_001), &json!(0))
    );
    let to = shell.path("from-other");
    let restored_from = Shell {
        repository: vec![other.replace("--to-", "--")],
        variables: Vec::new(),
        folder: tempfile::tempdir().unwrap(),
    };
    restored_from.json("restore", &["--backup", text(&report, "backup_id"), "--to", to.to_str().unwrap()]);
    assert!(std::fs::read(&to).unwrap() == restored(shell, last));
    let plain = shell.run("export-full", &["--backup", last, &other, "--progress", "plain"]);
    assert!(String::from_utf8(plain.stderr).unwrap().contains("100.0%  293.0 KiB of 293.0 KiB"));
    let quiet = shell.run("export-full", &["--backup", last, &other, "--progress", "none"]);
    assert!(quiet.status.success() && quiet.stderr.is_empty());
}

#[test]
fn exported_from_a_directory() {
    let shell = Shell::local();
    exported(&shell);
    let backup = text(&shell.json("list", &[])[0], "backup_id").to_owned();
    shell.fails(2, "--container", "export-record", &["--backup", &backup]);
    // Orders of a list; people see age and depth.
    let sizes = shell.json("list", &["--sort", "size"]);
    let sizes: Vec<_> =
        sizes.as_array().unwrap().iter().map(|info| info["bytes_stored"].as_u64().unwrap()).collect();
    assert!(sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
    let shown = String::from_utf8(shell.run("list", &[]).stdout).unwrap();
    assert!(shown.lines().next().unwrap().contains("AGE") && shown.contains("DEPTH"), "{shown}");
}

#[test]
fn exported_from_s3() {
    let server = S3Server::start();
    exported(&Shell::s3(&server));
}

/// 5: damage. 130 and 143: stopped by a signal, and what was begun is removed.
#[test]
fn exit_codes_of_damage_and_signals() {
    let shell = Shell::local();
    let made = three(&shell);
    let chunk = shell.path("repo").join(format!("{}-00001", text(&made[0], "prefix")));
    std::fs::write(&chunk, b"damaged").unwrap();
    let new = shell.path("new");
    shell.fails(
        5,
        "-00001",
        "restore",
        &["--backup", text(&made[2], "backup_id"), "--to", new.to_str().unwrap()],
    );
    std::fs::remove_file(&chunk).unwrap();
    shell.fails(5, "-00001", "show", &["--backup", text(&made[0], "backup_id")]);
    let listed = shell.json("list", &[]);
    assert!(listed.as_array().unwrap().iter().all(|info| info["damage"].is_string()), "{listed}");
    let image = shell.path("large");
    std::fs::File::create(&image).unwrap().set_len(64 << 30).unwrap();
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let volume = Uuid::new_v4().to_string();
        let repository = shell.path(&format!("repo{code}"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_strata"))
            .args(["backup", "--progress", "json", "create", "--format", "raw", "--volume-id", &volume])
            .args(["--chunk-size", "1M", "--image", image.to_str().unwrap()])
            .arg(format!("--repository=file://{}", repository.display()))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().contains("\"percent\""));
        let kill = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        let said: Vec<String> = lines.map(Result::unwrap).collect();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{said:?}");
        // It may not have come to making the folder.
        let left = std::fs::read_dir(repository).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{said:?}");
    }
}

/// Scripts for shells and pages for man, from the real binary; the shells accept their own.
#[test]
fn completion_and_manual() {
    let strata = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_strata")).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = strata(&["completion", shell]);
        assert!(script.contains("export-full") && script.contains("keep-monthly"), "{shell}");
        let file = folder.path().join(shell);
        std::fs::write(&file, script).unwrap();
        // bash is there wherever these tests run; the others may not be.
        if shell == "bash" {
            assert!(Command::new("bash").arg("-n").arg(&file).status().unwrap().success());
        }
    }
    strata(&["man", "--dir", folder.path().join("man1").to_str().unwrap()]);
    let page = std::fs::read_to_string(folder.path().join("man1/strata-backup-prune.1")).unwrap();
    assert!(page.contains("keep\\-monthly") || page.contains("keep-monthly"), "{page}");
    let help = strata(&["backup", "--help"]);
    assert!(help.contains("Exit codes:") && help.contains("143"), "{help}");
}
