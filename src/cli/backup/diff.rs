//! `strata backup diff`.

use super::{RepositoryArgs, cancel_on_signals};
use crate::backup::DiffReport;
use crate::cli::exit::Failure;
use crate::cli::output::{lines, table};
use crate::cli::size::human;
use clap::Args;
use uuid::Uuid;

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    #[command(flatten)]
    pub repository: RepositoryArgs,
    /// The one backup.
    #[arg(value_name = "FROM")]
    from: Uuid,
    /// The other, of the same volume.
    #[arg(value_name = "TO")]
    to: Uuid,
    /// List at most so many ranges; all are counted.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    ranges: usize,
}

pub(super) async fn run(args: &DiffArgs) -> Result<DiffReport, Failure> {
    let engine = args.repository.engine()?;
    let cancel = cancel_on_signals()?;
    Ok(engine.diff(args.from, args.to, args.ranges, &cancel).await?)
}

pub(super) fn text(report: &DiffReport) -> String {
    let row = |range: &crate::backup::ByteRange| {
        vec![range.offset.to_string(), range.length.to_string(), human(range.length)]
    };
    let rows: Vec<_> = report.ranges.iter().map(row).collect();
    let ranges = match rows.is_empty() {
        true => String::new(),
        false => table(&["OFFSET", "LENGTH", ""], &rows) + "\n",
    };
    let more = report.ranges_total - report.ranges.len() as u64;
    let more = if more > 0 { format!("{more} (--ranges)") } else { String::new() };
    let sizes = match report.bytes_from == report.bytes_to {
        true => human(report.bytes_to),
        false => format!("{} and {}", human(report.bytes_from), human(report.bytes_to)),
    };
    ranges
        + &lines(&[
            ("volume", report.volume_id.to_string()),
            ("size", sizes),
            ("differ", format!("{} ({} bytes)", human(report.bytes_differ), report.bytes_differ)),
            ("ranges", report.ranges_total.to_string()),
            ("not listed", more),
            ("grain", human(report.hash_block)),
        ])
}
