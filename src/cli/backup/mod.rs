//! `strata backup …`: the engine at a person's terminal.

mod create;
mod inspect;
mod restore;
mod snapshot;
mod workdir;

pub(in crate::cli) use create::parse_format;
pub(in crate::cli) use snapshot::{OpenShare, PinnedSource, work_folder};

use super::exit::Failure;
use super::output::{self, Output};
use crate::backup::store::{self, RepositoryUrl, S3Options};
use crate::backup::{Cancel, Canceller, Engine};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

/// Arguments of `strata backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Copy an image or a snapshot into the repository.
    Create(Box<create::CreateArgs>),
    /// Write a backup into a file or block device.
    Restore(restore::RestoreArgs),
    /// List the backups of a repository.
    List(inspect::ListArgs),
    /// Show one backup.
    Show(inspect::ShowArgs),
    /// Remove one backup.
    Delete(inspect::DeleteArgs),
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

/// How S3 is reached.
#[derive(Debug, Args)]
pub(in crate::cli) struct S3Args {
    /// The S3 server, unless it is Amazon's.
    #[arg(long, env = "AWS_ENDPOINT_URL", value_name = "URL")]
    endpoint: Option<String>,
    /// The S3 region.
    #[arg(long, env = "AWS_REGION")]
    region: Option<String>,
    /// Address the bucket as http://BUCKET.HOST/ instead of http://HOST/BUCKET/.
    #[arg(long)]
    virtual_host_style: bool,
}

impl S3Args {
    /// For the client; credentials come from the environment.
    pub fn options(&self) -> S3Options {
        S3Options {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            virtual_host_style: self.virtual_host_style,
            credentials: None,
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
    match args.verb {
        Verb::Create(args) => {
            let output = args.repository.output;
            show(output, create::run(&args), create::text)
        }
        Verb::Restore(args) => {
            let output = args.repository.output;
            show(output, restore::run(&args), restore::text)
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
    }
}

/// Runs a verb on a runtime, and prints what comes of it.
pub(in crate::cli) fn show<T: Serialize>(
    output: Output,
    work: impl Future<Output = Result<T, Failure>>,
    text: fn(&T) -> String,
) -> ExitCode {
    let result = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(e) => Err(Failure::failed(format!("the runtime cannot start: {e}"))),
    };
    output::finish(output, result, text)
}

/// Ctrl-C and SIGTERM ask the operation to stop; it cleans up and then ends. A second one ends it at once.
pub(in crate::cli) fn cancel_on_signals() -> Result<Cancel, Failure> {
    let (canceller, cancel) = Canceller::new();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::failed)?;
    tokio::spawn(async move {
        for attempt in 0.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if attempt > 0 {
                std::process::exit(1);
            }
            eprintln!("stopping, and removing what was begun; once more ends at once");
            canceller.cancel();
        }
    });
    Ok(cancel)
}
