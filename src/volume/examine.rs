//! One volume as its users may see it, and how it is.

use super::error::{Error, VolumeNotFoundSnafu};
use super::health::{Health, Reason};
use super::id::VolumeId;
use super::record::State;
use super::view::VolumeView;
use super::volumes::Volumes;
use snafu::ensure;

/// A volume that was looked at.
#[derive(Clone, Debug)]
pub struct Examined {
    /// What its record says; None if that cannot be read.
    pub view: Option<VolumeView>,
    /// How it is.
    pub health: Health,
}

impl Volumes {
    /// Looks at a ready volume, its files and their headers. What is wrong with it is in the answer.
    pub fn examine(&self, id: VolumeId) -> Result<Examined, Error> {
        let record = match self.read(id) {
            Err(error @ Error::DamagedRecord { .. }) => {
                let health = Health::abnormal(Reason::RecordDamaged, error);
                return Ok(Examined { view: None, health });
            }
            record => record?,
        };
        let record = record.filter(|record| record.state == State::Ready);
        ensure!(record.is_some(), VolumeNotFoundSnafu { volume: id });
        let view = record.map(|record| self.view(&record));
        let problems = self.inspect(id)?.problems;
        let health = match problems.as_slice() {
            [] => Health::Sound,
            problems => Health::abnormal(Reason::ImageDamaged, problems.join("; ")),
        };
        Ok(Examined { view, health })
    }
}
