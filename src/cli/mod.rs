//! The command line: parse, set up logging, hand over to one file per verb.

mod backup;
mod exit;
mod output;
mod size;

use clap::{Parser, Subcommand};
use std::io;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Kubernetes volumes as disk images on GlusterFS, with snapshots and incremental backup.
#[derive(Debug, Parser)]
#[command(name = "strata", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Back up, restore, list and delete backups.
    Backup(backup::BackupArgs),
}

/// The whole program. Results go to the standard output, all else to the standard error.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("STRATA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    match cli.command {
        Command::Backup(args) => backup::run(args),
    }
}
