//! `strata volume list`: the volumes of a share, a line each.

use super::{ShareArgs, failure};
use crate::cli::backup::OpenShare;
use crate::cli::exit::Failure;
use crate::cli::output::{self, table};
use crate::cli::size::human;
use crate::volume::{Condition, VolumeSummary};
use clap::Args;
use std::process::ExitCode;

/// Arguments of `list`.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    share: ShareArgs,
    /// Also those that are still being made, and deleted ones whose layers are still needed.
    #[arg(short, long)]
    all: bool,
}

impl ListArgs {
    pub fn run(&self) -> ExitCode {
        output::finish(self.share.output, self.list(), |volumes| text(volumes))
    }

    fn list(&self) -> Result<Vec<VolumeSummary>, Failure> {
        let opened = OpenShare::open(&self.share.share)?;
        let mut volumes = opened.volumes.summaries().map_err(failure)?;
        let hidden = |state| matches!(state, Condition::Creating | Condition::Deleted);
        volumes.retain(|volume| self.all || !hidden(volume.state));
        Ok(volumes)
    }
}

fn text(volumes: &[VolumeSummary]) -> String {
    let header = ["HANDLE", "NAME", "CAPACITY", "ALLOCATED", "LAYERS", "SNAPSHOTS", "ATTACHED TO", "STATE"];
    let row = |volume: &VolumeSummary| {
        let nodes: Vec<_> = volume.attached_to.iter().map(|node| node.as_str()).collect();
        vec![
            volume.handle.to_string(),
            volume.name.clone().unwrap_or_else(|| "?".to_owned()),
            volume.capacity.map_or_else(|| "?".to_owned(), human),
            human(volume.allocated),
            volume.layers.to_string(),
            volume.snapshots.to_string(),
            if nodes.is_empty() { "-".to_owned() } else { nodes.join(",") },
            state(volume.state).to_owned(),
        ]
    };
    let mut text = table(&header, &volumes.iter().map(row).collect::<Vec<_>>());
    for volume in volumes {
        if let Some(problem) = &volume.problem {
            text.push_str(&format!("{}: {problem}\n", volume.handle));
        }
    }
    text
}

/// As in the JSON.
pub(super) fn state(state: Condition) -> &'static str {
    match state {
        Condition::Creating => "creating",
        Condition::Ready => "ready",
        Condition::Restoring => "restoring",
        Condition::Deleted => "deleted",
        Condition::Damaged => "damaged",
    }
}
