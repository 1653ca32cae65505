//! What the depth of a chain costs: opening it, memory, and the latency of a read.
//!
//! The worst case on purpose: every layer has written something everywhere, so that each has all of its tables, and
//! the data that is read lies in the lowest one. A read then asks every layer: the first one of a place fetches a
//! piece of a table for each, later ones find them in the caches.

use crate::report::{Report, median, ms, quantile};
use crate::world::{World, setting};
use anyhow::{Context, Result, ensure};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use strata::attach::{Access, Backend, FuseLoop};
use strata::gluster;
use strata::host::loopdev::KernelLoops;
use strata::host::mount::LinuxMounter;
use strata::image::qemu_img::{Create, Preallocation};
use strata::image::{Format, ImageRef, QemuImg};
use strata::qsd::command::{self, Open};
use strata::qsd::qmp::Client;
use strata::qsd::{Daemon, DaemonHost, LocalDaemons};

const LIMIT: Duration = Duration::from_secs(60);
const SIZE: u64 = 16 << 30;
/// What one table of 64 KiB describes: every layer has one cluster in each such part.
const PART: u64 = 512 << 20;
/// Of it, at the beginning, the lowest layer's data.
const DATA: u64 = 1 << 20;
const CLUSTER: u64 = 64 << 10;

struct Row {
    depth: usize,
    open: Duration,
    /// In MiB: just opened, after reads, after reads and writes.
    memory: [f64; 3],
    /// The first read of each part.
    first: Vec<Duration>,
    idle: Vec<Duration>,
    loaded: Vec<Duration>,
}

pub fn run(world: &World, report: &mut Report) -> Result<()> {
    let seconds: u64 = setting("SECONDS_EACH", 3)?;
    let (share, _) = gluster::open(&world.share.parse()?, &[], &world.dir().join("depth"))?;
    let measured = rows(world, report, &share.root.join("chain"), Duration::from_secs(seconds));
    gluster::close(&share)?;
    let rows: Vec<Vec<String>> = measured?.iter().map(cells).collect();
    let heads = [
        "layers",
        "open (ms)",
        "memory just opened (MiB)",
        "after reads",
        "after reads and writes",
        "first 4k read of a place: median (ms)",
        "later ones: median",
        "p99",
        "under load: median",
        "p99",
    ];
    report.table(
        "Depth of a chain: 16 GiB, all tables of every layer in use, data in the lowest",
        &heads,
        &rows,
    )
}

fn cells(row: &Row) -> Vec<String> {
    let mut cells = vec![row.depth.to_string(), ms(row.open)];
    cells.extend(row.memory.iter().map(|memory| format!("{memory:.0}")));
    cells.push(format!("{:.2}", median(&row.first).as_secs_f64() * 1e3));
    for times in [&row.idle, &row.loaded] {
        cells.extend(
            [median(times), quantile(times, 99)].map(|time| format!("{:.2}", time.as_secs_f64() * 1e3)),
        );
    }
    cells
}

fn rows(world: &World, report: &Report, folder: &Path, time: Duration) -> Result<Vec<Row>> {
    std::fs::create_dir(folder)?;
    let mut depths = vec![1, 8, 32, 64, 128];
    depths.retain(|depth| *depth <= setting("DEEPEST", 128).unwrap_or(128));
    let mut layers: Vec<PathBuf> = Vec::new();
    let daemons = LocalDaemons::new(world.qemu_storage_daemon.clone(), world.dir().join("depth-daemons"));
    let mut rows = Vec::new();
    for depth in depths {
        report.progress(&format!("a chain of {depth} layers"));
        while layers.len() < depth {
            layers.push(layer(world, folder, layers.len(), layers.last())?);
        }
        let chain: Vec<ImageRef> =
            layers.iter().rev().map(|path| ImageRef { path: path.clone(), format: Format::Qcow2 }).collect();
        let name = "depth".parse()?;
        let daemon = daemons.start(&name)?;
        let work_dir = world.dir().join("depth-device");
        let backend = FuseLoop::new(Arc::new(KernelLoops), Arc::new(LinuxMounter));
        let row = measure(&daemon, &backend, &chain, &work_dir, time);
        backend.detach(Some(&daemon), &work_dir)?;
        daemons.stop(&name)?;
        rows.push(row?);
    }
    Ok(rows)
}

