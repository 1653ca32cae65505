//! `strata backup verify`.

use super::restore::LimitArgs;
use super::{RepositoryArgs, cancel_on_signals};
use crate::backup::{Damage, Progress, VerifyOptions, VerifyReport, Which};
use crate::cli::exit::Failure;
use crate::cli::output::{lines, table, with_bar};
use crate::cli::size::human;
use clap::{ArgGroup, Args};
use uuid::Uuid;

/// Arguments of `verify`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["backup", "volume_id", "all"]))]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    pub repository: RepositoryArgs,
    /// This backup, and those that it rests on.
    #[arg(long, value_name = "UUID")]
    backup: Option<Uuid>,
    /// All backups of this volume.
    #[arg(long, value_name = "UUID")]
    volume_id: Option<Uuid>,
    /// All backups of the repository.
    #[arg(long)]
    all: bool,
    /// Fetch every chunk and check every byte.
    #[arg(long, conflicts_with = "sample")]
    data: bool,
    /// Fetch this part of the chunks, chosen at random.
    #[arg(long, value_name = "N%", value_parser = parse_part)]
    sample: Option<f64>,
    /// Choose the same chunks as an earlier run that printed this.
    #[arg(long, value_name = "NUMBER", requires = "sample")]
    seed: Option<u64>,
    #[command(flatten)]
    limits: LimitArgs,
}

fn parse_part(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<f64>();
    match number {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent / 100.0),
        _ => Err("write a percentage above 0, at most 100".to_owned()),
    }
}

pub(super) async fn run(args: &VerifyArgs) -> Result<VerifyReport, Failure> {
    let engine = args.repository.engine()?;
    let cancel = cancel_on_signals()?;
    let which = match (args.backup, args.volume_id) {
        (Some(backup), _) => Which::Backup(backup),
        (None, Some(volume)) => Which::Volume(volume),
        (None, None) => Which::All,
    };
    let seed = args.seed.unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0 >> 32);
    let data = if args.data { 1.0 } else { args.sample.unwrap_or(0.0) };
    let options = VerifyOptions { which, data, seed, limits: args.limits.get() };
    let progress = Progress::default();
    Ok(with_bar(&progress, engine.verify(&options, &progress, &cancel)).await?)
}

/// 5 when something is damaged.
pub(super) fn code(report: &VerifyReport) -> u8 {
    if report.good { 0 } else { 5 }
}

pub(super) fn text(report: &VerifyReport) -> String {
    let sampled = report.sample > 0.0 && report.sample < 1.0;
    let ids = |ids: &[Uuid]| ids.iter().map(Uuid::to_string).collect::<Vec<_>>().join(", ");
    let head = lines(&[
        ("result", if report.good { "good".to_owned() } else { format!("{} damaged", report.damage.len()) }),
        ("backups", report.backups.len().to_string()),
        ("incomplete", ids(&report.incomplete)),
        ("changed meanwhile", ids(&report.changed)),
        ("objects", report.objects.to_string()),
        ("read", report.objects_read.to_string()),
        ("checked", human(report.bytes_checked)),
        ("fetched", human(report.bytes_fetched)),
        ("seed", if sampled { report.seed.to_string() } else { String::new() }),
        ("time", format!("{:.1} s", report.seconds)),
    ]);
    head + &damage_text(&report.damage)
}

/// A table of what is damaged; empty when nothing is.
pub(super) fn damage_text(damage: &[Damage]) -> String {
    if damage.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = damage
        .iter()
        .map(|damage| {
            let affects: Vec<String> = damage.affects.iter().map(Uuid::to_string).collect();
            let ranges = super::restore::ranges(&damage.ranges);
            vec![damage.object.clone(), damage.reason.clone(), ranges, affects.join(" ")]
        })
        .collect();
    format!("\n{}", table(&["DAMAGED OBJECT", "REASON", "RANGES", "AFFECTED BACKUPS"], &rows))
}
