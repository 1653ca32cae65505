//! `strata backup restore`.

use super::create::parse_format;
use super::{RepositoryArgs, WhichBackup, cancel_on_signals};
use crate::backup::{Damaged, Limits, Progress, RestoreOptions, RestoreReport};
use crate::cli::exit::Failure;
use crate::cli::output::{lines, table, with_bar};
use crate::cli::size;
use crate::image::Format;
use clap::Args;
use std::ops::Range;
use std::path::PathBuf;

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    pub repository: RepositoryArgs,
    #[command(flatten)]
    backup: WhichBackup,
    /// The file or block device to write.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// The format to write.
    #[arg(long, value_parser = parse_format, default_value = "raw")]
    to_format: Format,
    /// Overwrite what is there. Bytes past the volume's end stay as they are; an existing file that is
    /// to become qcow2 is replaced.
    #[arg(long)]
    in_place: bool,
    /// Only these bytes of the volume, at the same place of the target. A new file has the volume's size, and holes
    /// elsewhere.
    #[arg(long, value_name = "START-END|OFFSET+LENGTH", value_parser = parse_range)]
    range: Option<Range<u64>>,
    /// What to do about damaged objects: stop, or go on with zeros in their place (and end with code 5).
    #[arg(long, value_parser = parse_damaged, value_name = "fail|zero", default_value = "fail")]
    damaged: Damaged,
    #[command(flatten)]
    limits: LimitArgs,
}

/// How much at a time.
#[derive(Debug, Args)]
pub(super) struct LimitArgs {
    /// Memory in all, 64M of it for what is no chunk; a chunk that needs more than the rest gets it, alone.
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "256M")]
    memory: u64,
    /// Objects on their way at a time.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=1024), default_value = "8")]
    concurrency: u16,
}

impl LimitArgs {
    pub fn get(&self) -> Limits {
        Limits { memory: self.memory, concurrency: self.concurrency.into() }
    }
}

fn parse_damaged(text: &str) -> Result<Damaged, String> {
    match text {
        "fail" => Ok(Damaged::Fail),
        "zero" => Ok(Damaged::Zero),
        _ => Err("use fail or zero".to_owned()),
    }
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let range = match (text.split_once('+'), text.split_once('-')) {
        (Some((offset, length)), None) => {
            let (offset, length) = (size::parse(offset)?, size::parse(length)?);
            offset..offset.checked_add(length).ok_or_else(|| format!("{text:?} is too large"))?
        }
        (None, Some((start, end))) => size::parse(start)?..size::parse(end)?,
        _ => return Err(format!("{text:?} is no range: write START-END or OFFSET+LENGTH")),
    };
    if range.is_empty() { Err(format!("{text:?} has no bytes")) } else { Ok(range) }
}

pub(super) async fn run(args: &RestoreArgs) -> Result<RestoreReport, Failure> {
    let engine = args.repository.engine()?;
    let cancel = cancel_on_signals()?;
    let options = RestoreOptions {
        format: args.to_format,
        in_place: args.in_place,
        range: args.range.clone(),
        damaged: args.damaged,
        limits: args.limits.get(),
        ..RestoreOptions::new(args.backup.id, &args.to)
    };
    let progress = Progress::default();
    Ok(with_bar(&progress, engine.restore(&options, &progress, &cancel)).await?)
}

/// 5 when something is lost.
pub(super) fn code(report: &RestoreReport) -> u8 {
    if report.losses.is_empty() { 0 } else { 5 }
}

/// Ranges for people: too many are only counted.
pub(super) fn ranges(ranges: &[(u64, u64)]) -> String {
    let shown: Vec<String> = ranges.iter().take(8).map(|(start, end)| format!("{start}-{end}")).collect();
    match ranges.len().saturating_sub(8) {
        0 => shown.join(" "),
        more => format!("{} and {more} more", shown.join(" ")),
    }
}

pub(super) fn text(report: &RestoreReport) -> String {
    let rows: Vec<Vec<String>> = report
        .losses
        .iter()
        .map(|loss| vec![loss.object.clone(), loss.reason.clone(), ranges(&loss.ranges)])
        .collect();
    let losses = match rows.is_empty() {
        true => String::new(),
        false => format!("\n{}", table(&["LOST OBJECT", "REASON", "RANGES, ZEROS NOW"], &rows)),
    };
    let range = report.range.map(|(start, end)| format!("{start}-{end}; a new target has holes elsewhere"));
    let head = lines(&[
        ("backup", report.backup_id.to_string()),
        ("to", report.to.display().to_string()),
        ("backups in chain", report.chain.len().to_string()),
        ("objects", report.objects.to_string()),
        ("not fetched: zeros", report.objects_of_zeros.to_string()),
        ("volume", size::human(report.bytes_total)),
        ("range", range.unwrap_or_default()),
        ("fetched", size::human(report.bytes_fetched)),
        ("written", size::human(report.bytes_written)),
        ("time", format!("{:.1} s", report.seconds)),
    ]);
    head + &losses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_people_write_them() {
        assert_eq!(parse_range("1K-2K"), Ok(1024..2048));
        assert_eq!(parse_range("1K+2K"), Ok(1024..3072));
        for bad in ["", "5", "5-5", "7-3", "1+0", "-5", "1-2-3", "1+2-3", "9999999999999+99999999T"] {
            assert!(parse_range(bad).is_err(), "{bad}");
        }
    }
}
