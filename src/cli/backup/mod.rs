//! `strata backup …`: the engine at a person's terminal.

mod create;
mod diff;
mod export;
mod gc;
mod import;
mod inspect;
mod prune;
mod repair;
mod restore;
mod snapshot;
mod verify;
mod workdir;

pub(in crate::cli) use create::parse_format;
pub(in crate::cli) use snapshot::{OpenShare, PinnedSource, work_folder};

use super::driver::BackupServeArgs;
use super::exit::{self, Failure};
use super::output::{self, Output};
use super::progress::{self, ProgressMode};
use super::telemetry::TraceArgs;
use crate::backup::store::{self, RepositoryUrl, S3Options, Timeouts};
use crate::backup::{Cancel, Canceller, Engine};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

impl BackupArgs {
    /// Where traces are sent: of what serves, for a command of a person has none.
    pub fn traces(&self) -> Option<&TraceArgs> {
        match &self.verb {
            Verb::Serve(args) => Some(&args.traces),
            _ => None,
        }
    }
}

/// Arguments of `strata backup`.
#[derive(Debug, Args)]
#[command(after_help = exit::help())]
pub struct BackupArgs {
    /// How it is shown how far the command is, on the standard error.
    #[arg(long, value_enum, default_value_t, value_name = "MODE", global = true)]
    progress: ProgressMode,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Copy an image or a snapshot into the repository.
    Create(Box<create::CreateArgs>),
    /// Write a backup into a file or block device.
    Restore(restore::RestoreArgs),
    /// Check backups where they are.
    Verify(verify::VerifyArgs),
    /// Make damaged objects anew, from an image or from other backups of the volume.
    Repair(Box<repair::RepairArgs>),
    /// List the backups of a repository.
    List(inspect::ListArgs),
    /// Show one backup.
    Show(inspect::ShowArgs),
    /// Remove one backup.
    Delete(inspect::DeleteArgs),
    /// Show where two backups of one volume differ.
    Diff(diff::DiffArgs),
    /// Print what `cinder backup-import` takes of a backup and of all that it rests on.
    ExportRecord(export::RecordArgs),
    /// Make one full backup, under a new id, from a backup and all that it rests on: here or in another repository.
    ExportFull(export::FullArgs),
    /// Remove the backups that no rule keeps.
    Prune(Box<prune::PruneArgs>),
    /// Remove what belongs to no backup: what broken off commands left.
    Gc(gc::GcArgs),
    /// In Kubernetes: make the VolumeBackups of what a repository holds.
    Import(import::ImportArgs),
    /// In Kubernetes: back up the VolumeSnapshots that ask for it.
    Serve(Box<BackupServeArgs>),
}

