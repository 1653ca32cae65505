//! This node's registrations: renewed, and refused where another machine goes by the same name.
//!
//! A node is told from its namesakes by an id that it keeps on its own disk. Clocks of two machines need not agree, so
//! whether a namesake lives is told by its heartbeat changing while we watch, not by its age.

use super::error::{Error, NodeTakenSnafu};
use super::id::NodeId;
use super::layout::Layout;
use super::nodes::{self, NodeRecord, SILENT_AFTER};
use super::store::{read_if_exists, remove_file};
use super::volumes::Volumes;
use crate::gluster::ShareKey;
use crate::host::fsio;
use jiff::Timestamp;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Registers one node process on its shares.
pub struct Registrar {
    /// What is written, but for heartbeat and epoch.
    own: NodeRecord,
    shares: Mutex<HashMap<ShareKey, Standing>>,
    silent_after: Duration,
}

/// How things stand on one share.
#[derive(Default)]
struct Standing {
    /// The namesake's last heartbeat, and when we saw it first.
    seen: Option<(Timestamp, Instant)>,
    refused: Option<NodeRecord>,
}

impl Registrar {
    /// Of a node whose state lies in `dir`, and whose agent listens at `agent`.
    pub fn new(node: NodeId, agent: String, dir: &Path) -> Result<Self, Error> {
        let mut own = NodeRecord::now(node, agent);
        own.home = home(dir)?;
        own.instance = Uuid::new_v4().to_string();
        own.boot = kernel("random/boot_id");
        own.host = kernel("hostname");
        Ok(Registrar { own, shares: Mutex::default(), silent_after: SILENT_AFTER })
    }

    /// Of a node that takes so many volumes.
    pub fn with_limit(mut self, max_volumes: usize) -> Self {
        self.own.max_volumes = Some(max_volumes);
        self
    }

    fn standing(&self) -> MutexGuard<'_, HashMap<ShareKey, Standing>> {
        // Whole values only.
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says on a share that this node lives. Refused while another machine does so by the same name. `answers` tells
    /// whether an agent of this machine is there.
    pub fn beat(&self, volumes: &Volumes, answers: impl Fn(&str) -> bool) -> Result<(), Error> {
        self.beat_on(volumes.layout(), &volumes.share().key, answers)
    }

    fn beat_on(&self, layout: &Layout, key: &ShareKey, answers: impl Fn(&str) -> bool) -> Result<(), Error> {
        let found = self.found(layout)?;
        if let Some(other) = found.as_ref().filter(|found| self.is_another(found, &answers)) {
            if self.lives(key, other) {
                self.standing().entry(key.clone()).or_default().refused = Some(other.clone());
                return Err(self.taken(other));
            }
            tracing::warn!(node = %self.own.node, host = other.host, "a machine that went by this name is gone");
        }
        let epoch = match &found {
            Some(found) if found.instance == self.own.instance => found.epoch,
            found => found.as_ref().map_or(1, |found| found.epoch + 1),
        };
        nodes::register(layout, &NodeRecord { heartbeat: Timestamp::now(), epoch, ..self.own.clone() })?;
        self.standing().insert(key.clone(), Standing::default());
        Ok(())
    }

    /// An error while another machine goes by this node's name there.
    pub fn allows(&self, share: &ShareKey) -> Result<(), Error> {
        match self.standing().get(share).and_then(|standing| standing.refused.as_ref()) {
            Some(other) => Err(self.taken(other)),
            None => Ok(()),
        }
    }

    /// Takes the registration away, if it is this node's.
    pub fn leave(&self, volumes: &Volumes) -> Result<(), Error> {
        self.leave_on(volumes.layout())
    }

    fn leave_on(&self, layout: &Layout) -> Result<(), Error> {
        match self.found(layout)? {
            Some(found) if found.home == self.own.home => remove_file(&layout.node(&self.own.node)),
            _ => Ok(()),
        }
    }

    fn found(&self, layout: &Layout) -> Result<Option<NodeRecord>, Error> {
        match nodes::get(layout, &self.own.node) {
            Err(Error::NodeNotFound { .. }) => Ok(None),
            found => found.map(Some),
        }
    }

    /// Not this machine, nor a driver on it that is gone.
    fn is_another(&self, found: &NodeRecord, answers: &impl Fn(&str) -> bool) -> bool {
        let here = found.boot == self.own.boot && !found.boot.is_empty();
        let gone = here && (found.agent == self.own.agent || !answers(&found.agent));
        found.home != self.own.home && !found.home.is_empty() && !gone
    }

    fn lives(&self, key: &ShareKey, other: &NodeRecord) -> bool {
        let mut standing = self.standing();
        let seen = &mut standing.entry(key.clone()).or_default().seen;
        match seen {
            Some((heartbeat, since)) if *heartbeat == other.heartbeat => since.elapsed() < self.silent_after,
            _ => {
                *seen = Some((other.heartbeat, Instant::now()));
                true
            }
        }
    }

    fn taken(&self, other: &NodeRecord) -> Error {
        NodeTakenSnafu { node: other.node.clone(), host: other.host.clone(), agent: other.agent.clone() }
            .build()
    }
}

/// The id that this node keeps; made at its first start.
fn home(dir: &Path) -> Result<String, Error> {
    let path = dir.join("home");
    if let Some(bytes) = read_if_exists(&path).map_err(Error::io("read", &path))?
        && let Ok(id) = String::from_utf8_lossy(&bytes).trim().parse::<Uuid>()
    {
        return Ok(id.to_string());
    }
    let id = Uuid::new_v4().to_string();
    fsio::write_atomic(&path, id.as_bytes())?;
    Ok(id)
}

/// For people, and to tell this machine's own processes: without it, nothing is taken for gone.
fn kernel(name: &str) -> String {
    let text = std::fs::read_to_string(Path::new("/proc/sys/kernel").join(name)).unwrap_or_default();
    text.trim().to_owned()
}

#[cfg(test)]
#[path = "registrar_tests.rs"]
mod tests;
