//! `strata volume check`: the chain of a volume, and whether record, files, headers and locks agree.

use super::{ShareArgs, failure, volume_id};
use crate::cli::backup::{OpenShare, parse_format};
use crate::cli::exit::Failure;
use crate::cli::output;
use crate::cli::size::human;
use crate::image::Format;
use crate::volume::{Error, LayerReport, RepairReport, VolumeId, VolumeReport};
use clap::Args;
use serde::Serialize;
use std::fmt::Write;
use std::process::ExitCode;

/// Arguments of `check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    share: ShareArgs,
    /// Volumes, by handle or id; all of the share if none is given.
    #[arg(value_name = "VOLUME")]
    volumes: Vec<String>,
    /// Run `qemu-img check` on the images that nobody writes to.
    #[arg(long)]
    images: bool,
    /// Finish what was begun, rebuild missing and damaged records, move unknown images into lost+found. Only of volumes
    /// that nobody writes to, and nothing is deleted that a record does not give up.
    #[arg(long)]
    repair: bool,
    /// With --repair: the format of an image that nothing else tells, raw or qcow2.
    #[arg(long, value_parser = parse_format, requires = "repair")]
    format: Option<Format>,
}

/// A volume, repaired or not.
#[derive(Debug, Serialize)]
struct Checked {
    #[serde(flatten)]
    report: VolumeReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    repair: Option<RepairReport>,
}

impl CheckArgs {
    /// Exit code 1 when something is wrong with a volume.
    pub fn run(&self) -> ExitCode {
        let reports = self.check();
        let healthy =
            reports.as_ref().is_ok_and(|all| all.iter().all(|checked| checked.report.problems.is_empty()));
        let shown = output::finish(self.share.output, reports, |all| all.iter().map(text).collect());
        if shown == ExitCode::SUCCESS && !healthy { ExitCode::FAILURE } else { shown }
    }

    fn check(&self) -> Result<Vec<Checked>, Failure> {
        let opened = OpenShare::open(&self.share.share)?;
        let mut ids =
            self.volumes.iter().map(|text| volume_id(&opened, text)).collect::<Result<Vec<_>, _>>()?;
        let all = ids.is_empty();
        if all {
            ids = opened.volumes.list().map_err(failure)?;
        }
        let mut reports = Vec::new();
        for id in ids {
            match self.inspect(&opened, id) {
                // Deleted since it was listed.
                Err(Error::VolumeNotFound { .. }) if all => {}
                report => reports.push(report.map_err(failure)?),
            }
        }
        Ok(reports)
    }

    fn inspect(&self, opened: &OpenShare, id: VolumeId) -> Result<Checked, Error> {
        let repaired = self.repair.then(|| opened.volumes.repair(id, self.format)).transpose();
        let (repair, refused) = match repaired {
            Ok(repair) => (repair, None),
            Err(error @ Error::VolumeNotFound { .. }) => return Err(error),
            Err(error) => (None, Some(error)),
        };
        let mut report = match opened.volumes.inspect(id) {
            // Its empty folder was all that was left.
            Err(Error::VolumeNotFound { .. }) if repair.is_some() => VolumeReport::empty(id),
            report => report?,
        };
        if let Some(error) = refused {
            report.problems.push(format!("it was not repaired: {error}"));
        }
        if self.images
            && let Err(error) = opened.volumes.inspect_images(id, &mut report)
        {
            report.problems.push(error.to_string());
        }
        Ok(Checked { report, repair })
    }
}

fn text(Checked { report, repair }: &Checked) -> String {
    let mut text = format!("{} {}\n", report.id, report.name.as_deref().unwrap_or("?"));
    for (depth, layer) in report.layers.iter().enumerate() {
        let LayerReport { file, format, size, .. } = layer;
        let taken = layer.allocated.map_or("no such file".to_owned(), human);
        let indent = "  ".repeat(depth + 1);
        let _ = write!(text, "{indent}{file} ({format}, {}, takes {taken})", human(*size));
        if layer.volume != report.id {
            let _ = write!(text, " of volume {}", layer.volume);
        }
        for snapshot in &layer.snapshots {
            let _ = write!(text, " ← snapshot {snapshot}");
        }
        text.push('\n');
    }
    for done in repair.iter().flat_map(|repair| &repair.done) {
        let _ = writeln!(text, "  repaired: {done}");
    }
    for unknown in repair.iter().flat_map(|repair| &repair.unknown) {
        let _ = writeln!(text, "  not known: {unknown}");
    }
    for image in &report.images {
        let _ = writeln!(text, "  image {}: {}", image.file, image.verdict);
    }
    for pending in &report.pending {
        let _ = writeln!(text, "  pending: {pending}");
    }
    for problem in &report.problems {
        let _ = writeln!(text, "  wrong: {problem}");
    }
    text
}
