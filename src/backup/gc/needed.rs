//! Sets without a manifest that a backup may rest on: a manifest that was lost, or that a deletion is about to put
//! back, comes back, but chunks that were swept do not.

use crate::backup::catalog::BackupSet;
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// What the manifests say of who rests on whom.
#[derive(Debug, Default)]
pub(super) struct Needed {
    /// Volumes that have a backup of which it is not known what it rests on.
    unclear: HashSet<Uuid>,
    /// By volume, what its backups rest on.
    parents: HashMap<Uuid, HashSet<Uuid>>,
    read: HashSet<Uuid>,
}

impl Needed {
    /// A backup whose manifest was read.
    pub fn read(&mut self, set: &BackupSet, parent: Option<Uuid>) {
        self.read.insert(set.prefix.backup());
        self.parents.entry(set.prefix.volume()).or_default().extend(parent);
    }

    /// One whose manifest cannot be read, or is gone since it was listed.
    pub fn unread(&mut self, set: &BackupSet) {
        self.unclear.insert(set.prefix.volume());
    }

    /// Whether a set without manifest must stay. Where a parent has lost its manifest, that one's parent is not
    /// known either: then any set of the volume may be it.
    pub fn keeps(&self, set: &BackupSet) -> bool {
        let volume = set.prefix.volume();
        let parents = self.parents.get(&volume);
        let is_unclear =
            self.unclear.contains(&volume) || parents.is_some_and(|parents| !parents.is_subset(&self.read));
        is_unclear && !self.read.contains(&set.prefix.backup())
    }
}
