//! A look at a volume that changes nothing: its chain, and whether record, files and headers agree (G10).

use super::delta::Kept;
use super::error::Error;
use super::id::{LayerId, SnapshotId, VolumeId};
use super::info_table;
use super::inspect_images::ImageReport;
use super::record::Record;
use super::references::list_ids;
use super::repair::KEPT;
use super::report::{allocated, tops};
use super::store::{exists, read_if_exists};
use super::volumes::Volumes;
use crate::image::Format;
use serde::Serialize;

/// How often a volume that is being worked on is looked at again before what was seen counts.
const LOOKS: usize = 5;

/// A layer as it lies on the share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerReport {
    /// Which one.
    pub id: LayerId,
    /// The volume whose folder holds it: a clone's lower layers are another one's.
    pub volume: VolumeId,
    /// Its file.
    pub file: String,
    /// The file's format.
    pub format: Format,
    /// Virtual size in bytes.
    pub size: u64,
    /// Bytes that the file takes up; None if there is no such file.
    pub allocated: Option<u64>,
    /// The snapshots that it holds.
    pub snapshots: Vec<SnapshotId>,
}

/// A volume as it lies on the share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VolumeReport {
    /// The volume.
    pub id: VolumeId,
    /// The CSI name, as far as the record can be read.
    pub name: Option<String>,
    /// Its chain, the active layer first.
    pub layers: Vec<LayerReport>,
    /// What `qemu-img check` says of its images, when it was asked.
    pub images: Vec<ImageReport>,
    /// What is begun and not finished: a matter of the next operation, no damage.
    pub pending: Vec<String>,
    /// What is wrong.
    pub problems: Vec<String>,
}

impl VolumeReport {
    /// Of a volume of which nothing is known, or nothing is there.
    pub fn empty(id: VolumeId) -> Self {
        let (layers, images, pending, problems) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        VolumeReport { id, name: None, layers, images, pending, problems }
    }
}

impl Volumes {
    /// Every volume that has a folder on the share.
    pub fn list(&self) -> Result<Vec<VolumeId>, Error> {
        let volumes = list_ids(&self.layout.volumes())?;
        if volumes.is_empty() {
            self.is_there()?;
        }
        Ok(volumes)
    }

    /// Compares a volume's record with its files and headers, and with who has them open. What is wrong with it is in the
    /// report, whatever it is; only a volume of which there is nothing is an error.
    pub fn inspect(&self, id: VolumeId) -> Result<VolumeReport, Error> {
        for look in 1.. {
            let before = self.read(id).ok().flatten().map(|record| record.generation);
            let report = self.look(id)?;
            let after = self.read(id).ok().flatten().map(|record| record.generation);
            // A state between two steps is nothing to tell of.
            if before == after || look == LOOKS {
                return Ok(report);
            }
        }
        unreachable!("the last look returns")
    }

    fn look(&self, id: VolumeId) -> Result<VolumeReport, Error> {
        let mut report = VolumeReport::empty(id);
        match self.read(id) {
            Ok(Some(record)) => {
                if let Err(error) = self.compare(&record, &mut report) {
                    report.problems.push(error.to_string());
                }
            }
            Ok(None) if !exists(&self.layout.volume(id))? => {
                return Err(Error::VolumeNotFound { volume: id });
            }
            Ok(None) => match self.image_files(id) {
                Ok(files) if files.is_empty() => {
                    let removable = self.leftovers(id).is_ok_and(|leftovers| leftovers.is_some());
                    let told =
                        if removable { "the folder of a deleted volume is to be removed" } else { KEPT };
                    report.pending.push(told.to_owned());
                }
                Ok(_) => {
                    let reason = "there are images, but no record (volume.json); nothing was changed; `strata \
                                  volume check --repair` rebuilds it";
                    report.problems.push(reason.to_owned());
                }
                Err(error) => report.problems.push(error.to_string()),
            },
            Err(error) => report.problems.push(error.to_string()),
        }
        Ok(report)
    }

    fn compare(&self, record: &Record, report: &mut VolumeReport) -> Result<(), Error> {
        report.name = Some(record.name.clone());
        for top in tops(record) {
            match self.chain(record, top) {
                Err(error) => report.problems.push(error.to_string()),
                Ok(chain) => {
                    if let Err(error) = self.verify(&chain) {
                        report.problems.push(error.to_string());
                    }
                    for link in chain {
                        if report.layers.iter().any(|layer| layer.id == link.layer.id) {
                            continue;
                        }
                        let own = link.volume == record.id;
                        let points = record.snapshots.iter().filter(|point| point.layer == link.layer.id);
                        report.layers.push(LayerReport {
                            id: link.layer.id,
                            volume: link.volume,
                            file: link.layer.file.clone(),
                            format: link.layer.format,
                            size: link.layer.size,
                            allocated: allocated(&link.path),
                            snapshots: points.filter(|_| own).map(|point| point.id).collect(),
                        });
                    }
                }
            }
        }
        self.compare_users(record, report)?;
        self.compare_files(record, report)
    }

    fn compare_files(&self, record: &Record, report: &mut VolumeReport) -> Result<(), Error> {
        let folder = self.layout.volume(record.id);
        for entry in std::fs::read_dir(&folder).map_err(Error::io("list", &folder))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("volume-") && !record.uses_file(&name) {
                report.problems.push(format!("{name} is an image that the record does not know"));
            }
        }
        for layer in list_ids(&self.layout.deltas(record.id))? {
            if let Kept::Damaged(reason) = self.delta(record.id, layer)? {
                report.problems.push(format!(
                    "deltas/{layer} is damaged: {reason}; backups on what is before it read everything; `strata volume \
                     check --repair` removes it"
                ));
            }
        }
        report.pending.extend(record.intent.iter().map(|_| "a cut is to be finished".to_owned()));
        report.pending.extend(record.merge.iter().map(|_| "two layers are being merged".to_owned()));
        report.pending.extend(record.trash.iter().map(|file| format!("{file} is to be removed")));
        let path = self.layout.info(record.id);
        let bytes = read_if_exists(&path).map_err(Error::io("read", &path))?;
        let table = bytes.and_then(|bytes| info_table::parse("volume.info", &bytes).ok());
        if table.as_ref() != Some(&record.info_table()) {
            report.pending.push("volume.info is to be brought in line with the record".to_owned());
        }
        Ok(())
    }
}
