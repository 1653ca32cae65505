//! What a volume was made from, so that what is stored of that need not be stored by reading it once more.

use super::backup_handle::BackupHandle;
use super::delta_since::{MAX_STEPS, StateId};
use super::id::{LayerId, VolumeId};
use super::pin::Pinned;
use super::restore::backup_of;
use super::view::VolumeSource;

/// Something that a volume was made from, itself or over others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ancestor {
    /// Another volume, and its states on the way back, the latest first: what changed since each is known. None: the
    /// way to it is not known.
    Volume {
        /// Which.
        volume: VolumeId,
        /// Its states.
        states: Vec<StateId>,
    },
    /// A backup, and the state that holds just what it holds, if the way to that is known.
    Backup {
        /// Which.
        backup: BackupHandle,
        /// The volume that was restored, as it began.
        state: Option<StateId>,
    },
}

impl Pinned {
    /// What the volume was made from, the latest first. Goes all the way back, a file for each step, but for a volume
    /// that was made from nothing.
    pub fn ancestors(&self) -> Vec<Ancestor> {
        let Some(source) = &self.volume.source else { return Vec::new() };
        let own = self.volume.handle.volume;
        let mut at = self.links[0].layer.state(self.links[0].volume);
        let mut found: Vec<(VolumeId, Vec<StateId>)> = Vec::new();
        for _ in 0..MAX_STEPS {
            let state = StateId { incarnation: at.incarnation, layer: at.layer.uuid() };
            match found.last_mut().filter(|(volume, _)| *volume == at.volume) {
                Some((_, states)) => states.push(state),
                None => found.push((at.volume, vec![state])),
            }
            match self.step(at) {
                Ok(delta) => at = delta.from,
                Err(_) => break,
            }
        }
        found.retain(|(volume, _)| *volume != own);
        if let Some(volume) = source.volume().map(|handle| handle.volume)
            && !found.iter().any(|(known, _)| *known == volume)
        {
            found.insert(0, (volume, Vec::new()));
        }
        let as_ancestor = |(volume, states)| Ancestor::Volume { volume, states };
        let mut ancestors: Vec<Ancestor> = found.into_iter().map(as_ancestor).collect();
        let restored = self.volumes.read(at.volume).ok().flatten().and_then(|record| backup_of(&record));
        let first =
            |backup: &BackupHandle| LayerId::of_restored(at.incarnation, &backup.to_string()) == at.layer;
        if let Some(backup) = restored.filter(first) {
            let state = Some(StateId { incarnation: at.incarnation, layer: at.layer.uuid() });
            ancestors.push(Ancestor::Backup { backup, state });
        } else if let VolumeSource::Backup(backup) = source {
            ancestors.push(Ancestor::Backup { backup: backup.clone(), state: None });
        }
        ancestors
    }
}
