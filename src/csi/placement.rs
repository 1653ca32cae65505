//! On which share a volume is made (G3), such that a call that is repeated finds what its first try made.

use super::lane::OnShare;
use super::shares::Shares;
use crate::gluster::ShareKey;
use crate::volume::{Capacity, Error, VolumeId, VolumeKind, Volumes};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tonic::Status;

/// One small file is read: a share that takes longer is treated as one that is away.
const KNOWS: Duration = Duration::from_secs(3);
/// Every record of a share may have to be read: 2,000 take 3 s, once.
const CAPACITY: Duration = Duration::from_secs(10);
/// A sidecar gives up or has its answer long before so many other volumes were asked for.
const REMEMBERED: usize = 4096;

/// What a new volume asks of its share.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wish<'a> {
    /// The share of the snapshot that it is made from: a clone stands on its layers.
    Of(&'a ShareKey),
    /// The one that its class names, by key or source.
    Named(&'a str),
    /// The roomiest.
    Any {
        /// What decides how much room it takes at once.
        kind: VolumeKind,
        /// Bytes.
        size: u64,
    },
}

/// Where volumes were placed lately.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Placed>);

#[derive(Debug, Default)]
struct Placed {
    shares: BTreeMap<VolumeId, ShareKey>,
    order: VecDeque<VolumeId>,
}

impl Memory {
    fn placed(&self) -> MutexGuard<'_, Placed> {
        // A lost entry is what a restart loses as well.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, volume: VolumeId) -> Option<ShareKey> {
        self.placed().shares.get(&volume).cloned()
    }

    pub(super) fn put(&self, volume: VolumeId, share: ShareKey) {
        let mut placed = self.placed();
        if placed.shares.insert(volume, share).is_none() {
            placed.order.push_back(volume);
        }
        if placed.order.len() > REMEMBERED
            && let Some(oldest) = placed.order.pop_front()
        {
            placed.shares.remove(&oldest);
        }
    }
}

impl Shares {
    /// The share for a new volume (G3). A volume of that name wins, on whatever share and in whatever state:
    /// an earlier try of the same call began it, or it is somebody else's name.
    ///
    /// While a share is away or does not answer, it may be the one that an earlier try chose. A dead share must not stop the
    /// provisioning of all others, so only these wait for it (UNAVAILABLE): a volume that this process
    /// remembers to have placed there, and every volume as long as a share has not had its first answer since
    /// this process began. What remains is a share that dies together with this process, between a try and
    /// its repetition: then a second volume is made, the first one stays behind as an empty orphan, and no
    /// data is anywhere but in the volume that was answered with.
    pub(super) fn place(&self, name: &str, wish: Wish<'_>) -> Result<OnShare, Status> {
        let id = VolumeId::from_name(name);
        let (existing, silent) = self.existing(id)?;
        if let Some(existing) = existing {
            return self.enter(self.fitting(name, existing, wish)?);
        }
        let chosen = match wish {
            Wish::Of(key) => self.get(key)?,
            Wish::Named(wanted) => self.enter(self.named(wanted)?)?,
            Wish::Any { kind, size } => {
                self.may_be_new(id, &silent)?;
                self.enter(self.roomiest(kind, size)?)?
            }
        };
        self.memory.put(id, chosen.share().key.clone());
        Ok(chosen)
    }

    /// Whether an open share has a volume of that id. A share that does not answer: UNAVAILABLE when it is placed.
    pub(super) fn has(&self, name: &str) -> Result<bool, Status> {
        Ok(self.existing(VolumeId::from_name(name))?.0.is_some())
    }

    /// The open share that has a volume of that id, and those that did not answer.
    fn existing(&self, id: VolumeId) -> Result<(Option<Volumes>, Vec<ShareKey>), Status> {
        let mut silent = Vec::new();
        for volumes in self.open() {
            let known =
                self.lane(&volumes).glance(&volumes, KNOWS, move |volumes| volumes.knows(id)).transpose()?;
            match known {
                Some(true) => return Ok((Some(volumes), silent)),
                Some(false) => {}
                None => silent.push(volumes.share().key.clone()),
            }
        }
        Ok((None, silent))
    }

