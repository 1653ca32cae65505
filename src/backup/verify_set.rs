//! The backups of one volume, as their manifests and the listing say: what is wrong with each, and who rests on whom.

use super::catalog::BackupSet;
use super::format::{Extent, Manifest};
use super::restore::check::Fault;
use super::restore::plan::Covered;
use super::verify::Damage;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use uuid::Uuid;

type Member = (BackupSet, Result<Manifest, String>);

/// All complete sets of one volume.
#[derive(Debug)]
pub(super) struct Family {
    members: Vec<Member>,
    by_id: HashMap<Uuid, usize>,
    children: HashMap<Uuid, Vec<Uuid>>,
    /// Of those whose chain is whole.
    sizes: HashMap<Uuid, u64>,
    /// What of the volume each stores.
    covered: HashMap<Uuid, Covered>,
}

impl Family {
    /// In the order of their making.
    pub fn new(members: Vec<Member>) -> Self {
        let (mut by_id, mut covered) = (HashMap::new(), HashMap::new());
        let mut children: HashMap<Uuid, Vec<Uuid>> = HashMap::new();
        for (index, (set, manifest)) in members.iter().enumerate() {
            by_id.insert(set.prefix.backup(), index);
            let Ok(manifest) = manifest else { continue };
            covered.insert(set.prefix.backup(), Covered::by(manifest));
            if let Some(parent) = manifest.parent {
                children.entry(parent).or_default().push(set.prefix.backup());
            }
        }
        let mut family = Family { members, by_id, children, sizes: HashMap::new(), covered };
        family.find_sizes();
        family
    }

    /// Parents first; what goes round, or hangs from nothing, has no size.
    fn find_sizes(&mut self) {
        let full = |(_, manifest): &&Member| matches!(manifest, Ok(Manifest { parent: None, .. }));
        let mut next: Vec<Uuid> =
            self.members.iter().filter(full).map(|(set, _)| set.prefix.backup()).collect();
        while let Some(id) = next.pop() {
            let Some(manifest) = self.manifest(id) else { continue };
            let below = manifest.parent.and_then(|parent| self.sizes.get(&parent)).copied().unwrap_or(0);
            let own = manifest.extents.iter().map(Extent::end).max().unwrap_or(0);
            self.sizes.insert(id, own.max(below));
            next.extend(self.children.get(&id).into_iter().flatten());
        }
    }

    /// What it takes in memory, about: the names, once in the listing and once in a manifest, and what is beside them.
    pub fn memory(&self) -> u64 {
        const EACH: usize = 128;
        let of = |(set, manifest): &Member| {
            let listed = set.objects.iter().map(|object| object.key.len() + EACH).sum::<usize>();
            let named = manifest.iter().flat_map(|m| &m.extents).map(|extent| extent.key.len() + 2 * EACH);
            (listed + named.sum::<usize>()) as u64
        };
        self.members.iter().map(of).sum()
    }

    pub fn all(&self) -> Vec<Uuid> {
        self.members.iter().map(|(set, _)| set.prefix.backup()).collect()
    }

    pub fn member(&self, id: Uuid) -> Option<&Member> {
        self.by_id.get(&id).map(|index| &self.members[*index])
    }

    pub fn manifest(&self, id: Uuid) -> Option<&Manifest> {
        self.member(id).and_then(|(_, manifest)| manifest.as_ref().ok())
    }

    /// The volume's size at a backup, when its chain is whole.
    pub fn size(&self, id: Uuid) -> Option<u64> {
        self.sizes.get(&id).copied()
    }

    /// A backup and what it rests on, as far as it is there.
    pub fn chain(&self, id: Uuid) -> Vec<Uuid> {
        let mut chain = Vec::new();
        let mut next = Some(id);
        while let Some(id) = next.filter(|id| self.by_id.contains_key(id) && !chain.contains(id)) {
            chain.push(id);
            next = self.manifest(id).and_then(|manifest| manifest.parent);
        }
        chain
    }

