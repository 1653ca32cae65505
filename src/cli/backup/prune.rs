//! `strata backup prune`.

use super::{RepositoryArgs, cancel_on_signals};
use crate::backup::{Progress, PruneOptions, PruneReport, Reason, Retention};
use crate::cli::age;
use crate::cli::exit::Failure;
use crate::cli::output::{lines, table, with_bar};
use crate::cli::size::human;
use clap::Args;
use jiff::Span;
use uuid::Uuid;

/// Arguments of `prune`. Periods are those of UTC. Each rule keeps the newest backup of each of its last so many
/// periods that have one; what any rule keeps, stays.
#[derive(Debug, Args)]
pub(super) struct PruneArgs {
    #[command(flatten)]
    pub repository: RepositoryArgs,
    /// Only the backups of this volume; else each volume by itself.
    #[arg(long, value_name = "UUID")]
    volume_id: Option<Uuid>,
    #[command(flatten)]
    rules: Rules,
    /// Make backups that stay whole without those that go; else what they need stays too.
    #[arg(long)]
    rebase: bool,
    /// Print the plan, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// At least one is demanded: an empty policy is a mistake, not a wish.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Rules {
    /// Keep the last so many backups.
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true)]
    keep_last: u32,
    /// Keep backups of so many hours.
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true)]
    keep_hourly: u32,
    /// Keep backups of so many days.
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true)]
    keep_daily: u32,
    /// Keep backups of so many weeks.
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true)]
    keep_weekly: u32,
    /// Keep backups of so many months.
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true)]
    keep_monthly: u32,
    /// Keep backups of so many years.
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true)]
    keep_yearly: u32,
    /// Keep all backups that are no older than this before the newest one: 36h, 7d, 2w, 6mo, 1y.
    #[arg(long, value_name = "SPAN", value_parser = age::parse)]
    keep_within: Option<Span>,
}

pub(super) async fn run(args: &PruneArgs) -> Result<PruneReport, Failure> {
    let engine = args.repository.engine()?;
    let (progress, cancel) = (Progress::default(), cancel_on_signals()?);
    let rules = &args.rules;
    let retention = Retention {
        last: rules.keep_last,
        hourly: rules.keep_hourly,
        daily: rules.keep_daily,
        weekly: rules.keep_weekly,
        monthly: rules.keep_monthly,
        yearly: rules.keep_yearly,
        within: rules.keep_within,
    };
    let options =
        PruneOptions { retention, volume: args.volume_id, rebase: args.rebase, dry_run: args.dry_run };
    Ok(with_bar(&progress, engine.prune(&options, &progress, &cancel)).await?)
}

pub(super) fn text(report: &PruneReport) -> String {
    let header = ["BACKUP", "VOLUME", "CREATED", "STORED", "ACTION", "WHY"];
    let rows: Vec<Vec<String>> = report
        .backups
        .iter()
        .map(|row| {
            let mut why: Vec<String> = row.reasons.iter().map(Reason::to_string).collect();
            why.extend(row.damage.clone());
            let action = match (row.kept, row.rebased) {
                (true, true) => "rebase",
                (true, false) => "keep",
                (false, _) => "remove",
            };
            vec![
                row.backup_id.to_string(),
                row.volume_id.to_string(),
                row.created_at.get(..19).unwrap_or("-").to_owned(),
                human(row.bytes_stored),
                action.to_owned(),
                why.join(", "),
            ]
        })
        .collect();
    let done = if report.dry_run { "to remove" } else { "removed" };
    let sums = lines(&[
        ("kept", report.kept.to_string()),
        (done, report.removed.to_string()),
        (if report.dry_run { "to free" } else { "freed" }, human(report.bytes_freed)),
    ]);
    format!("{}\n{sums}", table(&header, &rows))
}
