//! How long a writer stands still in an online snapshot, as it sees it itself and as the node measures it.

use crate::driver::{Driver, Use, new_volume};
use crate::report::{Report, median_p99};
use crate::world::{World, setting};
use crate::writer::{Kind, Span, Writer, longest};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

const GIB: u64 = 1 << 30;
/// Before the first cut, and between the end of one and the beginning of the next at least.
const SETTLE: Duration = Duration::from_secs(1);
const BETWEEN: Duration = Duration::from_millis(300);

/// What one writer met.
#[derive(Default)]
struct Met {
    /// The longest call around each cut.
    at_cut: Vec<Duration>,
    /// The longest call in as long a time without one.
    without: Vec<Duration>,
    /// From freeze to thaw.
    on_node: Vec<Duration>,
    /// CreateSnapshot as a whole.
    call: Vec<Duration>,
}

pub fn run(world: &World, report: &mut Report) -> Result<()> {
    let cuts: usize = setting("CUTS", 20)?;
    let driver = world.driver("pause")?;
    let mut rows = Vec::new();
    for size in sizes()? {
        for kind in [Kind::Direct, Kind::Buffered] {
            let name = format!("pause-{size}-{kind:?}").to_lowercase();
            report.progress(&format!("{cuts} cuts of a volume of {size} GiB under a {kind:?} writer"));
            let met = meet(&driver, world, &name, size * GIB, kind, cuts)?;
            let mut row = vec![format!("{size} GiB"), format!("{kind:?}").to_lowercase()];
            for times in [&met.at_cut, &met.on_node, &met.without, &met.call] {
                row.extend(median_p99(times));
            }
            rows.push(row);
        }
    }
    let heads = [
        "volume",
        "writer",
        "longest call at a cut: median",
        "p99",
        "freeze to thaw: median",
        "p99",
        "longest call without a cut: median",
        "p99",
        "CreateSnapshot: median",
        "p99",
    ];
    report.table(&format!("Pause in an online snapshot, ext4, {cuts} cuts each (ms)"), &heads, &rows)
}

/// In GiB.
fn sizes() -> Result<Vec<u64>> {
    let sizes: String = setting("SIZES", "1 200".to_owned())?;
    Ok(sizes.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}

fn meet(driver: &Driver, world: &World, name: &str, bytes: u64, kind: Kind, cuts: usize) -> Result<Met> {
    let volume = driver.create(new_volume(name, bytes, Use::Ext4, &[]))?.volume_id;
    let place = world.dir().join(name);
    let target = driver.attach(&volume, &place, Use::Ext4)?;
    let writer = Writer::start(&target, kind);
    std::thread::sleep(SETTLE);
    let mut windows = Vec::new();
    let mut gap = BETWEEN;
    for number in 0..cuts {
        // As long as a cut takes, and a bit: the same time without a cut, to compare with.
        std::thread::sleep(gap);
        let begin = Instant::now();
        driver.snapshot(&volume, &format!("{name}-{number}"))?;
        let cut = Span { begin, end: Instant::now() };
        gap = BETWEEN + cut.time();
        windows.push(cut);
    }
    std::thread::sleep(BETWEEN);
    let calls = writer.stop()?;
    driver.detach(&volume, &place)?;
    let on_node = pauses(driver);
    ensure!(on_node.len() >= cuts, "the driver's log tells of {} cuts, not of {cuts}", on_node.len());
    let mut met = Met { on_node: on_node[on_node.len() - cuts..].to_vec(), ..Met::default() };
    for cut in windows {
        met.at_cut.push(longest(&calls, cut));
        met.without.push(longest(&calls, Span { begin: cut.begin - cut.time(), end: cut.begin }));
        met.call.push(cut.time());
    }
    Ok(met)
}

/// The pauses that the driver measured, in the order of the cuts.
fn pauses(driver: &Driver) -> Vec<Duration> {
    let log = std::fs::read_to_string(driver.log()).unwrap_or_default();
    let told = log.split("pause_us=").skip(1);
    let number = |rest: &str| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    told.filter_map(number).map(Duration::from_micros).collect()
}