/// A layer that has a cluster in every part; the lowest also has the data.
fn layer(world: &World, folder: &Path, number: usize, below: Option<&PathBuf>) -> Result<PathBuf> {
    let path = folder.join(format!("layer-{number:03}"));
    let name = below.and_then(|below| below.file_name()).and_then(|name| name.to_str());
    let backing = name.map(|name| (name.to_owned(), Format::Qcow2));
    let create = Create { format: Format::Qcow2, size: SIZE, preallocation: Preallocation::Off, backing };
    QemuImg::new(world.qemu_img.clone()).create(&path, &create, LIMIT)?;
    // Without what is below: whole clusters are written, so nothing is copied up.
    let alone = format!(
        "json:{{\"driver\":\"qcow2\",\"backing\":null,\"file\":{{\"driver\":\"file\",\"filename\":{:?}}}}}",
        path.to_str().context("a path of ours")?
    );
    let mut command = Command::new(world.qemu_img.with_file_name("qemu-io"));
    command.args(["-t", "unsafe", &alone]);
    // Beside the data, and beside what other layers wrote.
    let offset = |part: u64| part * PART + DATA + number as u64 % 128 * CLUSTER;
    for part in 0..SIZE / PART {
        command.args(["-c", &format!("write -q -P 17 {} {CLUSTER}", offset(part))]);
    }
    if below.is_none() {
        for part in 0..SIZE / PART {
            command.args(["-c", &format!("write -q -P 34 {} {DATA}", part * PART)]);
        }
    }
    let output = command.output().context("qemu-io cannot be started")?;
    ensure!(output.status.success(), "qemu-io failed: {}", String::from_utf8_lossy(&output.stdout));
    Ok(path)
}

fn measure(
    daemon: &Daemon,
    backend: &dyn Backend,
    chain: &[ImageRef],
    work_dir: &Path,
    time: Duration,
) -> Result<Row> {
    let mut client = Client::connect(&daemon.qmp_socket, LIMIT)?;
    let begun = Instant::now();
    let node = command::add_chain(&mut client, "depth", chain, Open::ReadWrite)?;
    let open = begun.elapsed();
    drop(client);
    let device = backend.attach(daemon, &node, work_dir, Access { readonly: false })?.path;
    let opened = resident(daemon)?;
    let first = read(&device, until_all_seen)?;
    let idle = read(&device, for_time(time))?;
    let after_reads = resident(daemon)?;
    let stop = AtomicBool::new(false);
    let loaded = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(&device, &stop));
        let loaded = read(&device, for_time(time));
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("the writer does not panic")?;
        loaded
    })?;
    let memory = [opened, after_reads, resident(daemon)?];
    Ok(Row { depth: chain.len(), open, memory, first, idle, loaded })
}

/// In MiB.
fn resident(daemon: &Daemon) -> Result<f64> {
    let status = procfs::process::Process::new(i32::try_from(daemon.pid)?)?.status()?;
    Ok(status.vmrss.context("a daemon without memory")? as f64 / 1024.0)
}

fn open(device: &Path) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(device, flags, Mode::empty())?))
}

/// Blocks of the data in scattered order.
fn offsets() -> impl Iterator<Item = u64> {
    let blocks = SIZE / PART * (DATA / 4096);
    // 7919 is a prime and divides no power of two.
    (0u64..).map(move |number| number * 7919 % blocks).map(|block| {
        let (part, inside) = (block % (SIZE / PART), block / (SIZE / PART));
        part * PART + inside * 4096
    })
}

fn aligned() -> (Vec<u8>, usize) {
    let memory = vec![0x22; 2 * 4096];
    let start = memory.as_ptr().align_offset(4096);
    (memory, start)
}

/// Whether there are enough of them.
fn for_time(time: Duration) -> impl Fn(&[Duration]) -> bool {
    let begun = Instant::now();
    move |_| begun.elapsed() > time
}

fn until_all_seen(times: &[Duration]) -> bool {
    times.len() as u64 == SIZE / PART
}

fn read(device: &Path, enough: impl Fn(&[Duration]) -> bool) -> Result<Vec<Duration>> {
    let file = open(device)?;
    let (mut memory, start) = aligned();
    let mut times = Vec::new();
    for offset in offsets() {
        let at = Instant::now();
        file.read_exact_at(&mut memory[start..start + 4096], offset)?;
        times.push(at.elapsed());
        ensure!(memory[start..start + 4096].iter().all(|byte| *byte == 34), "wrong data at {offset}");
        if enough(&times) {
            break;
        }
    }
    Ok(times)
}

/// The load: blocks written one after the other, scattered, beside what is read.
fn write(device: &Path, stop: &AtomicBool) -> Result<()> {
    let file = open(device)?;
    let (memory, start) = aligned();
    for offset in offsets() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        file.write_all_at(&memory[start..start + 4096], offset + (32 << 20))?;
    }
    Ok(())
}
