//! The command line: parse, set up logging, hand over to one file per verb.

mod age;
mod backup;
mod certs;
mod crds;
mod driver;
mod exit;
mod output;
mod probe;
mod progress;
mod share;
mod shell;
mod size;
mod standalone;
mod support;
mod telemetry;
mod volume;

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use telemetry::TraceArgs;

/// Kubernetes volumes as disk images on GlusterFS, with snapshots and incremental backup.
#[derive(Debug, Parser)]
#[command(name = "strata", version, propagate_version = true)]
struct Cli {
    /// How log lines look. What is logged follows RUST_LOG.
    #[arg(long, env = "STRATA_LOG_FORMAT", value_enum, default_value_t, global = true)]
    log_format: telemetry::LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Back up, restore, list and delete backups.
    Backup(backup::BackupArgs),
    /// Look at the volumes of a share.
    Volume(volume::VolumeArgs),
    /// Look at a share.
    Share(share::ShareVerbArgs),
    /// Print the completion script of a shell.
    Completion(shell::CompletionArgs),
    /// Write the manual pages.
    Man(shell::ManArgs),
    /// CSI Identity and Controller.
    Controller(driver::ControllerArgs),
    /// CSI Identity and Node, and the agent that the controller asks.
    Node(driver::NodeArgs),
    /// Share mounts and storage daemons, which outlive the other roles.
    Data(driver::DataArgs),
    /// Print the definitions of Strata's own objects in Kubernetes.
    Crds(crds::CrdsArgs),
    /// Makes certificates with which controllers and agents know each other.
    Certs(certs::CertsArgs),
    /// Ask a controller or node for a sign of life.
    Probe(probe::ProbeArgs),
    /// Write what helps to understand an installation into one file, without its credentials.
    SupportBundle(Box<support::SupportArgs>),
    /// Data plane, controller and node on this machine, on one CSI socket.
    Standalone(standalone::StandaloneArgs),
}

/// The whole program. Results go to the standard output, all else to the standard error.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let telemetry = match telemetry::init(cli.log_format, cli.command.traces()) {
        Ok(telemetry) => telemetry,
        Err(error) => return failure(&error),
    };
    let code = run(cli.command, cli.log_format);
    telemetry.end();
    code
}

impl Command {
    /// Where a role sends its traces, and the role's name. Commands of people have none.
    fn traces(&self) -> Option<(&TraceArgs, &'static str)> {
        match self {
            Command::Controller(args) => Some((&args.traces, "controller")),
            Command::Node(args) => Some((&args.traces, "node")),
            Command::Data(args) => Some((&args.traces, "data")),
            Command::Backup(args) => Some((args.traces()?, "backup")),
            _ => None,
        }
    }
}

fn failure(error: &anyhow::Error) -> ExitCode {
    eprintln!("strata: {error:#}");
    ExitCode::FAILURE
}

fn run(command: Command, log_format: telemetry::LogFormat) -> ExitCode {
    let done = match command {
        Command::Backup(args) => return backup::run(args),
        Command::Volume(args) => return volume::run(&args),
        Command::Share(args) => return share::run(&args),
        Command::Certs(args) => args.run(),
        Command::Crds(args) => args.run(),
        Command::Completion(args) => args.run(),
        Command::Man(args) => args.run(),
        Command::Controller(args) => args.run(),
        Command::Node(args) => args.run(),
        Command::Data(args) => args.run(),
        Command::Probe(args) => args.run(),
        Command::Standalone(args) => args.run(log_format),
        Command::SupportBundle(args) => args.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error),
    }
}
