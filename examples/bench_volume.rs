//! `make bench-volume`: what volumes cost, on a throw-away replicated GlusterFS volume.
//!
//! Four parts, each by its name as an argument (none: all): `pause` of a writer in an online snapshot, `latency` of
//! calls, `fio` through a volume against a plain file, `depth` of chains. Tables go to standard output as Markdown,
//! and to the file that OUT names; settings are environment variables, listed in scripts/run-bench-volume.

#[path = "bench_volume/depth.rs"]
mod depth;
#[path = "../tests/support/driver.rs"]
#[allow(dead_code)]
mod driver;
#[path = "bench_volume/fio.rs"]
mod fio;
#[path = "bench_volume/latency.rs"]
mod latency;
#[path = "bench_volume/pause.rs"]
mod pause;
#[path = "bench_volume/report.rs"]
mod report;
#[path = "bench_volume/world.rs"]
mod world;
#[path = "bench_volume/writer.rs"]
mod writer;

use anyhow::{Result, bail};
use report::Report;
use std::process::ExitCode;
use world::World;

type Part = fn(&World, &mut Report) -> Result<()>;

const PARTS: &[(&str, Part)] =
    &[("pause", pause::run), ("latency", latency::run), ("fio", fio::run), ("depth", depth::run)];

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nbench-volume failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(wanted: Vec<String>) -> Result<()> {
    let known = |name: &String| PARTS.iter().any(|(part, _)| part == name);
    if let Some(unknown) = wanted.iter().find(|name| !known(name)) {
        bail!("there is no part {unknown:?}; parts are pause, latency, fio and depth");
    }
    let world = World::new()?;
    let mut report = Report::new(std::env::var_os("OUT").map(Into::into))?;
    for (name, part) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|one| one == name) {
            part(&world, &mut report)?;
        }
    }
    Ok(())
}
