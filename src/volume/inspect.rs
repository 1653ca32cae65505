//! A look at a volume that changes nothing: its chain, and whether record, files and headers agree (G10).

use super::error::{Error, VolumeNotFoundSnafu};
use super::id::{LayerId, SnapshotId, VolumeId};
use super::record::Record;
use super::references::list_ids;
use super::store::read_if_exists;
use super::volumes::Volumes;
use crate::image::Format;
use serde::Serialize;
use snafu::OptionExt;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

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
    /// What is begun and not finished: a matter of the next operation, no damage.
    pub pending: Vec<String>,
    /// What is wrong.
    pub problems: Vec<String>,
}

impl Volumes {
    /// Every volume that has a folder on the share.
    pub fn list(&self) -> Result<Vec<VolumeId>, Error> {
        list_ids(&self.layout.volumes())
    }

    /// Compares a volume's record with its files and headers. Of a volume that is being worked on it may
    /// tell of a state between two steps.
    pub fn inspect(&self, id: VolumeId) -> Result<VolumeReport, Error> {
        let mut report =
            VolumeReport { id, name: None, layers: Vec::new(), pending: Vec::new(), problems: Vec::new() };
        match self.read(id) {
            Err(error @ Error::DamagedRecord { .. }) => report.problems.push(error.to_string()),
            record => self.compare(&record?.context(VolumeNotFoundSnafu { volume: id })?, &mut report)?,
        }
        Ok(report)
    }

    fn compare(&self, record: &Record, report: &mut VolumeReport) -> Result<(), Error> {
        report.name = Some(record.name.clone());
        let tops: Vec<LayerId> = match record.active {
            Some(active) => vec![active],
            None => record.snapshots.iter().map(|snapshot| snapshot.layer).collect(),
        };
        for top in tops {
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
                        let holds =
                            record.snapshots.iter().filter(|snapshot| snapshot.layer == link.layer.id);
                        report.layers.push(LayerReport {
                            id: link.layer.id,
                            volume: link.volume,
                            file: link.layer.file.clone(),
                            format: link.layer.format,
                            size: link.layer.size,
                            allocated: std::fs::metadata(&link.path).ok().map(|meta| meta.blocks() * 512),
                            snapshots: holds.map(|snapshot| snapshot.id).collect(),
                        });
                    }
                }
            }
        }
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
        report.pending.extend(record.intent.iter().map(|_| "a cut is to be finished".to_owned()));
        report.pending.extend(record.merge.iter().map(|_| "two layers are being merged".to_owned()));
        report.pending.extend(record.trash.iter().map(|file| format!("{file} is to be removed")));
        let path = self.layout.info(record.id);
        let bytes = read_if_exists(&path).map_err(Error::io("read", &path))?;
        let table = bytes.and_then(|bytes| serde_json::from_slice::<BTreeMap<String, String>>(&bytes).ok());
        if table.as_ref() != Some(&record.info_table()) {
            report.pending.push("volume.info is to be brought in line with the record".to_owned());
        }
        Ok(())
    }
}