    /// What is wrong with these, as far as names, sizes and manifests tell.
    pub fn structure(&self, wanted: &[Uuid]) -> Vec<Damage> {
        wanted.iter().flat_map(|id| self.structure_of(*id)).collect()
    }

    fn structure_of(&self, id: Uuid) -> Vec<Damage> {
        let Some((set, manifest)) = self.member(id) else { return Vec::new() };
        let of_manifest = |reason: String| self.damage(id, set.prefix.manifest(), reason, Vec::new());
        let manifest = match manifest {
            Ok(manifest) => manifest,
            Err(reason) => return vec![of_manifest(reason.clone())],
        };
        let mut damage = self.listing(id, set, manifest);
        match manifest.parent {
            Some(parent) if !self.by_id.contains_key(&parent) => {
                let reason =
                    format!("it needs backup {parent}, which is not among the backups of this volume");
                damage.push(of_manifest(reason));
            }
            Some(parent) if self.manifest(parent).is_none() => {
                damage.push(of_manifest(format!("it needs backup {parent}, whose manifest cannot be read")));
            }
            _ if !self.sizes.contains_key(&id) && self.chain_is_round(id) => {
                damage.push(of_manifest("its ancestors go round".to_owned()));
            }
            _ => damage.extend(self.gap(id, manifest).map(of_manifest)),
        }
        damage
    }

    fn chain_is_round(&self, id: Uuid) -> bool {
        let chain = self.chain(id);
        let last = chain.last().and_then(|last| self.manifest(*last)).and_then(|manifest| manifest.parent);
        last.is_some_and(|parent| chain.contains(&parent))
    }

    fn listing(&self, id: Uuid, set: &BackupSet, manifest: &Manifest) -> Vec<Damage> {
        let mut listed: BTreeMap<&str, u64> =
            set.objects.iter().map(|object| (object.key.as_str(), object.size)).collect();
        let mut damage = Vec::new();
        for extent in &manifest.extents {
            let reason = match listed.remove(extent.key.as_str()) {
                None => "it is missing".to_owned(),
                Some(size) if size > extent.length => {
                    format!("it has {size} bytes where at most {} can be right", extent.length)
                }
                Some(_) => continue,
            };
            let range = extent.offset..extent.end();
            damage.push(self.damage(id, extent.key.clone(), reason, vec![range]));
        }
        listed.remove(set.prefix.manifest().as_str());
        let hashes = set.prefix.hashes();
        if listed.remove(hashes.as_str()).is_none() {
            damage.push(self.damage(id, hashes, "it is missing".to_owned(), Vec::new()));
        }
        for key in listed.into_keys() {
            let reason = "the manifest does not name it".to_owned();
            damage.push(self.damage(id, key.to_owned(), reason, Vec::new()));
        }
        damage
    }

    /// Each backup stores all that lies past its parent's end: so by and by all of the volume is stored somewhere.
    fn gap(&self, id: Uuid, manifest: &Manifest) -> Option<String> {
        let size = self.size(id)?;
        let below = manifest.parent.and_then(|parent| self.size(parent)).unwrap_or(0);
        let gap =
            self.covered.get(&id)?.gaps(below..size).into_iter().next().filter(|gap| !gap.is_empty())?;
        Some(format!("no backup stores the bytes {}-{}", gap.start, gap.end))
    }

    /// A damaged object, with who cannot be restored because of it.
    pub fn damage(&self, id: Uuid, object: String, reason: String, ranges: Vec<Range<u64>>) -> Damage {
        let prefix = self.member(id).map(|(set, _)| &set.prefix);
        let affects = match prefix {
            // Only the backup itself is compared with its hash file, and listed under its prefix.
            Some(prefix) if ranges.is_empty() && object != prefix.manifest() => vec![id],
            _ => self.affected(id, &ranges),
        };
        let ranges = ranges.into_iter().map(|range| (range.start, range.end)).collect();
        Damage { backup_id: id, object, reason, ranges, affects }
    }

