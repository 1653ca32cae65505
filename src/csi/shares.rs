//! The shares of this process: which are open, which are not and why.

use super::lane::{Lane, OnShare, Permit};
use super::placement::Memory;
use crate::gluster::{Share, ShareKey, Source};
use crate::volume::{Error, Tools, Volumes};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tonic::Status;

/// A share as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareSpec {
    /// Where it comes from.
    pub source: Source,
    /// Mount options beyond those that safety demands.
    pub options: Vec<String>,
}

/// Makes shares ready; blocking. The error is for a person.
pub trait OpenShare: Send + Sync {
    /// Mounts and proves a share. Done already: the same answer, once it was seen to be alive.
    fn open(&self, spec: &ShareSpec) -> Result<Share, String>;
}

/// The shares that this process was given.
pub struct Shares {
    specs: Mutex<Vec<ShareSpec>>,
    opener: Arc<dyn OpenShare>,
    tools: Tools,
    state: Mutex<BTreeMap<String, Slot>>,
    lanes: Mutex<BTreeMap<ShareKey, Arc<Lane>>>,
    /// Of calls that need every share: one that hangs holds up all of those, and no others.
    whole: Arc<Lane>,
    pub(super) memory: Memory,
}

/// Every share, and the right to work on them.
pub(super) struct All {
    volumes: Vec<Volumes>,
    _permit: Permit,
}

impl Deref for All {
    type Target = [Volumes];
    fn deref(&self) -> &[Volumes] {
        &self.volumes
    }
}

/// What became of one source.
enum Slot {
    Open(Box<Volumes>),
    Failed(String),
}

impl Shares {
    /// None is open yet: see [`Shares::refresh`].
    pub fn new(specs: Vec<ShareSpec>, opener: Arc<dyn OpenShare>, tools: Tools) -> Self {
        Shares {
            specs: Mutex::new(specs),
            opener,
            tools,
            state: Mutex::default(),
            lanes: Mutex::default(),
            whole: Lane::new("all shares"),
            memory: Memory::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, BTreeMap<String, Slot>> {
        // Changed by whole inserts only.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was configured; each is looked after by itself, so that none waits for another (G1).
    pub fn specs(&self) -> Vec<ShareSpec> {
        self.specs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a share that was configured later. False if it is known already.
    pub fn add(&self, spec: &ShareSpec) -> bool {
        let mut specs = self.specs.lock().unwrap_or_else(PoisonError::into_inner);
        let new = specs.iter().all(|known| known.source != spec.source);
        if new {
            specs.push(spec.clone());
        }
        new
    }

    /// Opens a share that is not open, or looks whether it is still alive. Blocking, perhaps for ever.
    pub fn look(&self, spec: &ShareSpec) {
        let result = self.opener.open(spec);
        self.note(spec, result);
    }

    /// A look, or what follows on it, has not come back: until one does, nobody is sent there.
    pub fn hangs(&self, spec: &ShareSpec, reason: String) {
        self.note(spec, Err(reason));
    }

    fn note(&self, spec: &ShareSpec, result: Result<Share, String>) {
        let name = spec.source.to_string();
        let mut state = self.state();
        match (result, state.get(&name)) {
            (Ok(share), Some(Slot::Open(known)))
                if known.share().key == share.key && known.share().root == share.root => {}
            (Ok(share), _) => {
                tracing::info!(share = name, key = %share.key, "share is open");
                state.insert(name, Slot::Open(Box::new(Volumes::new(share, self.tools.clone()))));
            }
            (Err(reason), known) => {
                if !matches!(known, Some(Slot::Failed(before)) if *before == reason) {
                    tracing::error!(share = name, reason, "share is not usable");
                }
                state.insert(name, Slot::Failed(reason));
            }
        }
    }

    /// The open share of one source.
    pub fn open_one(&self, spec: &ShareSpec) -> Option<Volumes> {
        match self.state().get(&spec.source.to_string()) {
            Some(Slot::Open(volumes)) => Some(Volumes::clone(volumes)),
            _ => None,
        }
    }

    /// A share that has neither been opened nor failed since this process began.
    pub(super) fn unanswered(&self) -> Option<Source> {
        let specs = self.specs();
        let state = self.state();
        specs.into_iter().map(|spec| spec.source).find(|source| !state.contains_key(&source.to_string()))
    }

    /// The open shares; two sources with one key are one share.
    pub fn open(&self) -> Vec<Volumes> {
        let mut by_key = BTreeMap::new();
        for slot in self.state().values() {
            if let Slot::Open(volumes) = slot {
                by_key.entry(volumes.share().key.clone()).or_insert_with(|| Volumes::clone(volumes));
            }
        }
        by_key.into_values().collect()
    }

    /// Why not all shares are open.
    pub(super) fn missing(&self) -> Option<String> {
        let specs = self.specs();
        let state = self.state();
        let reasons: Vec<String> = specs
            .iter()
            .filter_map(|spec| match state.get(&spec.source.to_string()) {
                Some(Slot::Open(_)) => None,
                Some(Slot::Failed(reason)) => Some(format!("{}: {reason}", spec.source)),
                None => Some(format!("{}: it is still being mounted", spec.source)),
            })
            .collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// The volumes of the share with that key. Unknown while a share is away: perhaps that one has it.
    pub(super) fn get(&self, key: &ShareKey) -> Result<OnShare, Status> {
        let found = self.open().into_iter().find(|volumes| volumes.share().key == *key);
        let found = found.ok_or_else(|| match self.missing() {
            Some(missing) => Status::unavailable(format!("share {key} is not usable now ({missing})")),
            None => Error::ShareNotFound { share: key.to_string() }.into(),
        })?;
        self.enter(found)
    }

    /// A share, and the right to work on it.
    pub(super) fn enter(&self, volumes: Volumes) -> Result<OnShare, Status> {
        self.lane(&volumes).on(volumes)
    }

    /// The calls on a share.
    pub(super) fn lane(&self, volumes: &Volumes) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let key = &volumes.share().key;
        let lane = lanes.entry(key.clone()).or_insert_with(|| Lane::new(volumes.share().source.to_string()));
        Arc::clone(lane)
    }

    /// All shares; an error when one is away, so that a listing is never silently short.
    pub(super) fn all(&self) -> Result<All, Status> {
        match self.missing() {
            Some(missing) => Err(Status::unavailable(format!("not all shares are usable now ({missing})"))),
            None => Ok(All { volumes: self.open(), _permit: self.whole.enter()? }),
        }
    }
}

#[cfg(test)]
#[path = "shares_tests.rs"]
mod tests;
