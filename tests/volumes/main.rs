//! `strata volume …` on shares in a folder, with real images, daemons and locks.

mod adopt;
#[path = "../support/driver.rs"]
#[allow(dead_code)]
mod driver;
mod export;
mod first_use;
mod import;
mod look;
mod repair;
#[path = "../backup/s3_server.rs"]
mod s3_server;
#[path = "../support/mod.rs"]
mod support;

use serde_json::Value;
use std::process::{Command, Output};
use strata::volume::Volumes;

/// Runs a verb on a share.
fn strata(volumes: &Volumes, verb: &str, arguments: &[&str]) -> Output {
    command(volumes, verb, arguments).output().unwrap()
}

fn command(volumes: &Volumes, verb: &str, arguments: &[&str]) -> Command {
    let share = volumes.share().source.to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
    command.args(["volume", verb, "--share", &share]).args(arguments);
    command
        .env("STRATA_QEMU_IMG", support::qemu_img())
        .env("STRATA_QEMU_STORAGE_DAEMON", support::qemu_storage_daemon());
    command
}

/// The same, with success and its JSON.
fn answer(volumes: &Volumes, verb: &str, arguments: &[&str]) -> Value {
    let output = command(volumes, verb, arguments).args(["-o", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// All that it printed.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}
