//! restic and borg, to a directory. Both see a new device whenever they see a snapshot: the shortcut that a file's
//! time of change would give them is taken away.

use crate::measure::{Cost, run, stored};
use crate::tool::{Data, Made, Store, Tool, emptied};
use crate::world::World;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// restic: encrypts, and compresses as its repositories do by default (zstd, its fastest).
pub struct Restic<'a> {
    world: &'a World,
    folder: PathBuf,
    last: Option<PathBuf>,
}

impl<'a> Restic<'a> {
    pub fn new(world: &'a World) -> Restic<'a> {
        Restic { world, folder: world.dir().join("restic"), last: None }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("restic");
        command.args(["--quiet", "--repo"]).arg(self.folder.join("repository")).args(arguments);
        command.env("RESTIC_PASSWORD", "bench").env("RESTIC_CACHE_DIR", self.folder.join("cache"));
        command.env("HOME", &self.folder);
        command
    }
}

impl Tool for Restic<'_> {
    fn name(&self) -> &str {
        "restic to directory"
    }

    fn store(&self) -> Store {
        Store::Directory
    }

    fn is_peer(&self) -> bool {
        true
    }

    fn reset(&mut self) -> Result<()> {
        emptied(&self.folder)?;
        run(&mut self.command(&["init"]), &self.world.log())?;
        Ok(())
    }

    fn backup(&mut self, data: &Data) -> Result<Made> {
        let repository = self.folder.join("repository");
        let before = stored(&repository, &[])?.0;
        let mut command = self.command(&["backup", "--force", "--host", "bench"]);
        let (cost, _) = run(command.arg(&data.image), &self.world.log())?;
        self.last = Some(data.image.clone());
        Ok(Made { cost, stored: stored(&repository, &[])?.0 - before, about: 0, read: None })
    }

    fn restore(&mut self, into: &Path) -> Result<(Cost, PathBuf)> {
        let mut command = self.command(&["restore", "latest", "--target"]);
        let (cost, _) = run(command.arg(into), &self.world.log())?;
        let image = self.last.as_ref().context("nothing was backed up")?;
        Ok((cost, into.join(image.strip_prefix("/").unwrap_or(image))))
    }
}

/// borg: no encryption, zstd 3, chunks of a fixed 4 MiB as its manual has it for images, holes not read.
pub struct Borg<'a> {
    world: &'a World,
    folder: PathBuf,
    made: usize,
}

impl<'a> Borg<'a> {
    pub fn new(world: &'a World) -> Borg<'a> {
        Borg { world, folder: world.dir().join("borg"), made: 0 }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("borg");
        command.args(arguments).env("BORG_BASE_DIR", self.folder.join("base"));
        command.env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
        command.env("BORG_REPO", self.folder.join("repository")).env("LC_ALL", "C.UTF-8");
        command
    }
}

impl Tool for Borg<'_> {
    fn name(&self) -> &str {
        "borg to directory"
    }

    fn store(&self) -> Store {
        Store::Directory
    }

    fn is_peer(&self) -> bool {
        true
    }

    fn reset(&mut self) -> Result<()> {
        emptied(&self.folder)?;
        self.made = 0;
        run(&mut self.command(&["init", "--encryption", "none"]), &self.world.log())?;
        Ok(())
    }

    fn backup(&mut self, data: &Data) -> Result<Made> {
        let repository = self.folder.join("repository");
        let before = stored(&repository, &[])?.0;
        self.made += 1;
        let archive = format!("::backup-{}", self.made);
        let mut command = self.command(&["create", "--compression", "zstd,3", "--sparse"]);
        command.args(["--chunker-params", "fixed,4194304", "--files-cache", "disabled", &archive]);
        let folder = data.image.parent().context("an image lies in a folder")?;
        command.current_dir(folder).arg(data.image.file_name().context("an image has a name")?);
        let (cost, _) = run(&mut command, &self.world.log())?;
        let stored = stored(&repository, &[])?.0.saturating_sub(before);
        Ok(Made { cost, stored, about: 0, read: None })
    }

    fn restore(&mut self, into: &Path) -> Result<(Cost, PathBuf)> {
        let archive = format!("::backup-{}", self.made);
        let mut command = self.command(&["extract", "--sparse", &archive]);
        let (cost, _) = run(command.current_dir(into), &self.world.log())?;
        let extracted = std::fs::read_dir(into)?.next().context("borg extracted nothing")??;
        Ok((cost, extracted.path()))
    }
}
