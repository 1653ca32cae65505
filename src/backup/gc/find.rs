//! Finds by their names: what is whose, and how old it is.

use super::{GcItem, GcKind};
use crate::backup::catalog::BackupSet;
use crate::backup::format::Prefix;
use crate::backup::store::{self, ObjectInfo, Unfinished};
use jiff::Timestamp;
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// The set that an object of this name belongs to; none for a name that is not ours.
pub(super) fn owner(key: &str) -> Option<Prefix> {
    let (prefix, _) = Prefix::of_key(key)?;
    let ours = prefix.owns_chunk(key) || key == prefix.hashes() || key == prefix.manifest();
    ours.then_some(prefix)
}

/// Objects by set, probes that were left, and what is none of ours. A name that cannot be asked for cannot be removed
/// either.
pub(super) fn sort(objects: Vec<ObjectInfo>, foreign: &mut Vec<String>) -> (Vec<BackupSet>, Vec<GcItem>) {
    let mut sets: BTreeMap<Prefix, Vec<ObjectInfo>> = BTreeMap::new();
    let mut probes = Vec::new();
    for object in objects {
        match owner(&object.key) {
            Some(prefix) => sets.entry(prefix).or_default().push(object),
            None if store::is_probe(&object.key) => {
                probes.extend(item(GcKind::Probe, object.key.clone(), None, vec![object]));
            }
            None => foreign.push(object.key),
        }
    }
    let sets = sets.into_iter().map(|(prefix, objects)| BackupSet { prefix, objects });
    let (ours, others): (Vec<_>, Vec<_>) =
        sets.partition(|set| set.is_complete() || store::check_key(set.prefix.as_str()).is_ok());
    foreign.extend(others.into_iter().flat_map(|set| set.objects).map(|object| object.key));
    (ours, probes)
}

/// Uploads of ours, and staged files, which have no key; other programs' go to `foreign`.
pub(super) fn claim(uploads: Vec<Unfinished>, foreign: &mut Vec<String>) -> Vec<Unfinished> {
    let (ours, others): (Vec<_>, Vec<_>) =
        uploads.into_iter().partition(|upload| upload.key.is_empty() || owner(&upload.key).is_some());
    foreign.extend(others.into_iter().map(|upload| upload.key));
    ours
}

/// A backup keeps one upload open from its begin to its end, and one that is gone on with keeps old objects: what is
/// written under one prefix is as young as the youngest of it.
pub(super) fn find_newest(found: &mut [GcItem], sets: &[BackupSet]) {
    let mut newest: HashMap<Prefix, Timestamp> = HashMap::new();
    let objects = sets.iter().flat_map(|set| set.objects.iter().map(|object| (&set.prefix, object.modified)));
    let items = found.iter().filter_map(|item| Some((item.written_under.as_ref()?, item.newest)));
    for (prefix, time) in objects.chain(items) {
        let known = newest.entry(prefix.clone()).or_insert(time);
        *known = time.max(*known);
    }
    for item in found {
        let known = item.written_under.as_ref().and_then(|prefix| newest.get(prefix));
        item.newest = known.copied().unwrap_or(item.newest);
    }
}

/// Nothing for no objects.
pub(super) fn item(
    kind: GcKind,
    name: String,
    backup_id: Option<Uuid>,
    found: Vec<ObjectInfo>,
) -> Option<GcItem> {
    let newest = found.iter().map(|object| object.modified).max()?;
    let (objects, bytes) = (found.len() as u64, Some(found.iter().map(|object| object.size).sum()));
    let keys = found.into_iter().map(|object| object.key).collect();
    Some(GcItem {
        kind,
        name,
        backup_id,
        objects,
        bytes,
        newest,
        keys,
        written_under: None,
        unfinished: None,
    })
}

pub(super) fn incomplete(set: &BackupSet) -> Option<GcItem> {
    let (name, backup) = (set.prefix.to_string(), set.prefix.backup());
    let found = item(GcKind::Incomplete, name, Some(backup), set.objects.clone())?;
    Some(GcItem { written_under: Some(set.prefix.clone()), ..found })
}

pub(super) fn unfinished(found: Unfinished) -> GcItem {
    let prefix = owner(&found.key);
    GcItem {
        kind: GcKind::Unfinished,
        // A staged file does not tell what it was to become.
        name: if found.key.is_empty() { found.id.clone() } else { found.key.clone() },
        backup_id: prefix.as_ref().map(Prefix::backup),
        objects: 1,
        bytes: None,
        newest: found.begun,
        keys: Vec::new(),
        written_under: prefix,
        unfinished: Some(found),
    }
}
