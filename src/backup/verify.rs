//! Verifying backups where they are: listings against manifests, chains, hash files, and when asked the chunks
//! themselves (K12, X7). Each object is read once, however many backups rest on it.

use super::catalog::{BackupSet, Catalog, current};
use super::engine::Engine;
use super::error::{BackupError, ChangedSnafu, IncompleteSnafu, NoSuchBackupSnafu};
use super::format::{Extent, Manifest, Prefix};
use super::restore::changed::gone;
use super::restore::check::{Fault, Job};
use super::restore::chunk::Chunk;
use super::restore::flow::{Flow, Sink, Tally};
use super::verify_read::verify_family;
use super::verify_set::Family;
use super::{Cancel, Limits, Progress};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use snafu::{OptionExt, ensure};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::Semaphore;
use uuid::Uuid;

/// Manifests read at a time, and objects that those may name: the text of a manifest is larger than what is kept of it.
const READS: usize = 8;
const NAMED: usize = 20_000;

/// Which backups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// This one, and what it rests on.
    Backup(Uuid),
    /// All of a volume.
    Volume(Uuid),
    /// All of the repository.
    All,
}

/// How to verify.
#[derive(Clone, Copy, Debug)]
pub struct VerifyOptions {
    /// Which backups.
    pub which: Which,
    /// Which part of the chunks is read, 0 to 1.
    pub data: f64,
    /// Chooses the part.
    pub seed: u64,
    /// How much at a time.
    pub limits: Limits,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Whose object it is.
    pub backup_id: Uuid,
    /// Its key.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
    /// What of the volume it holds: `[start, end]`, the end not included. Nothing for what is no chunk.
    pub ranges: Vec<(u64, u64)>,
    /// The backups that cannot be restored whole because of it.
    pub affects: Vec<Uuid>,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyReport {
    /// Nothing is damaged, as far as it was looked at.
    pub good: bool,
    /// Backups looked at.
    pub backups: Vec<Uuid>,
    /// Sets without a manifest: broken off, or being made. They are no backups, and no damage.
    pub incomplete: Vec<Uuid>,
    /// Rebased or deleted while they were read: nothing is said of these.
    pub changed: Vec<Uuid>,
    /// Their chunks.
    pub objects: u64,
    /// Those that were read.
    pub objects_read: u64,
    /// Bytes of the volumes that were checked.
    pub bytes_checked: u64,
    /// Got from the repository; the hashes and the manifests are not counted.
    pub bytes_fetched: u64,
    /// Which part of the chunks was to be read, and what chose it.
    pub sample: f64,
    /// The seed of that choice.
    pub seed: u64,
    /// All that is not as it should be.
    pub damage: Vec<Damage>,
    /// The most that chunks took in memory at a time.
    pub memory_peak: u64,
    /// From begin to end.
    pub seconds: f64,
}

/// What the chunks that were read turned out to be.
#[derive(Default)]
pub(super) struct Findings {
    progress: Progress,
    bytes: Mutex<u64>,
    faults: Mutex<HashMap<String, Fault>>,
    gone: Mutex<BTreeSet<Uuid>>,
}

impl Findings {
    fn count(&self, job: &Job) {
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) += job.extent.length;
        self.progress.add_done(job.extent.length);
    }
}

impl Sink for Findings {
    fn wants<'a>(&'a self, _: &'a Job) -> &'a [Range<u64>] {
        &[]
    }

    fn take(&self, job: &Job, _: &Chunk) -> Result<(), BackupError> {
        self.count(job);
        Ok(())
    }

    fn lost(&self, job: &Job, fault: Fault) -> Result<(), BackupError> {
        self.count(job);
        if let Fault::Gone(backup) = fault {
            self.gone.lock().unwrap_or_else(PoisonError::into_inner).insert(backup);
            return Ok(());
        }
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.insert(job.extent.key.clone(), fault);
        Ok(())
    }
}

