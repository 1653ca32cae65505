//! A look at who has a volume's images open, and at the images themselves.

use super::error::{Error, ImageLockSnafu};
use super::id::VolumeId;
use super::inspect::VolumeReport;
use super::record::{Record, State};
use super::store::exists;
use super::volumes::Volumes;
use crate::image::{QemuImg, lock};
use serde::Serialize;
use snafu::ResultExt;
use std::time::Duration;

/// Reads all metadata of an image: for some TiB that is some GiB over the network.
const CHECK_LIMIT: Duration = Duration::from_secs(3600);

/// What `qemu-img check` says of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageReport {
    /// The image's file.
    pub file: String,
    /// In words.
    pub verdict: String,
}

impl Volumes {
    /// Compares the attachments of a record with the nodes' registrations and with the image's lock.
    pub(super) fn compare_users(&self, record: &Record, report: &mut VolumeReport) -> Result<(), Error> {
        for attachment in &record.attachments {
            if let Err(error) = self.node(&attachment.node) {
                report.problems.push(format!("it is attached to {}: {error}", attachment.node));
            }
        }
        let Some(active) = record.active_layer().filter(|_| record.state == State::Ready) else {
            return Ok(());
        };
        let path = self.layout.image(record.id, &active.file);
        if !exists(&path)? {
            // Said where the chain is looked at.
            return Ok(());
        }
        let written = lock::in_use(&path).context(ImageLockSnafu)?;
        let opened = record.writer();
        match (written, opened) {
            (true, None) => report.problems.push(format!(
                "{} is open for writing, but the record says that no node has opened it",
                active.file
            )),
            // So it is between the unstaging and the detach, too.
            (false, Some((node, epoch))) => report.pending.push(format!(
                "node {node} opened it (epoch {epoch}), but holds its image lock no more: it is to be detached"
            )),
            _ => {}
        }
        Ok(())
    }

    /// `qemu-img check` of each image in a volume's folder that nobody writes to; what it finds is added to the report.
    pub fn inspect_images(&self, id: VolumeId, report: &mut VolumeReport) -> Result<(), Error> {
        let Some(record) = self.read(id)? else { return Ok(()) };
        let img = QemuImg::new(self.tools.qemu_img.clone());
        for layer in &record.layers {
            let path = self.layout.image(id, &layer.file);
            if !exists(&path)? {
                continue;
            }
            let verdict = if lock::in_use(&path).context(ImageLockSnafu)? {
                "not checked: it is open for writing".to_owned()
            } else {
                match img.check(&path, layer.format, CHECK_LIMIT) {
                    Ok(found) if found.ok => "sound".to_owned(),
                    Ok(found) if found.corruptions == 0 => format!("{} leaked clusters", found.leaks),
                    Ok(found) => {
                        let damage = format!("{} corrupt entries", found.corruptions);
                        report.problems.push(format!("{}: {damage}", layer.file));
                        damage
                    }
                    Err(error) => {
                        report.problems.push(format!("{} could not be checked: {error}", layer.file));
                        "could not be checked".to_owned()
                    }
                }
            };
            report.images.push(ImageReport { file: layer.file.clone(), verdict });
        }
        Ok(())
    }
}
