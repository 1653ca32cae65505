//! `strata crds`: the definitions of Strata's own objects.

use crate::kube::crd;
use anyhow::{Context, Result};
use clap::Args;
use std::path::PathBuf;

/// Prints the CustomResourceDefinitions of BackupRepository, BackupSchedule and VolumeBackup, as YAML.
#[derive(Debug, Args)]
pub struct CrdsArgs {
    /// Write each into a file of its own in this folder instead.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl CrdsArgs {
    /// Prints or writes them.
    pub fn run(&self) -> Result<()> {
        let files = crd::files().context("the definitions cannot be written as YAML")?;
        let Some(dir) = &self.dir else {
            let texts: Vec<String> = files.into_iter().map(|(_, text)| text).collect();
            print!("{}", texts.join("---\n"));
            return Ok(());
        };
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
        for (name, text) in files {
            let path = dir.join(name);
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}