impl Engine {
    /// Verifies backups. What is damaged is an answer; an error is a store that fails, or a backup that is not there.
    /// The progress' total grows with each volume that is begun.
    pub async fn verify(
        &self,
        options: &VerifyOptions,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<VerifyReport, BackupError> {
        let started = Instant::now();
        let catalog = self.catalog();
        let mut report = VerifyReport {
            good: false,
            backups: Vec::new(),
            incomplete: Vec::new(),
            changed: Vec::new(),
            objects: 0,
            objects_read: 0,
            bytes_checked: 0,
            bytes_fetched: 0,
            sample: options.data,
            seed: options.seed,
            damage: Vec::new(),
            memory_peak: 0,
            seconds: 0.0,
        };
        let mut total = 0;
        for (volume, sets) in cancel.or(by_volume(&catalog, options.which)).await? {
            cancel.check()?;
            let (complete, begun): (Vec<_>, Vec<_>) = sets.into_iter().partition(BackupSet::is_complete);
            if options.which == Which::All || options.which == Which::Volume(volume) {
                report.incomplete.extend(begun.iter().map(|set| set.prefix.backup()));
            }
            let family = cancel.or(read_family(&catalog, complete)).await?;
            let wanted = match options.which {
                Which::Backup(backup) => family.chain(backup),
                _ => family.all(),
            };
            let sampled = |extent: &Extent| is_chosen(&extent.key, options.seed, options.data);
            let chunks = wanted.iter().filter_map(|id| family.manifest(*id)).flat_map(|m| &m.extents);
            report.objects += chunks.clone().count() as u64;
            total += chunks.filter(|extent| sampled(extent)).map(|extent| extent.length).sum::<u64>();
            progress.set_total(total);
            let findings = Arc::new(Findings { progress: progress.clone(), ..Findings::default() });
            let store = Arc::clone(&self.store);
            let mut flow =
                Flow::new(store, Arc::clone(&findings), options.limits, family.memory(), progress, cancel);
            let read = verify_family(&catalog, &family, &wanted, &mut flow, &sampled).await;
            let (read, damage) = match read {
                Ok(damage) => (Ok(()), damage),
                Err(error) => (Err(error), Vec::new()),
            };
            let tally = flow.end(read).await?;
            report.damage.extend(damage);
            report.take(&family, &findings, tally);
            self.set_aside_changed(&mut report).await?;
            report.backups.extend(wanted);
        }
        if let (Which::Backup(_), Some(&backup)) = (options.which, report.changed.first()) {
            return ChangedSnafu { backup }.fail();
        }
        report.good = report.damage.is_empty();
        report.seconds = started.elapsed().as_secs_f64();
        Ok(report)
    }

    /// A set that had its manifest and has it no more was removed while we looked: its objects are not damaged.
    async fn set_aside_changed(&self, report: &mut VerifyReport) -> Result<(), BackupError> {
        let mut seen: HashMap<Uuid, bool> = HashMap::new();
        for damage in &report.damage {
            if let Entry::Vacant(unseen) = seen.entry(damage.backup_id) {
                unseen.insert(gone(&self.store, &damage.object).await?.is_some());
            }
        }
        report.damage.retain(|damage| !seen[&damage.backup_id]);
        report.changed.extend(seen.into_iter().filter(|(_, gone)| *gone).map(|(backup, _)| backup));
        report.changed.sort_unstable();
        report.changed.dedup();
        Ok(())
    }
}

impl VerifyReport {
    fn take(&mut self, family: &Family, findings: &Findings, tally: Tally) {
        self.objects_read += tally.objects;
        self.bytes_fetched += tally.bytes_fetched;
        self.memory_peak = self.memory_peak.max(tally.memory_peak);
        self.bytes_checked += *findings.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        self.changed.extend(&*findings.gone.lock().unwrap_or_else(PoisonError::into_inner));
        let faults = std::mem::take(&mut *findings.faults.lock().unwrap_or_else(PoisonError::into_inner));
        self.damage.extend(family.damaged_chunks(faults));
    }
}

/// The sets of each volume that has a wanted one.
pub(super) async fn by_volume(
    catalog: &Catalog,
    which: Which,
) -> Result<BTreeMap<Uuid, Vec<BackupSet>>, BackupError> {
    let volume = if let Which::Volume(volume) = which { Some(volume) } else { None };
    let mut volumes: BTreeMap<Uuid, Vec<BackupSet>> = BTreeMap::new();
    for set in catalog.sets(volume).await? {
        volumes.entry(set.prefix.volume()).or_default().push(set);
    }
    if let Which::Backup(backup) = which {
        let is_it = |set: &&BackupSet| set.prefix.backup() == backup;
        let found = volumes.values().flatten().filter(is_it);
        let is_complete = found.map(BackupSet::is_complete).reduce(|a, b| a || b);
        ensure!(is_complete.context(NoSuchBackupSnafu { backup })?, IncompleteSnafu { backup });
        volumes.retain(|_, sets| sets.iter().any(|set| is_it(&set) && set.is_complete()));
    }
    Ok(volumes)
}

/// Reads the manifests of a volume's sets; not of those that a rebase has replaced.
pub(super) async fn read_family(catalog: &Catalog, mut sets: Vec<BackupSet>) -> Result<Family, BackupError> {
    let current: HashSet<Prefix> = current(&sets).into_iter().map(|set| set.prefix.clone()).collect();
    sets.retain(|set| current.contains(&set.prefix));
    let room = &Semaphore::new(NAMED);
    let read = stream::iter(sets.into_iter().map(|set| async move {
        // Never closed.
        let _room = room.acquire_many(set.objects.len().min(NAMED) as u32).await;
        match catalog.manifest(&set).await {
            Ok(manifest) => Ok((set, Ok(manifest))),
            Err(e) if e.is_about_the_set() => Ok((set, Err(e.to_string()))),
            Err(e) => Err(e),
        }
    }));
    let members: Vec<(BackupSet, Result<Manifest, String>)> = read.buffered(READS).try_collect().await?;
    Ok(Family::new(members))
}

/// The same objects for the same seed, whatever else the repository holds.
fn is_chosen(key: &str, seed: u64, part: f64) -> bool {
    // FNV-1a, and then the finalizer of splitmix64: keys differ in few digits.
    let mut state = key.bytes().fold(0xcbf2_9ce4_8422_2325 ^ seed, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let unit = ((state ^ (state >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
    unit < part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_about_as_large_as_asked_for() {
        let chosen = |seed, part| (0..10_000).filter(|n| is_chosen(&format!("a-{n:05}"), seed, part)).count();
        assert_eq!((chosen(1, 0.0), chosen(1, 1.0)), (0, 10_000));
        assert!((900..1100).contains(&chosen(7, 0.1)), "{}", chosen(7, 0.1));
        let first = |seed| (0..10_000).find(|n| is_chosen(&format!("a-{n:05}"), seed, 0.01));
        assert_ne!(first(1), first(2));
    }
}
