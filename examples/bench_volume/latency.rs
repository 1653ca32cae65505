//! How long calls take with few and with many volumes on the share.

use crate::driver::{Driver, Use, from_snapshot, new_volume};
use crate::report::{Report, median_p99};
use crate::world::{World, setting};
use anyhow::Result;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use strata::rpc::csi::{CreateVolumeRequest, VolumeContentSource, volume_content_source};

const GIB: u64 = 1 << 30;
const FEW: usize = 10;
/// Each call this many times.
const TIMES: usize = 20;
/// Volumes that are only to be there are made by so many callers at once.
const CALLERS: usize = 4;

const CALLS: [&str; 6] = [
    "CreateVolume, empty",
    "CreateSnapshot, detached",
    "CreateVolume from the snapshot (restore)",
    "CreateVolume from the volume (clone)",
    "DeleteVolume of the clone",
    "DeleteSnapshot",
];

pub fn run(world: &World, report: &mut Report) -> Result<()> {
    let many: usize = setting("VOLUMES", 2000)?;
    let driver = world.driver("latency")?;
    let mut made = 0;
    let mut columns = Vec::new();
    for wanted in [FEW, many] {
        let begun = Instant::now();
        populate(&driver, made, wanted)?;
        let each = begun.elapsed() / u32::try_from(wanted.saturating_sub(made).max(1))?;
        report.progress(&format!(
            "{wanted} volumes on the share; {} ms for each that was added",
            each.as_millis()
        ));
        made = made.max(wanted);
        columns.push(measure(&driver, &format!("latency-{wanted}"))?);
    }
    let rows: Vec<Vec<String>> = (0..CALLS.len()).map(|call| row(call, &columns)).collect();
    let few = format!("{FEW} volumes: median");
    let many = format!("{many} volumes: median");
    let heads = ["call", &few, "p99", &many, "p99", "ratio of the medians"];
    report.table(&format!("Latency of CSI calls, one after the other, {TIMES} each (ms)"), &heads, &rows)
}

fn row(call: usize, columns: &[Vec<Vec<Duration>>]) -> Vec<String> {
    let mut row = vec![CALLS[call].to_owned()];
    let medians: Vec<Duration> = columns.iter().map(|times| crate::report::median(&times[call])).collect();
    for times in columns {
        row.extend(median_p99(&times[call]));
    }
    row.push(format!("{:.2}", medians[1].as_secs_f64() / medians[0].as_secs_f64()));
    row
}

/// Adds sparse raw volumes until there are `wanted`.
fn populate(driver: &Driver, there: usize, wanted: usize) -> Result<()> {
    let next = AtomicUsize::new(there);
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= wanted {
                            return Ok(());
                        }
                        let request =
                            new_volume(&format!("there-{number}"), GIB, Use::Block, &[("format", "raw")]);
                        driver.create(request)?;
                    }
                })
            })
            .collect();
        callers.into_iter().try_for_each(|caller| caller.join().expect("a caller does not panic"))
    })
}

/// The times of every call in [`CALLS`].
fn measure(driver: &Driver, name: &str) -> Result<Vec<Vec<Duration>>> {
    let mut times = vec![Vec::new(); CALLS.len()];
    let mut time = |call: usize, begun: Instant| times[call].push(begun.elapsed());
    for number in 0..TIMES {
        let name = format!("{name}-{number}");
        let begun = Instant::now();
        let volume = driver.create(new_volume(&name, GIB, Use::Block, &[]))?.volume_id;
        time(0, begun);
        let begun = Instant::now();
        let snapshot = driver.snapshot(&volume, &name)?;
        time(1, begun);
        let begun = Instant::now();
        let restored =
            driver.create(from_snapshot(&format!("{name}-restored"), &snapshot, Use::Block))?.volume_id;
        time(2, begun);
        let begun = Instant::now();
        let clone = driver.create(clone_of(&format!("{name}-clone"), &volume))?.volume_id;
        time(3, begun);
        let begun = Instant::now();
        driver.delete(&clone)?;
        time(4, begun);
        driver.delete(&restored)?;
        let begun = Instant::now();
        driver.delete_snapshot(&snapshot.snapshot_id)?;
        time(5, begun);
        driver.delete(&volume)?;
    }
    Ok(times)
}

fn clone_of(name: &str, volume_id: &str) -> CreateVolumeRequest {
    use volume_content_source::{Type, VolumeSource};
    let source = VolumeSource { volume_id: volume_id.to_owned() };
    CreateVolumeRequest {
        volume_content_source: Some(VolumeContentSource { r#type: Some(Type::Volume(source)) }),
        ..new_volume(name, GIB, Use::Block, &[])
    }
}
