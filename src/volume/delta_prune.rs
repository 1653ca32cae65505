//! Deltas of states that no layer holds any more (tombstones) are kept within limits.
//!
//! One that goes is folded into those that begin where it ends: the way past it stays whole, and only the state itself
//! can no longer be asked for. First the longer deltas are written, then the file goes: in between, and after a
//! crash there, it leads nowhere and is removed by the next round.

use super::delta::Kept;
use super::delta_file::{At, Delta};
use super::error::Error;
use super::id::{LayerId, VolumeId};
use super::references::{entries, list_ids};
use super::repair::RepairReport;
use super::steps::{Step, reached};
use super::store::{Locked, exists, remove_file};
use super::volumes::Volumes;
use jiff::Timestamp;
use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

const DAY: u64 = 86_400;

/// What is read of each delta.
struct Known {
    layer: LayerId,
    /// None: it is damaged.
    ends: Option<(At, At)>,
    made_at: i64,
}

impl Volumes {
    /// Forgets tombstones past the limits. By whoever has the turn to merge: a layer that goes meanwhile would be
    /// counted wrongly.
    pub(super) fn prune_deltas(&self, volume: VolumeId) -> Result<(), Error> {
        let Some(record) = self.read(volume)? else { return Ok(()) };
        let layers: Vec<LayerId> = list_ids(&self.layout.deltas(volume))?;
        let living: HashSet<LayerId> = record.layers.iter().map(|layer| layer.id).collect();
        let gone: Vec<LayerId> = layers.iter().copied().filter(|layer| !living.contains(layer)).collect();
        if !self.is_due(volume, &gone) {
            return Ok(());
        }
        let mut known =
            layers.iter().map(|layer| self.known(volume, *layer)).collect::<Result<Vec<_>, _>>()?;
        for layer in self.too_many(&known, &living) {
            self.fold(volume, layer, &mut known)?;
        }
        Ok(())
    }

    /// A look at names and times alone: reading a thousand files over the network takes more than a second.
    fn is_due(&self, volume: VolumeId, gone: &[LayerId]) -> bool {
        let policy = self.tools.policy;
        let oldest = Duration::from_secs(policy.tombstone_days.saturating_mul(DAY));
        let is_old = |layer: &LayerId| {
            let modified = std::fs::metadata(self.layout.delta(volume, *layer)).and_then(|m| m.modified());
            modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > oldest))
        };
        gone.len() > policy.tombstones || gone.iter().any(is_old)
    }

    fn known(&self, volume: VolumeId, layer: LayerId) -> Result<Known, Error> {
        Ok(match self.delta(volume, layer)? {
            Kept::Whole(delta) => Known { layer, ends: Some((delta.from, delta.to)), made_at: delta.made_at },
            Kept::Damaged(_) | Kept::Nothing => Known { layer, ends: None, made_at: i64::MIN },
        })
    }

    /// The tombstones that have to go, oldest first; somewhat more than must, so that this is not done each time.
    fn too_many(&self, known: &[Known], living: &HashSet<LayerId>) -> Vec<LayerId> {
        let policy = self.tools.policy;
        let mut gone: Vec<&Known> = known.iter().filter(|known| !living.contains(&known.layer)).collect();
        gone.sort_by_key(|known| known.made_at);
        let stay = if gone.len() > policy.tombstones { policy.tombstones / 8 * 7 } else { gone.len() };
        let age = i64::try_from(policy.tombstone_days.saturating_mul(DAY)).unwrap_or(i64::MAX);
        let before = Timestamp::now().as_second().saturating_sub(age);
        let over = gone.len() - stay;
        let old = gone.iter().take_while(|known| known.made_at < before).count();
        gone.iter().take(over.max(old)).map(|known| known.layer).collect()
    }

    fn fold(&self, volume: VolumeId, layer: LayerId, known: &mut [Known]) -> Result<(), Error> {
        if let Kept::Whole(folded) = self.delta(volume, layer)? {
            for later in known.iter_mut() {
                let Some((from, _)) = &mut later.ends else { continue };
                if !from.same_state(&folded.to) {
                    continue;
                }
                if let Kept::Whole(mut delta) = self.delta(volume, later.layer)? {
                    delta.follow(&folded);
                    *from = delta.from;
                    self.keep_longer(&delta)?;
                    reached(Step::DeltaFolded);
                }
            }
        }
        remove_file(&self.layout.delta(volume, layer))
    }

    /// It is as old as before: by that its own turn comes.
    fn keep_longer(&self, delta: &Delta) -> Result<(), Error> {
        self.keep_delta(delta)?;
        let path = self.layout.delta(delta.to.volume, delta.to.layer);
        let made = SystemTime::UNIX_EPOCH + Duration::from_secs(delta.made_at.max(0) as u64);
        let file = std::fs::File::options().write(true).open(&path).map_err(Error::io("open", &path))?;
        file.set_modified(made).map_err(Error::io("date", path))
    }

    /// The files among a volume's deltas that go when it goes; None if something there is not ours.
    pub(super) fn delta_files(&self, volume: VolumeId) -> Result<Option<Vec<PathBuf>>, Error> {
        let files = entries(&self.layout.deltas(volume))?;
        let ours = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let temporary = name.starts_with('.') && name.ends_with(".tmp");
            temporary || name.parse::<LayerId>().is_ok()
        };
        Ok(files.iter().all(ours).then_some(files))
    }
}

impl Volumes {
    /// Removes all deltas of a volume.
    pub(super) fn forget_all_deltas(&self, volume: VolumeId) -> Result<(), Error> {
        let layers: Vec<LayerId> = list_ids(&self.layout.deltas(volume))?;
        layers.into_iter().try_for_each(|layer| remove_file(&self.layout.delta(volume, layer)))
    }
}

impl Locked<'_> {
    /// Removes deltas that cannot be read, and what is left of those that were not written to the end.
    pub(super) fn remove_damaged_deltas(&self, report: &mut RepairReport) -> Result<(), Error> {
        let id = self.id();
        for path in entries(&self.volumes.layout.deltas(id))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let damaged = match name.parse::<LayerId>() {
                Ok(layer) => matches!(self.volumes.delta(id, layer)?, Kept::Damaged(_)),
                Err(_) => name.starts_with('.') && name.ends_with(".tmp"),
            };
            if damaged {
                self.fence()?;
                remove_file(&path)?;
                report.done.push(format!("deltas/{name}, which could not be read, was removed"));
            }
        }
        Ok(())
    }

    /// Removes the deltas of layers that were freed. Nothing stood on them: no way goes over them, unless one that
    /// comes from a clone which has got a copy of its own since.
    pub(super) fn forget_deltas(&self, freed: &[LayerId]) -> Result<(), Error> {
        for layer in freed {
            let path = self.volumes.layout.delta(self.id(), *layer);
            if exists(&path)? {
                self.fence()?;
                remove_file(&path)?;
            }
        }
        Ok(())
    }
}
