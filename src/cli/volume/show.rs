//! `strata volume show`: all that is known of one volume.

use super::list::state;
use super::{ShareArgs, failure, volume_id};
use crate::cli::backup::OpenShare;
use crate::cli::exit::Failure;
use crate::cli::output::{self, lines};
use crate::cli::size::human;
use crate::volume::record::{Attachment, Intent, Merge, Pin, Role};
use crate::volume::{Background, DeltaDetail, LayerDetail, VolumeDetail};
use clap::Args;
use std::fmt::Write;
use std::process::ExitCode;

/// Arguments of `show`.
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// The volume, by handle or id.
    #[arg(value_name = "VOLUME")]
    volume: String,
    #[command(flatten)]
    share: ShareArgs,
}

impl ShowArgs {
    pub fn run(&self) -> ExitCode {
        output::finish(self.share.output, self.show(), text)
    }

    fn show(&self) -> Result<VolumeDetail, Failure> {
        let opened = OpenShare::open(&self.share.share)?;
        let id = volume_id(&opened, &self.volume)?;
        opened.volumes.detail(id).map_err(failure)
    }
}

fn text(volume: &VolumeDetail) -> String {
    let line = &volume.summary;
    let source = volume.source.as_ref().map(ToString::to_string).unwrap_or_default();
    let parameters: Vec<String> =
        volume.parameters.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut text = lines(&[
        ("volume", line.handle.to_string()),
        ("name", line.name.clone().unwrap_or_default()),
        ("state", format!("{}{}", state(line.state), if volume.new { ", never formatted" } else { "" })),
        ("capacity", line.capacity.map(human).unwrap_or_default()),
        ("allocated", human(line.allocated)),
        ("made", volume.created_at.to_string()),
        ("from", source),
        ("parameters", parameters.join(", ")),
        ("record", format!("generation {}, opened {} times", volume.generation, volume.epoch)),
    ]);
    for chain in &volume.chains {
        text.push_str(if chain.iter().any(|layer| layer.active) {
            "layers:\n"
        } else {
            "layers beside it:\n"
        });
        for (depth, layer) in chain.iter().enumerate() {
            layer_text(&mut text, volume, depth, layer);
        }
    }
    section(
        &mut text,
        "snapshots",
        volume.points.iter().map(|point| {
            let consistency = format!("{:?}", point.consistency).to_lowercase();
            format!(
                "{} {:?}, {}, {}, {consistency}, {}",
                point.handle,
                point.name,
                human(point.size),
                point.created_at,
                delta_text(&point.delta)
            )
        }),
    );
    section(&mut text, "pins", volume.pins.iter().map(pin_text));
    section(&mut text, "attached", volume.attachments.iter().map(attachment_text));
    let pending = volume.intent.iter().map(intent_text).chain(volume.merge.iter().map(merge_text));
    section(
        &mut text,
        "pending",
        pending.chain(volume.trash.iter().map(|file| format!("{file} is to be removed"))),
    );
    section(&mut text, "background", volume.background.iter().map(background_text));
    section(&mut text, "wrong", volume.problems.iter().cloned());
    text
}

fn delta_text(delta: &DeltaDetail) -> String {
    match (&delta.changed, &delta.unknown) {
        (Some(changed), _) => format!("{} changed", human(*changed)),
        (None, reason) => {
            format!("changes unknown: {}", reason.as_deref().unwrap_or("not recorded"))
        }
    }
}

fn attachment_text(attachment: &Attachment) -> String {
    let Attachment { node, published_at, .. } = attachment;
    let only = if attachment.role == Role::Reader { " for reading only" } else { "" };
    match attachment.opened {
        Some(epoch) => format!("node {node}{only}, opened under epoch {epoch}"),
        None => format!("node {node}{only}, published {published_at}, not opened"),
    }
}

fn layer_text(text: &mut String, volume: &VolumeDetail, depth: usize, layer: &LayerDetail) {
    let LayerDetail { file, format, size, .. } = layer;
    let taken = layer.allocated.map_or("no such file".to_owned(), human);
    let _ = write!(text, "{}{file} ({format}, {}, takes {taken})", "  ".repeat(depth + 1), human(*size));
    if layer.active {
        text.push_str(", active");
    }
    if layer.closed {
        text.push_str(", being merged away");
    }
    if layer.volume != volume.summary.handle.volume {
        let _ = write!(text, ", of volume {}", layer.volume);
    }
    for snapshot in &layer.snapshots {
        let _ = write!(text, " ← snapshot {}", snapshot.snapshot);
    }
    for clone in &layer.clones {
        let _ = write!(text, " ← clone {clone}");
    }
    text.push('\n');
}

fn pin_text(pin: &Pin) -> String {
    format!("layer {} and all under it, by {}, until {} by its clock", pin.layer, pin.owner, pin.until)
}

fn intent_text(intent: &Intent) -> String {
    match intent {
        Intent::Cut { frozen, file, .. } => format!("a cut: layer {frozen} is to be frozen under {file}"),
    }
}

fn merge_text(merge: &Merge) -> String {
    let direction = format!("{:?}", merge.direction).to_lowercase();
    let stopping = if merge.cancelled { ", being stopped" } else { "" };
    let Merge { lower, upper, started_at, .. } = merge;
    format!("a merge ({direction}) of layer {lower} and {upper}, begun {started_at}{stopping}")
}

fn background_text(background: &Background) -> String {
    let Background { direction, done, total, updated_at, error, .. } = background;
    let direction = format!("{direction:?}").to_lowercase();
    match error {
        Some(error) => format!("a merge ({direction}) failed {updated_at}, and is tried again: {error}"),
        None => {
            let percent = done.saturating_mul(100).checked_div(*total).unwrap_or(0);
            format!(
                "a merge ({direction}): {} of {}, {percent} %, at {updated_at}",
                human(*done),
                human(*total)
            )
        }
    }
}

fn section(text: &mut String, title: &str, items: impl Iterator<Item = String>) {
    let mut items = items.peekable();
    if items.peek().is_some() {
        let _ = writeln!(text, "{title}:");
        for item in items {
            let _ = writeln!(text, "  {item}");
        }
    }
}
