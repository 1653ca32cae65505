//! `strata volume check`: the chain of a volume, and whether record, files and headers agree.

use super::backup::OpenShare;
use super::exit::Failure;
use super::output::{self, Output};
use super::size::human;
use crate::gluster::Source;
use crate::volume::{Error, LayerReport, VolumeHandle, VolumeId, VolumeReport};
use clap::{Args, Subcommand};
use std::fmt::Write;
use std::process::ExitCode;

/// Arguments of `strata volume`.
#[derive(Debug, Args)]
pub struct VolumeArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show chains, and compare records with files and headers. Changes nothing.
    Check(CheckArgs),
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The share: HOST:/VOLUME or dir:/PATH.
    #[arg(long, value_name = "SOURCE")]
    share: Source,
    /// Volumes, by handle or id; all of the share if none is given.
    #[arg(value_name = "VOLUME")]
    volumes: Vec<String>,
    /// The shape of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Runs a verb. Exit code 1 when something is wrong with a volume.
pub fn run(args: &VolumeArgs) -> ExitCode {
    let Verb::Check(args) = &args.verb;
    let reports = check(args);
    let healthy = reports.as_ref().is_ok_and(|all| all.iter().all(|report| report.problems.is_empty()));
    let shown = output::finish(args.output, reports, |all| all.iter().map(text).collect());
    if shown == ExitCode::SUCCESS && !healthy { ExitCode::FAILURE } else { shown }
}

fn check(args: &CheckArgs) -> Result<Vec<VolumeReport>, Failure> {
    let opened = OpenShare::open(&args.share)?;
    let mut ids = args.volumes.iter().map(|text| id(&opened, text)).collect::<Result<Vec<_>, _>>()?;
    if ids.is_empty() {
        ids = opened.volumes.list().map_err(Failure::failed)?;
    }
    let inspect = |id| {
        opened.volumes.inspect(id).map_err(|error| match error {
            Error::VolumeNotFound { .. } => Failure { message: error.to_string(), code: 3 },
            error => Failure::failed(error),
        })
    };
    ids.into_iter().map(inspect).collect()
}

fn id(opened: &OpenShare, text: &str) -> Result<VolumeId, Failure> {
    if let Ok(handle) = text.parse::<VolumeHandle>() {
        opened.expect(&handle, &handle.share)?;
        return Ok(handle.volume);
    }
    text.parse().map_err(Failure::usage)
}

fn text(report: &VolumeReport) -> String {
    let mut text = format!("{} {}\n", report.id, report.name.as_deref().unwrap_or("?"));
    for (depth, layer) in report.layers.iter().enumerate() {
        let LayerReport { file, format, size, .. } = layer;
        let taken = layer.allocated.map_or("no such file".to_owned(), human);
        let indent = "  ".repeat(depth + 1);
        let _ = write!(text, "{indent}{file} ({format}, {}, takes {taken})", human(*size));
        if layer.volume != report.id {
            let _ = write!(text, " of volume {}", layer.volume);
        }
        for snapshot in &layer.snapshots {
            let _ = write!(text, " ← snapshot {snapshot}");
        }
        text.push('\n');
    }
    for pending in &report.pending {
        let _ = writeln!(text, "  pending: {pending}");
    }
    for problem in &report.problems {
        let _ = writeln!(text, "  wrong: {problem}");
    }
    text
}