    /// What faults of chunks are the damage of: by the chunks' names, in their order.
    pub fn damaged_chunks(&self, mut faults: HashMap<String, Fault>) -> Vec<Damage> {
        let mut damage = Vec::with_capacity(faults.len());
        for (set, manifest) in &self.members {
            for extent in manifest.iter().flat_map(|manifest| &manifest.extents) {
                if faults.is_empty() {
                    break;
                }
                let fault = faults.remove(&extent.key);
                damage.extend(
                    fault.and_then(|fault| Some((&extent.key, self.damaged_chunk(set, extent, fault)?))),
                );
            }
        }
        damage.sort_by_key(|(key, _)| *key);
        damage.into_iter().map(|(_, damage)| damage).collect()
    }

    fn damaged_chunk(&self, set: &BackupSet, extent: &Extent, fault: Fault) -> Option<Damage> {
        let (id, key) = (set.prefix.backup(), &extent.key);
        Some(match fault {
            Fault::Gone(_) => return None,
            Fault::Chunk(reason) => self.damage(id, key.clone(), reason, vec![extent.offset..extent.end()]),
            Fault::Hashes(ranges) => {
                let reason = format!("it contradicts {key}, whose md5 is the manifest's");
                let mut damage = self.damage(id, set.prefix.hashes(), reason, Vec::new());
                damage.ranges = ranges.into_iter().map(|range| (range.start, range.end)).collect();
                damage
            }
        })
    }

    /// A backup, and those that are made on it and still need some of these ranges of it; all, when none are given.
    fn affected(&self, id: Uuid, ranges: &[Range<u64>]) -> Vec<Uuid> {
        let mut affected = Vec::new();
        let mut seen = HashSet::new();
        let mut next = vec![(id, ranges.to_vec())];
        while let Some((id, ranges)) = next.pop() {
            if !seen.insert(id) {
                continue;
            }
            affected.push(id);
            for child in self.children.get(&id).into_iter().flatten() {
                let left: Vec<Range<u64>> = match self.covered.get(child) {
                    Some(covered) => ranges.iter().flat_map(|range| covered.gaps(range.clone())).collect(),
                    None => ranges.clone(),
                };
                if ranges.is_empty() || !left.is_empty() {
                    next.push((*child, left));
                }
            }
        }
        affected
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::{Compression, Prefix, ZoneName};
    use super::*;
    use std::time::{Duration, Instant};

    /// Ten backups on a full one, all objects of which are gone; each of them stores all of it anew.
    #[test]
    fn many_objects_are_missing() {
        const OBJECTS: u64 = 5000;
        let volume = Uuid::new_v4();
        let member = |parent: Option<Uuid>| {
            let prefix = Prefix::new(volume, "20261121194302", &ZoneName::default(), Uuid::new_v4());
            let extent = |number: u64| Extent {
                key: prefix.chunk(number + 1),
                // Apart, so that nothing joins.
                offset: number * 1024,
                length: 512,
                compression: Compression::None,
                md5: String::new(),
            };
            let manifest = Manifest {
                prefix: prefix.clone(),
                parent,
                name: None,
                description: None,
                created_at: String::new(),
                volume_meta: None,
                extents: (0..OBJECTS).map(extent).collect(),
            };
            (BackupSet { prefix, objects: Vec::new() }, Ok(manifest))
        };
        let full = member(None);
        let id = full.0.prefix.backup();
        let family = Family::new(std::iter::once(full).chain((0..10).map(|_| member(Some(id)))).collect());
        let begun = Instant::now();
        let damage = family.structure(&[id]);
        let chunks = damage.iter().filter(|damage| !damage.ranges.is_empty());
        assert_eq!(chunks.clone().count() as u64, OBJECTS);
        assert!(chunks.clone().all(|damage| damage.affects == [id]));
        // Not some minutes: what each backup stores is put together once.
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    }
}