    /// The existing volume's share, unless the call asks for another one: then the name is taken.
    fn fitting(&self, name: &str, existing: Volumes, wish: Wish<'_>) -> Result<Volumes, Status> {
        let fits = match wish {
            Wish::Of(key) => existing.share().key == *key,
            Wish::Named(wanted) => is_called(&existing, wanted),
            Wish::Any { .. } => true,
        };
        if fits {
            return Ok(existing);
        }
        Err(Status::already_exists(format!(
            "the volume {name:?} lies on the share {}, and another one was asked for",
            existing.share().source
        )))
    }

    /// No share that is away can have it already, as far as this process can tell.
    fn may_be_new(&self, id: VolumeId, silent: &[ShareKey]) -> Result<(), Status> {
        if let Some(unanswered) = self.unanswered() {
            return Err(Status::unavailable(format!(
                "the share {unanswered} has not answered yet, and may have this volume; ask again"
            )));
        }
        match self.memory.get(id) {
            Some(key) if silent.contains(&key) => Err(Status::unavailable(format!(
                "the share {key} does not answer, and may have this volume; ask again"
            ))),
            Some(key) => self.get(&key).map(drop),
            None => Ok(()),
        }
    }

    /// Of the shares that such a volume fits on, the one with the most free space.
    fn roomiest(&self, kind: VolumeKind, size: u64) -> Result<Volumes, Status> {
        let open = self.some_open()?;
        let fitting = |look: fn(&Volumes) -> Result<Capacity, Error>| -> Result<_, Status> {
            let mut looked = Vec::new();
            for volumes in &open {
                if let Some(capacity) = self.glance_at_capacity(volumes, look)? {
                    looked.push((capacity, volumes));
                }
            }
            if looked.is_empty() {
                return Err(Status::unavailable("no share answers; ask again"));
            }
            looked.sort_by_key(|(capacity, _)| std::cmp::Reverse(capacity.free));
            let fits = looked.iter().find(|(capacity, _)| capacity.available(kind) >= size);
            fits.map(|(_, volumes)| (*volumes).clone()).ok_or_else(|| {
                let figures = looked
                    .iter()
                    .map(|(capacity, volumes)| format!("{}: {capacity}", volumes.share().source));
                let figures: Vec<String> = figures.collect();
                Status::resource_exhausted(format!(
                    "no share has room for {size} bytes ({})",
                    figures.join("; ")
                ))
            })
        };
        // What is remembered may be of before a deletion elsewhere.
        fitting(Volumes::capacity).or_else(|_| fitting(Volumes::capacity_now))
    }

    /// None: the share does not answer.
    pub(super) fn glance_at_capacity(
        &self,
        volumes: &Volumes,
        look: fn(&Volumes) -> Result<Capacity, Error>,
    ) -> Result<Option<Capacity>, Status> {
        Ok(self.lane(volumes).glance(volumes, CAPACITY, look).transpose()?)
    }

    /// The open shares; an error if there is none.
    pub(super) fn some_open(&self) -> Result<Vec<Volumes>, Status> {
        let open = self.open();
        if open.is_empty() {
            return Err(match self.missing() {
                Some(missing) => Status::unavailable(format!("no share is mounted ({missing})")),
                None => Error::NoShare.into(),
            });
        }
        Ok(open)
    }

    /// The share that a class names.
    pub(super) fn named(&self, wanted: &str) -> Result<Volumes, Status> {
        if let Some(volumes) = self.open().into_iter().find(|volumes| is_called(volumes, wanted)) {
            return Ok(volumes);
        }
        match self.missing() {
            Some(missing) => {
                Err(Status::unavailable(format!("share {wanted} is not usable now ({missing})")))
            }
            None => Err(Status::invalid_argument(format!(
                "the StorageClass names the share {wanted:?}, which is none of this driver's shares"
            ))),
        }
    }
}

fn is_called(volumes: &Volumes, name: &str) -> bool {
    volumes.share().key.as_str() == name || volumes.share().source.to_string() == name
}
