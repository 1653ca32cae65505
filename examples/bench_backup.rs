//! `make bench-backup`: what backups cost, beside Cinder's own driver, restic and borg.
//!
//! Six parts, each by its name as an argument (none: all): `full`, `unchanged`, `changed`, `read`, `restore`, `memory`.
//! All tools get the same deterministic image. Tables go to standard output as Markdown, and to the file that OUT
//! names; settings are environment variables, listed in scripts/run-bench-backup.

#[path = "bench_backup/cinder.rs"]
mod cinder;
#[path = "bench_backup/client.rs"]
mod client;
#[path = "bench_backup/floor.rs"]
mod floor;
#[path = "bench_backup/image.rs"]
mod image;
#[path = "bench_backup/large.rs"]
mod large;
#[path = "bench_backup/measure.rs"]
mod measure;
#[path = "bench_backup/peers.rs"]
mod peers;
#[path = "bench_volume/report.rs"]
#[allow(dead_code)]
mod report;
#[path = "bench_backup/rounds.rs"]
mod rounds;
#[path = "bench_backup/share.rs"]
mod share;
#[path = "bench_backup/table.rs"]
mod table;
#[path = "bench_backup/tool.rs"]
mod tool;
#[path = "bench_backup/world.rs"]
mod world;

use anyhow::{Result, bail};
use report::Report;
use std::process::ExitCode;
use world::World;

const PARTS: [&str; 6] = ["full", "unchanged", "changed", "restore", "read", "memory"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let ended = match arguments.as_slice() {
        // A process of its own, so that it is measured as the tools are.
        [verb, arguments @ ..] if verb == "floor" => floor::child(arguments),
        wanted => run(wanted),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nbench-backup failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(wanted: &[String]) -> Result<()> {
    if let Some(unknown) = wanted.iter().find(|name| !PARTS.contains(&name.as_str())) {
        bail!("there is no part {unknown:?}; parts are {}", PARTS.join(", "));
    }
    let wants = |part: &str| wanted.is_empty() || wanted.iter().any(|one| one == part);
    let world = World::new()?;
    let mut report = Report::new(std::env::var_os("OUT").map(Into::into))?;
    if PARTS[..4].iter().any(|part| wants(part)) {
        rounds::run(&world, &mut report, &wants)?;
    }
    if wants("read") {
        large::read(&world, &mut report)?;
    }
    if wants("memory") {
        large::memory(&world, &mut report)?;
    }
    Ok(())
}
