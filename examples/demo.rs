//! `make demo`: the whole job on real parts, step by step, through the driver's own socket.
//!
//! A volume on a replicated GlusterFS volume, with a filesystem that is written to all the time; two online
//! snapshots; a full and an incremental backup to S3; both restored into new volumes and compared file by
//! file with what was there when each snapshot was taken. Any difference is printed, and the exit code is 1.

#[path = "../tests/support/driver.rs"]
#[allow(dead_code)]
mod driver;
#[path = "demo/files.rs"]
mod files;
#[path = "demo/steps.rs"]
mod steps;

use anyhow::{Context, Result, ensure};
use driver::{Driver, Use, from_snapshot, new_volume};
use files::{Digests, Writer, compare, digests};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use steps::{Bucket, Steps, backup, e2fsck, human, restore};

const VOLUME: u64 = 2 << 30;
/// A few hundred MB of files.
const FILES: usize = 300;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ndemo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set: run `make demo`"))
}

fn run() -> Result<()> {
    let share = variable("STRATA_TEST_SHARE")?;
    let program = PathBuf::from(variable("STRATA_BIN")?);
    let temporary = tempfile::Builder::new().prefix("strata-demo-").tempdir_in(std::env::temp_dir())?;
    let dir = temporary.path();
    let mut steps = Steps::new();

    let bucket = steps.run("start an S3 server", || Bucket::start(&dir.join("s3")))?;
    let driver = steps
        .run("start the driver", || Ok(Driver::start(&program, &dir.join("driver"), &[&share], "demo")))?;
    let volume = steps.run("create a volume of 2 GiB", || {
        Ok(driver.create(new_volume("demo", VOLUME, Use::Ext4, &[]))?)
    })?;
    let id = volume.volume_id.clone();
    let place = dir.join("pod");
    let mount = steps
        .run("publish, stage (mkfs.ext4) and mount it", || Ok(driver.attach(&id, &place, Use::Ext4)?))?;

    let tree = mount.join("files");
    let written = steps.run("write files", || files::fill(&tree, FILES))?;
    steps.note(&format!("{} in {FILES} files", human(written)));
    let writer = Writer::start(&mount.join("log"))?;

    let at_first = digests(&tree)?;
    let first = steps.run("snapshot 1, while a writer goes on", || Ok(driver.snapshot(&id, "demo-1")?))?;
    let full =
        steps.run("full backup to S3", || backup(&program, &bucket, &share, &first.snapshot_id, "none"))?;
    steps.note(&full.line());
    let changed = steps.run("change about 1 %", || files::change(&tree))?;
    steps.note(&format!("{} changed", human(changed)));
    let at_second = digests(&tree)?;
    let second = steps.run("snapshot 2, while the writer goes on", || Ok(driver.snapshot(&id, "demo-2")?))?;
    let increment = steps
        .run("incremental backup", || backup(&program, &bucket, &share, &second.snapshot_id, "latest"))?;
    steps.note(&increment.line());
    ensure!(
        increment.parent_id.as_deref() == Some(&full.backup_id),
        "the second backup is not an incremental one"
    );

    let log = steps.run("stop the writer", || writer.stop())?;
    steps.note(&log.line());
    steps.run("unmount, unstage, unpublish", || Ok(driver.detach(&id, &place)?))?;
    steps.run("delete snapshot 1", || Ok(driver.delete_snapshot(&first.snapshot_id)?))?;

    let mut differences = Vec::new();
    for (name, made, expected) in [("1", &full, &at_first), ("2", &increment, &at_second)] {
        let check = Check { driver: &driver, program: &program, bucket: &bucket, dir, expected };
        let found = steps
            .run(&format!("restore backup {name} into a new volume, e2fsck, compare"), || {
                check.backup(&format!("demo-restored-{name}"), &made.backup_id)
            })?;
        differences.extend(found);
    }
    let clone = steps.run("a volume from snapshot 2, e2fsck, compare", || {
        let made = driver.create(from_snapshot("demo-clone", &second, Use::Ext4))?;
        let check = Check { driver: &driver, program: &program, bucket: &bucket, dir, expected: &at_second };
        let found = check.volume(&made.volume_id)?;
        driver.delete(&made.volume_id)?;
        Ok(found)
    })?;
    differences.extend(clone);
    steps.run("delete everything", || {
        driver.delete_snapshot(&second.snapshot_id)?;
        Ok(driver.delete(&id)?)
    })?;
    steps.table(&[("full", &full), ("incremental", &increment)]);
    for difference in &differences {
        println!("differs: {difference}");
    }
    ensure!(differences.is_empty(), "{} files differ from what was recorded", differences.len());
    println!("\nEvery file of both backups and of the clone is what it was when its snapshot was taken.");
    Ok(())
}

/// Looks whether a volume holds what was recorded.
struct Check<'a> {
    driver: &'a Driver,
    program: &'a Path,
    bucket: &'a Bucket,
    dir: &'a Path,
    expected: &'a Digests,
}

impl Check<'_> {
    /// Restores a backup into a new volume, and compares.
    fn backup(&self, name: &str, backup_id: &str) -> Result<Vec<String>> {
        let volume = self.driver.create(new_volume(name, VOLUME, Use::Block, &[]))?;
        let place = self.dir.join(format!("{name}-device"));
        let device = self.driver.attach(&volume.volume_id, &place, Use::Block)?;
        restore(self.program, self.bucket, backup_id, &device)?;
        self.driver.detach(&volume.volume_id, &place)?;
        let found = self.volume(&volume.volume_id)?;
        self.driver.delete(&volume.volume_id)?;
        Ok(found)
    }

    /// Checks a volume's filesystem, mounts it, and compares its files.
    fn volume(&self, volume_id: &str) -> Result<Vec<String>> {
        let name = volume_id.replace('/', "-");
        let place = self.dir.join(format!("{name}-mount"));
        let mount = self.driver.attach(volume_id, &place, Use::Ext4)?;
        let found = compare(self.expected, &digests(&mount.join("files"))?);
        self.driver.detach(volume_id, &place)?;
        // After the mount, which replays the journal as after any snapshot of a filesystem in use.
        let place = self.dir.join(format!("{name}-check"));
        let device = self.driver.attach(volume_id, &place, Use::Block)?;
        let checked = e2fsck(&device);
        self.driver.detach(volume_id, &place)?;
        checked?;
        Ok(found)
    }
}
