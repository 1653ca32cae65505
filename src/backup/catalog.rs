//! Finds backups in a repository, and the chains that they form. A set without a manifest is no backup.

use super::error::{
    BackupError, BadChainSnafu, IncompleteSnafu, MissingObjectSnafu, NoParentSnafu, NoSuchBackupSnafu,
    SurplusObjectSnafu,
};
use super::format::{HashList, Manifest, Prefix};
use super::hash_reader::HashReader;
use super::store::{ObjectInfo, Store, StoreError};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use snafu::{OptionExt, ensure};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use uuid::Uuid;

/// A manifest beside its chunks: ids, texts for people, the volume's metadata. Cinder's own texts have 255 letters.
const MANIFEST_HEAD: u64 = 4 << 20;
/// A chunk in a manifest: its name (900 bytes at most, each of them escaped in the worst case) and four numbers.
const MANIFEST_ENTRY: u64 = 6 << 10;
/// Hashes read at a time.
const HASHES: u64 = 1 << 15;

/// One backup's objects, as listed.
#[derive(Clone, Debug)]
pub struct BackupSet {
    /// What their names begin with.
    pub prefix: Prefix,
    /// All of them, in order, manifest and hashes included.
    pub objects: Vec<ObjectInfo>,
}

impl BackupSet {
    /// Whether it has its manifest.
    pub fn is_complete(&self) -> bool {
        let manifest = self.prefix.manifest();
        self.objects.iter().any(|object| object.key == manifest)
    }

    /// More bytes than a manifest of this set can have: it names its chunks, and they were listed. A larger one is
    /// refused before it is read.
    pub(super) fn manifest_limit(&self) -> u64 {
        MANIFEST_HEAD + MANIFEST_ENTRY * self.objects.len() as u64
    }

    /// Bytes in the repository.
    pub fn stored_bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.size).sum()
    }
}

/// Of each backup the set that counts, in order. A rebase that was broken off just before its end leaves two complete
/// ones: the later name is the new one, and it was completed last.
pub fn current(sets: &[BackupSet]) -> Vec<&BackupSet> {
    let mut latest: HashMap<Uuid, &Prefix> = HashMap::new();
    for set in sets.iter().filter(|set| set.is_complete()) {
        let known = latest.entry(set.prefix.backup()).or_insert(&set.prefix);
        *known = (*known).max(&set.prefix);
    }
    sets.iter().filter(|set| latest.get(&set.prefix.backup()) == Some(&&set.prefix)).collect()
}

/// A backup's set: the complete one that counts, else what there is of it.
pub(super) fn find(sets: &[BackupSet], backup: Uuid) -> Option<&BackupSet> {
    let of_it = || sets.iter().filter(|set| set.prefix.backup() == backup);
    of_it().filter(|set| set.is_complete()).max_by_key(|set| &set.prefix).or_else(|| of_it().next())
}

/// A backup and all that it rests on.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The wanted backup first, the full one last.
    pub links: Vec<(BackupSet, Manifest)>,
}

impl Chain {
    /// The wanted backup.
    pub fn newest(&self) -> &Manifest {
        &self.links[0].1
    }

    /// The volume's size at the wanted backup. The format does not store it, but the full backup
    /// stores every byte and an incremental one every byte that was added.
    pub fn size(&self) -> u64 {
        self.links.iter().flat_map(|(_, m)| &m.extents).map(|extent| extent.end()).max().unwrap_or(0)
    }
}

/// Reads a repository.
#[derive(Clone, Debug)]
pub struct Catalog {
    store: Arc<dyn Store>,
}

