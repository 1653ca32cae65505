//! fio through a volume (block mode) against a loop device with direct I/O on a plain file of the same mount.

use crate::driver::{Use, new_volume};
use crate::report::{Report, median};
use crate::world::{World, setting, share_mount};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use strata::host::loopdev::{KernelLoops, LoopDevices, LoopOptions};

/// What of each side is written and read; two sides and three replicas take six times as much of the disk.
const SIZE: u64 = 256 << 20;

struct Job {
    name: &'static str,
    rw: &'static str,
    block: &'static str,
    depth: u32,
}

const fn job(name: &'static str, rw: &'static str, block: &'static str, depth: u32) -> Job {
    Job { name, rw, block, depth }
}

const JOBS: &[Job] = &[
    job("4k random read, queue depth 1", "randread", "4k", 1),
    job("4k random read, queue depth 16", "randread", "4k", 16),
    job("4k random write, queue depth 1", "randwrite", "4k", 1),
    job("4k random write, queue depth 16", "randwrite", "4k", 16),
    job("1M sequential read, queue depth 1", "read", "1M", 1),
    job("1M sequential read, queue depth 16", "read", "1M", 16),
    job("1M sequential write, queue depth 1", "write", "1M", 1),
    job("1M sequential write, queue depth 16", "write", "1M", 16),
];

pub fn run(world: &World, report: &mut Report) -> Result<()> {
    let driver = world.driver("fio")?;
    let volume = driver.create(new_volume("fio", SIZE, Use::Block, &[]))?.volume_id;
    let place = world.dir().join("fio-volume");
    let device = driver.attach(&volume, &place, Use::Block)?;
    let plain = share_mount(&driver)?.join("plain-file");
    File::create(&plain)?.set_len(SIZE)?;
    let looped = KernelLoops.attach(&plain, LoopOptions { read_only: false, direct_io: true })?;
    let compared = compare(world, report, &device, &looped.path);
    KernelLoops.detach(&plain)?;
    std::fs::remove_file(&plain)?;
    driver.detach(&volume, &place)?;
    compared
}

/// Both sides turn by turn, so that whatever else the machine does meets both.
fn compare(world: &World, report: &mut Report, volume: &Path, plain: &Path) -> Result<()> {
    let rounds: usize = setting("ROUNDS", 3)?;
    let seconds: u32 = setting("SECONDS_EACH", 3)?;
    for side in [volume, plain] {
        report.progress(&format!("filling {}", side.display()));
        fio(world, side, &job("fill", "write", "1M", 4), None)?;
    }
    let mut rows = Vec::new();
    for job in JOBS {
        report.progress(job.name);
        let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            ours.push(fio(world, volume, job, Some(seconds))?);
            theirs.push(fio(world, plain, job, Some(seconds))?);
            ratios.push(ours[ours.len() - 1] / theirs[theirs.len() - 1]);
        }
        rows.push(row(job, &ours, &theirs, &ratios));
    }
    let heads = ["job", "volume", "plain file", "unit", "ratio", "lowest and highest of the rounds"];
    let title = format!("fio on 256 MiB, O_DIRECT, {rounds} rounds of {seconds} s each side, in turn");
    report.table(&title, &heads, &rows)
}

fn row(job: &Job, ours: &[f64], theirs: &[f64], ratios: &[f64]) -> Vec<String> {
    let (unit, divisor) = if job.block == "4k" { ("IOPS", 4096.0) } else { ("MB/s", 1e6) };
    let figure = |rates: &[f64]| format!("{:.0}", median(rates) / divisor);
    let lowest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = ratios.iter().copied().fold(0.0, f64::max);
    let ratio = format!("{:.2}", median(ratios));
    let range = format!("{lowest:.2}–{highest:.2}");
    vec![job.name.to_owned(), figure(ours), figure(theirs), unit.to_owned(), ratio, range]
}

/// Bytes per second.
fn fio(world: &World, device: &Path, job: &Job, seconds: Option<u32>) -> Result<f64> {
    let mut command = Command::new("fio");
    // fio leaves files of its own where it runs.
    command.current_dir(world.dir()).args([
        "--name=bench",
        "--direct=1",
        "--ioengine=libaio",
        "--output-format=json",
    ]);
    command.arg(format!("--filename={}", device.display()));
    // A volume is larger: it has 1 GiB at least.
    command.arg(format!("--size={SIZE}"));
    command.args([
        format!("--rw={}", job.rw),
        format!("--bs={}", job.block),
        format!("--iodepth={}", job.depth),
    ]);
    command.args(["--randrepeat=0", "--norandommap"]);
    match seconds {
        Some(seconds) => command.args(["--time_based".to_owned(), format!("--runtime={seconds}")]),
        None => command.arg("--end_fsync=1"),
    };
    let output = command.output().context("fio is missing: run scripts/ensure-packages")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "fio failed on {}: {said}", device.display());
    let answer: Value = serde_json::from_slice(&output.stdout).context("fio's report is no JSON")?;
    let rate = |side: &str| answer.pointer(&format!("/jobs/0/{side}/bw_bytes")).and_then(Value::as_f64);
    let total = rate("read").unwrap_or(0.0) + rate("write").unwrap_or(0.0);
    ensure!(total > 0.0, "fio moved nothing on {}", device.display());
    Ok(total)
}
