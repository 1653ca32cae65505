//! Strata, as a person calls it.

use crate::measure::{Cost, run, stored};
use crate::tool::{Data, Made, Store, Tool, emptied};
use crate::world::{ACCESS_KEY, SECRET_KEY, World};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What one backup is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// A snapshot on a share: what changed is known.
    Snapshot,
    /// A raw file: nothing is known of changes.
    Image,
}

pub struct Strata<'a> {
    world: &'a World,
    name: String,
    store: Store,
    from: From,
    /// Its objects.
    pub folder: PathBuf,
    repository: String,
    last: Option<String>,
}

impl<'a> Strata<'a> {
    pub fn new(world: &'a World, store: Store, from: From) -> Strata<'a> {
        let of = if from == From::Snapshot { "snapshot" } else { "image file" };
        // Short: the S3 server makes longer names of them, and names have an end.
        let bucket = if from == From::Snapshot { "snap" } else { "file" };
        let (folder, repository, to) = match store {
            Store::S3 => (world.s3.folder.join(bucket), format!("s3://{bucket}"), "S3"),
            Store::Directory => {
                let folder = world.dir().join(bucket);
                let repository = format!("file://{}", folder.display());
                (folder, repository, "directory")
            }
        };
        let name = format!("Strata, {of} to {to}");
        Strata { world, name, store, from, folder, repository, last: None }
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.world.program);
        command.args(["backup", verb, "-o", "json", "--repository", &self.repository]);
        command.env("AWS_ENDPOINT_URL", &self.world.s3.endpoint).env("AWS_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command.env("AWS_ALLOW_HTTP", "true");
        command
    }
}

impl Tool for Strata<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn store(&self) -> Store {
        self.store
    }

    fn is_peer(&self) -> bool {
        false
    }

    fn reset(&mut self) -> Result<()> {
        self.last = None;
        emptied(&self.folder)
    }

    fn backup(&mut self, data: &Data) -> Result<Made> {
        let mut command = self.command("create");
        command.args(["--compression", "zstd", "--parent", self.last.as_deref().unwrap_or("none")]);
        match self.from {
            From::Snapshot => command.args(["--snapshot", &data.snapshot, "--share", &data.share]),
            From::Image => {
                command.args([
                    "--format",
                    "raw",
                    "--volume-id",
                    "5f9c5dd5-2e0e-4f0d-9a8a-9f4fd3c7f6a1",
                    "--image",
                ]);
                command.arg(&data.image)
            }
        };
        let ends = ["_metadata", "_sha256file"];
        let before = stored(&self.folder, &ends)?;
        let (cost, said) = run(&mut command, &self.world.log())?;
        let after = stored(&self.folder, &ends)?;
        let report: Value = serde_json::from_str(&said)?;
        let is_full = report["parent_id"].is_null();
        ensure!(is_full == self.last.is_none(), "{} made another kind of backup: {report}", self.name);
        if self.last.is_some() && self.from == From::Snapshot && !report["read_all_because"].is_null() {
            eprintln!("{} read all: {}", self.name, report["read_all_because"]);
        }
        self.last = Some(report["backup_id"].as_str().context("a backup has an id")?.to_owned());
        let (stored, about) = (after.0 - before.0, after.1 - before.1);
        Ok(Made { cost, stored, about, read: report["bytes_read"].as_u64() })
    }

    fn restore(&mut self, into: &Path) -> Result<(Cost, PathBuf)> {
        let file = into.join("restored");
        let mut command = self.command("restore");
        command.args(["--backup", self.last.as_deref().context("nothing was backed up")?, "--to"]).arg(&file);
        Ok((run(&mut command, &self.world.log())?.0, file))
    }
}