/// Where backups are.
#[derive(Debug, Args)]
struct RepositoryArgs {
    /// s3://BUCKET[/PREFIX] or file:///DIRECTORY; credentials come from the AWS_* variables.
    #[arg(long, value_name = "URL")]
    repository: RepositoryUrl,
    #[command(flatten)]
    s3: S3Args,
    /// The shape of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// How S3 is reached. Credentials come from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and
/// AWS_SESSION_TOKEN; a role by AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE, or the machine's own.
#[derive(Debug, Args)]
pub(in crate::cli) struct S3Args {
    /// The S3 server, unless it is Amazon's; else AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// The S3 region.
    #[arg(long, env = "AWS_REGION")]
    region: Option<String>,
    /// Address the bucket as http://BUCKET.HOST/ instead of http://HOST/BUCKET/.
    #[arg(long)]
    virtual_host_style: bool,
    /// PEM certificates to trust besides the system's.
    #[arg(long, env = "AWS_CA_BUNDLE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The HTTP proxy, but for hosts that NO_PROXY names; else HTTPS_PROXY or HTTP_PROXY.
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// Seconds without any byte moving until a request is tried again.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    stall_timeout: u64,
    /// Seconds from a request's begin until it is not tried again.
    #[arg(long, value_name = "SECONDS", default_value_t = 180, value_parser = clap::value_parser!(u64).range(1..=840))]
    retry_timeout: u64,
}

impl S3Args {
    /// For the client; credentials come from the environment.
    pub fn options(&self) -> S3Options {
        let timeouts = Timeouts {
            stall: Duration::from_secs(self.stall_timeout),
            give_up: Duration::from_secs(self.retry_timeout),
            ..Timeouts::default()
        };
        S3Options {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            virtual_host_style: self.virtual_host_style,
            credentials: None,
            session_token: None,
            ca_file: self.ca_file.clone(),
            proxy: self.proxy.clone(),
            timeouts,
        }
    }
}

impl RepositoryArgs {
    fn engine(&self) -> Result<Engine, Failure> {
        let store = store::open(&self.repository, &self.s3.options()).map_err(Failure::failed)?;
        Ok(Engine::new(store))
    }
}

/// Which backup.
#[derive(Debug, Args)]
struct WhichBackup {
    /// The backup's id.
    #[arg(long = "backup", value_name = "UUID")]
    id: Uuid,
}

/// Runs one verb.
pub fn run(args: BackupArgs) -> ExitCode {
    progress::choose(args.progress);
    match args.verb {
        Verb::Create(args) => {
            let output = args.repository.output;
            show(output, create::run(&args), create::text)
        }
        Verb::Restore(args) => {
            let output = args.repository.output;
            show_judged(output, restore::run(&args), restore::text, restore::code)
        }
        Verb::Verify(args) => {
            let output = args.repository.output;
            show_judged(output, verify::run(&args), verify::text, verify::code)
        }
        Verb::Repair(args) => {
            let output = args.repository.output;
            show_judged(output, repair::run(&args), repair::text, repair::code)
        }
        Verb::List(args) => {
            let output = args.repository.output;
            show(output, inspect::list(&args), inspect::list_text)
        }
        Verb::Show(args) => {
            let output = args.repository.output;
            show(output, inspect::show(&args), inspect::show_text)
        }
        Verb::Delete(args) => {
            let output = args.repository.output;
            show(output, inspect::delete(&args), inspect::delete_text)
        }
        Verb::Diff(args) => {
            let output = args.repository.output;
            show(output, diff::run(&args), diff::text)
        }
        Verb::ExportRecord(args) => {
            let output = args.repository.output;
            show(output, export::record(&args), export::record_text)
        }
        Verb::ExportFull(args) => {
            let output = args.repository.output;
            show(output, export::full(&args), export::full_text)
        }
        Verb::Prune(args) => {
            let output = args.repository.output;
            show(output, prune::run(&args), prune::text)
        }
        Verb::Gc(args) => {
            let output = args.repository.output;
            show(output, gc::run(&args), gc::text)
        }
        Verb::Import(args) => show(args.output, import::run(&args), |rows| import::text(rows)),
        Verb::Serve(args) => match args.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("strata: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

/// Runs a verb on a runtime, and prints what comes of it.
pub(in crate::cli) fn show<T: Serialize>(
    output: Output,
    work: impl Future<Output = Result<T, Failure>>,
    text: fn(&T) -> String,
) -> ExitCode {
    show_judged(output, work, text, |_| 0)
}

/// The same, for results that are not all good.
fn show_judged<T: Serialize>(
    output: Output,
    work: impl Future<Output = Result<T, Failure>>,
    text: fn(&T) -> String,
    code: fn(&T) -> u8,
) -> ExitCode {
    let result = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(e) => Err(Failure::failed(format!("the runtime cannot start: {e}"))),
    };
    let code = result.as_ref().map_or(0, code);
    let shown = output::finish(output, result, text);
    if shown == ExitCode::SUCCESS { ExitCode::from(code) } else { shown }
}

/// Ctrl-C and SIGTERM ask the operation to stop; it cleans up and then ends. A second one ends it at once.
pub(in crate::cli) fn cancel_on_signals() -> Result<Cancel, Failure> {
    let (canceller, cancel) = Canceller::new();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::failed)?;
    tokio::spawn(async move {
        for attempt in 0.. {
            let code = tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            };
            if attempt > 0 {
                std::process::exit(code.into());
            }
            exit::stopped_by(code);
            eprintln!(
                "stopping; what was begun is removed (with --resume it is kept); once more ends at once"
            );
            canceller.cancel();
        }
    });
    Ok(cancel)
}