impl Catalog {
    /// Over a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Catalog { store }
    }

    /// What is read.
    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Every set, complete or not, of one volume or of all: in order of volume, then time.
    pub async fn sets(&self, volume: Option<Uuid>) -> Result<Vec<BackupSet>, BackupError> {
        let under = volume.map(Prefix::of_volume).unwrap_or_else(|| "volume_".to_owned());
        let mut sets: BTreeMap<Prefix, Vec<ObjectInfo>> = BTreeMap::new();
        for object in self.store.list(&under).await? {
            if let Some((prefix, _)) = Prefix::of_key(&object.key) {
                sets.entry(prefix).or_default().push(object);
            }
        }
        Ok(sets.into_iter().map(|(prefix, objects)| BackupSet { prefix, objects }).collect())
    }

    /// The newest complete backup of a volume.
    pub async fn latest(&self, volume: Uuid) -> Result<Option<Uuid>, BackupError> {
        let newest = self.newest(&self.sets(Some(volume)).await?).await?;
        Ok(newest.map(|(backup, _)| backup))
    }

    /// The newest complete backup among these, and its manifest if that can be read. Names have whole seconds, and a
    /// rebase changes them to later ones: the manifest tells when a backup was made. What is named before the newest
    /// that was read is older, and not read.
    pub(super) async fn newest(
        &self,
        sets: &[BackupSet],
    ) -> Result<Option<(Uuid, Option<Manifest>)>, BackupError> {
        let mut sets = current(sets);
        sets.sort_by_cached_key(|set| Reverse(named_time(&set.prefix)));
        let mut newest: Option<(Timestamp, Uuid, Option<Manifest>)> = None;
        for set in sets {
            let named = named_time(&set.prefix);
            let begun_before = |created: Timestamp| named.is_some_and(|named| named + 1.second() <= created);
            if newest.as_ref().is_some_and(|(created, ..)| begun_before(*created)) {
                continue;
            }
            let manifest = match self.manifest(set).await {
                Ok(manifest) => Some(manifest),
                Err(e) if e.is_about_the_set() => None,
                Err(e) => return Err(e),
            };
            let told = manifest.as_ref().and_then(|manifest| manifest.created_at.parse().ok());
            let (created, backup) = (told.or(named).unwrap_or(Timestamp::UNIX_EPOCH), set.prefix.backup());
            if newest.as_ref().is_none_or(|(known, id, _)| (created, backup) > (*known, *id)) {
                newest = Some((created, backup, manifest));
            }
        }
        Ok(newest.map(|(_, backup, manifest)| (backup, manifest)))
    }

    /// Reads a set's manifest.
    pub async fn manifest(&self, set: &BackupSet) -> Result<Manifest, BackupError> {
        ensure!(set.is_complete(), IncompleteSnafu { backup: set.prefix.backup() });
        let bytes = self.store.get(&set.prefix.manifest(), set.manifest_limit()).await?;
        let prefix = set.prefix.clone();
        super::blocking(move || Ok(Manifest::parse(&prefix, &bytes)?)).await
    }

    /// Reads a set's hashes, all at once: what goes through a volume takes them bit by bit.
    pub async fn hashes(&self, prefix: &Prefix) -> Result<HashList, BackupError> {
        let mut reader = HashReader::open(self, prefix).await?;
        let (block, mut digests) = (reader.block(), Vec::new());
        loop {
            let at = digests.len() as u64;
            let next = reader.take(at..at + HASHES).await?;
            if next.is_empty() {
                break;
            }
            digests.extend(next);
        }
        reader.finish().await?;
        Ok(HashList { block, digests })
    }

    /// The chain of a backup, each manifest read and compared with the listing.
    pub async fn chain(&self, backup: Uuid) -> Result<Chain, BackupError> {
        let chain = self.manifests(backup).await?;
        chain.links.iter().try_for_each(|(set, manifest)| check_listing(set, manifest))?;
        Ok(chain)
    }

    /// The same of a backup that is known to be of this volume: only that one's objects are listed.
    pub(super) async fn chain_of(&self, volume: Uuid, backup: Uuid) -> Result<Chain, BackupError> {
        self.chain_in(&self.sets(Some(volume)).await?, backup, None).await
    }

    /// The same among these sets; its own manifest may have been read already.
    pub(super) async fn chain_in(
        &self,
        sets: &[BackupSet],
        backup: Uuid,
        manifest: Option<Manifest>,
    ) -> Result<Chain, BackupError> {
        let chain = self.manifests_in(backup, |id| find(sets, id).cloned(), manifest).await?;
        chain.links.iter().try_for_each(|(set, manifest)| check_listing(set, manifest))?;
        Ok(chain)
    }

    /// The chain of a backup as its manifests say, whether or not their objects are there.
    pub(super) async fn manifests(&self, backup: Uuid) -> Result<Chain, BackupError> {
        self.manifests_of(None, backup).await
    }

    /// The same; of one volume or of any.
    pub(super) async fn manifests_of(&self, of: Option<Uuid>, backup: Uuid) -> Result<Chain, BackupError> {
        let mut sets = self.sets(of).await?;
        // Taken, not copied: a set may have hundreds of thousands of names.
        let take = |id| {
            let prefix = &find(&sets, id)?.prefix;
            let at = sets.iter().position(|set| set.prefix == *prefix)?;
            Some(sets.remove(at))
        };
        self.manifests_in(backup, take, None).await
    }

    /// `take` gives a backup's set, and is asked once for each.
    async fn manifests_in(
        &self,
        backup: Uuid,
        mut take: impl FnMut(Uuid) -> Option<BackupSet>,
        mut manifest: Option<Manifest>,
    ) -> Result<Chain, BackupError> {
        let mut volume = None;
        let mut links = Vec::new();
        let mut seen = HashSet::new();
        let mut next = Some(backup);
        while let Some(id) = next {
            ensure!(seen.insert(id), BadChainSnafu { backup, reason: format!("{id} is its own ancestor") });
            let child = links.last().map(|(set, _): &(BackupSet, Manifest)| set.prefix.backup());
            let set = match (take(id), child) {
                (Some(set), None) => set,
                (None, None) => return NoSuchBackupSnafu { backup }.fail(),
                (Some(set), Some(_)) if set.is_complete() => set,
                (_, Some(child)) => return NoParentSnafu { backup: child, parent: id }.fail(),
            };
            let (theirs, ours) = (set.prefix.volume(), *volume.get_or_insert(set.prefix.volume()));
            let other = format!("{id} is a backup of volume {theirs}, not of {ours}");
            ensure!(theirs == ours, BadChainSnafu { backup, reason: other });
            let manifest = match manifest.take() {
                Some(manifest) => manifest,
                None => self.manifest(&set).await?,
            };
            next = manifest.parent;
            links.push((set, manifest));
        }
        Ok(Chain { links })
    }
}

