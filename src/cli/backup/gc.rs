//! `strata backup gc`.

use super::{RepositoryArgs, cancel_on_signals};
use crate::backup::{GcClock, GcItem, GcKind, GcOptions, GcReport};
use crate::cli::age;
use crate::cli::exit::Failure;
use crate::cli::output::{lines, table};
use crate::cli::size::human;
use clap::Args;
use jiff::Span;

/// Foreign names that are shown to people; JSON has them all.
const SHOWN: usize = 20;

/// Arguments of `gc`.
#[derive(Debug, Args)]
pub(super) struct GcArgs {
    #[command(flatten)]
    pub repository: RepositoryArgs,
    /// Leave alone what is younger by the store's clock: somebody may be writing it. Longer than a backup takes from
    /// one object to the next.
    #[arg(long, value_name = "SPAN", value_parser = age::parse, default_value = "24h")]
    older_than: Span,
    /// Print what would be removed, and remove nothing. Needs no right to write; ages are by this machine's clock.
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(args: &GcArgs) -> Result<GcReport, Failure> {
    let before = age::before_now(args.older_than).map_err(Failure::usage)?;
    let engine = args.repository.engine()?;
    let cancel = cancel_on_signals()?;
    Ok(engine.gc(GcOptions { before, dry_run: args.dry_run }, &cancel).await?)
}

pub(super) fn text(report: &GcReport) -> String {
    let action = if report.dry_run { "to remove" } else { "removed" };
    let row = |action: &str, item: &GcItem| {
        let kind = match item.kind {
            GcKind::Incomplete => "incomplete",
            GcKind::Superseded => "superseded",
            GcKind::Surplus => "surplus",
            GcKind::Unfinished => "unfinished",
            GcKind::Probe => "probe",
        };
        let newest = item.newest.strftime("%Y-%m-%d %H:%M:%S").to_string();
        vec![
            action.to_owned(),
            kind.to_owned(),
            item.objects.to_string(),
            item.bytes.map_or("-".to_owned(), human),
            newest,
            item.name.clone(),
        ]
    };
    let removed = report.removed.iter().map(|item| row(action, item));
    let young = report.young.iter().map(|item| row("too young", item));
    let rows: Vec<_> =
        removed.chain(young).chain(report.needed.iter().map(|item| row("needed", item))).collect();
    let mut text = match rows.is_empty() {
        true => String::new(),
        false => table(&["ACTION", "KIND", "OBJECTS", "SIZE", "NEWEST", "NAME"], &rows) + "\n",
    };
    if !report.needed.is_empty() {
        text += "needed: it has no manifest, but a backup of that volume rests on it, or may; bring the manifest back, or \
                 delete what `strata backup verify` calls damaged there: then it goes, too\n";
    }
    for backup in &report.unread {
        text += &format!("the manifest of backup {backup} cannot be read: nothing of it is looked at\n");
    }
    for key in report.foreign.iter().take(SHOWN) {
        text += &format!("not ours, left alone: {key}\n");
    }
    let more = report.foreign.len().saturating_sub(SHOWN);
    if more > 0 {
        text += &format!("not ours, left alone: {more} more\n");
    }
    for warning in &report.warnings {
        text += &format!("warning: {warning}\n");
    }
    if report.dry_run && report.clock == GcClock::Machine {
        text += "ages are by this machine's clock: a dry run does not ask for the store's\n";
    }
    text + &lines(&[
        (action, report.removed.len().to_string()),
        (if report.dry_run { "to free" } else { "freed" }, human(report.bytes_freed)),
    ])
}
