//! What must not follow the size of the volume: the bytes that are read, and memory.

use crate::client::{From, Strata};
use crate::image;
use crate::report::Report;
use crate::share::Share;
use crate::tool::{Data, Store, Tool, emptied};
use crate::world::World;
use anyhow::{Result, ensure};
use std::fs::File;

const GIB: u64 = 1 << 30;
/// Of data in the large volumes; the rest are holes.
const DATA: u64 = GIB;

/// Bytes read for the same change in a small and in a large volume.
pub fn read(world: &World, report: &mut Report) -> Result<()> {
    let share = Share::new(world, "sizes")?;
    let mut rows = Vec::new();
    let (before, after) = (image::changes(4 * GIB, 100), image::changes(4 * GIB, 101));
    let changed: u64 = after.iter().map(|change| change.range().end - change.range().start).sum();
    for size in [4 * GIB, 400 * GIB] {
        let name = format!("{} GiB", size / GIB);
        report.progress(&format!("reading a volume of {name}"));
        let volume = share.create(&format!("sparse-{size}"), size)?;
        share.write(world, volume, &before)?;
        let snapshot = share.snapshot(volume, &format!("first-{size}"))?;
        let image = world.dir().join("none");
        let mut data = Data { image, snapshot, share: share.source.clone() };
        let mut strata = Strata::new(world, Store::Directory, From::Snapshot);
        strata.reset()?;
        let full = strata.backup(&data)?;
        share.write(world, volume, &after)?;
        data.snapshot = share.snapshot(volume, &format!("second-{size}"))?;
        let made = strata.backup(&data)?;
        let mega = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
        rows.push(vec![
            name,
            mega(full.read.unwrap_or(0)),
            mega(made.read.unwrap_or(0)),
            mega(made.stored - made.about),
            format!("{:.2}", made.cost.cpu),
            format!("{:.2}", made.cost.wall),
            format!("{:.0}", made.cost.memory as f64 / f64::from(1 << 20)),
        ]);
        emptied(&strata.folder)?;
    }
    let heads =
        ["volume", "full: read MB", "increment: read MB", "data stored MB", "CPU s", "wall s", "peak MiB"];
    let title = format!("Read: {:.1} MB of change in 200 extents, sparse volumes", changed as f64 / 1e6);
    report.table(&title, &heads, &rows)
}

/// Peak memory of a full backup, an increment and a restore of 1 TiB.
pub fn memory(world: &World, report: &mut Report) -> Result<()> {
    report.progress("a sparse image of 1 TiB");
    let folder = world.dir().join("large");
    std::fs::create_dir(&folder)?;
    let image = folder.join("disk.raw");
    image::make(&image, DATA)?;
    File::options().write(true).open(&image)?.set_len(1024 * GIB)?;
    let data = Data { image, snapshot: String::new(), share: String::new() };
    let mut strata = Strata::new(world, Store::Directory, From::Image);
    strata.reset()?;
    let mut rows = Vec::new();
    let mut row = |what: &str, cost: crate::measure::Cost| {
        report.progress(&format!("{what} of 1 TiB: {:.1} s CPU, {:.1} s", cost.cpu, cost.wall));
        let mebibytes = cost.memory as f64 / f64::from(1 << 20);
        let met = if mebibytes <= 256.0 { "met" } else { "not met" };
        let figures = [format!("{mebibytes:.0}"), format!("{:.1}", cost.cpu), format!("{:.1}", cost.wall)];
        rows.push([vec![what.to_owned()], figures.to_vec(), vec![met.to_owned()]].concat());
    };
    row("full", strata.backup(&data)?.cost);
    image::apply(&data.image, &image::changes(DATA, 7))?;
    row("1 % of the data changed, nothing known of it", strata.backup(&data)?.cost);
    let (cost, file) = strata.restore(&folder)?;
    row("restore to a new file", cost);
    let size = file.metadata()?.len();
    ensure!(size == 1024 * GIB, "restored {size} bytes");
    ensure!(start_is_same(&data.image, &file)?, "other bytes were restored");
    let heads = ["1 TiB with 1 GiB of data", "peak MiB", "CPU s", "wall s", "goal 256 MiB"];
    report.table("Memory", &heads, &rows)?;
    emptied(&strata.folder)?;
    Ok(std::fs::remove_dir_all(&folder)?)
}

/// Of all that is not a hole, for to read 1 TiB of zeros takes minutes.
fn start_is_same(one: &std::path::Path, other: &std::path::Path) -> Result<bool> {
    for path in [one, other] {
        let file = File::options().write(true).open(path)?;
        let rest = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(DATA));
        if rest != Err(rustix::io::Errno::NXIO) {
            return Ok(false);
        }
        file.set_len(DATA)?;
    }
    image::same(one, other)
}