/// The listing is exactly the manifest's chunks and the two files: nothing missing, nothing more.
pub(super) fn check_listing(set: &BackupSet, manifest: &Manifest) -> Result<(), BackupError> {
    let backup = set.prefix.backup();
    let mut listed: BTreeMap<&str, u64> = set.objects.iter().map(|o| (o.key.as_str(), o.size)).collect();
    for extent in &manifest.extents {
        let size = listed.remove(extent.key.as_str());
        let size = size.context(MissingObjectSnafu { backup, key: &extent.key })?;
        // Only what shrinks is stored compressed: more bytes than declared are none of ours.
        if size > extent.length {
            return Err(StoreError::TooLarge { key: extent.key.clone(), size, limit: extent.length }.into());
        }
    }
    for key in [set.prefix.hashes(), set.prefix.manifest()] {
        ensure!(listed.remove(key.as_str()).is_some(), MissingObjectSnafu { backup, key });
    }
    match listed.first_key_value() {
        None => Ok(()),
        Some((key, _)) => SurplusObjectSnafu { backup, key: *key }.fail(),
    }
}

/// The time in a name, if its digits are one.
pub(super) fn named_time(prefix: &Prefix) -> Option<Timestamp> {
    let time = DateTime::strptime("%Y%m%d%H%M%S", prefix.as_str().split('/').nth(1)?).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}
