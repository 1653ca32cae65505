//! `strata volume …`: the volumes of a share at a person's terminal. One file a verb.

mod check;
mod export;
mod import;
mod list;
mod manifest;
mod show;

use super::backup::OpenShare;
use super::exit::Failure;
use super::output::Output;
use crate::gluster::Source;
use crate::volume::{Error, VolumeHandle, VolumeId};
use clap::{Args, Subcommand};
use std::process::ExitCode;

/// Arguments of `strata volume`.
#[derive(Debug, Args)]
pub struct VolumeArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the volumes of a share, damaged ones too.
    List(list::ListArgs),
    /// Show all that is known of one volume: its layers, who stands on them and who uses them.
    Show(show::ShowArgs),
    /// Show chains, and compare records with files, headers and image locks. Changes nothing without --repair.
    Check(check::CheckArgs),
    /// Write a volume, attached or not, or a snapshot into one flat file or object.
    Export(export::ExportArgs),
    /// Make a volume from a file, or adopt one that Cinder left on the share.
    Import(Box<import::ImportArgs>),
}

/// Which share, and the shape of the answer.
#[derive(Clone, Debug, Args)]
struct ShareArgs {
    /// The share: HOST:/VOLUME or dir:/PATH.
    #[arg(long, value_name = "SOURCE")]
    share: Source,
    /// The shape of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Runs a verb.
pub fn run(args: &VolumeArgs) -> ExitCode {
    match &args.verb {
        Verb::List(args) => args.run(),
        Verb::Show(args) => args.run(),
        Verb::Check(args) => args.run(),
        Verb::Export(args) => args.run(),
        Verb::Import(args) => args.run(),
    }
}

/// A volume of the share, by handle or id.
fn volume_id(opened: &OpenShare, text: &str) -> Result<VolumeId, Failure> {
    if let Ok(handle) = text.parse::<VolumeHandle>() {
        opened.expect(&handle, &handle.share)?;
        return Ok(handle.volume);
    }
    text.parse().map_err(Failure::usage)
}

/// What becomes of an error of the domain at a terminal.
fn failure(error: Error) -> Failure {
    match error {
        Error::VolumeNotFound { .. } | Error::SnapshotNotFound { .. } => {
            Failure { message: error.to_string(), code: 3 }
        }
        Error::Precondition { .. } | Error::AttachedElsewhere { .. } | Error::NameTaken { .. } => {
            Failure::refused(error)
        }
        Error::Invalid { .. } | Error::OutOfRange { .. } => Failure::usage(error),
        error => Failure::failed(error),
    }
}
