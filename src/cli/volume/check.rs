//! `strata volume check`: the chain of a volume, and whether record, files, headers and locks agree.

use super::{ShareArgs, failure, volume_id};
use crate::cli::backup::OpenShare;
use crate::cli::exit::Failure;
use crate::cli::output;
use crate::cli::size::human;
use crate::volume::{Error, LayerReport, VolumeId, VolumeReport};
use clap::Args;
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
}

impl CheckArgs {
    /// Exit code 1 when something is wrong with a volume.
    pub fn run(&self) -> ExitCode {
        let reports = self.check();
        let healthy = reports.as_ref().is_ok_and(|all| all.iter().all(|report| report.problems.is_empty()));
        let shown = output::finish(self.share.output, reports, |all| all.iter().map(text).collect());
        if shown == ExitCode::SUCCESS && !healthy { ExitCode::FAILURE } else { shown }
    }

    fn check(&self) -> Result<Vec<VolumeReport>, Failure> {
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

    fn inspect(&self, opened: &OpenShare, id: VolumeId) -> Result<VolumeReport, Error> {
        let mut report = opened.volumes.inspect(id)?;
        if self.images
            && let Err(error) = opened.volumes.inspect_images(id, &mut report)
        {
            report.problems.push(error.to_string());
        }
        Ok(report)
    }
}

fn text(report: &VolumeReport) -> String {
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
