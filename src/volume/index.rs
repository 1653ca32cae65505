//! What is on a share, remembered: a hint that saves reading records which have not changed.
//!
//! Every record is a file of its own, replaced by a rename. So a file that is still the one that was read has not
//! changed, and a look at it (one round trip) takes the place of opening, reading and closing it (three).

use super::error::Error;
use super::id::{NodeId, VolumeId};
use super::record::State;
use super::references::list_ids;
use super::store::lost_share;
use super::view::VolumeView;
use super::volumes::Volumes;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant, SystemTime};

/// A file that was written so shortly before it was read could be written again without looking different.
const SETTLED: Duration = Duration::from_secs(2);
/// How old the sum of the capacities may be: a burst of new volumes counts the share once, not once each.
const SUM_AGE: Duration = Duration::from_secs(10);
/// How old while it is being counted anew, beside the call that found it so: nobody waits for thousands of looks. What other
/// controllers have done meanwhile is missing; who comes near a limit counts himself.
const SUM_AGE_MEANWHILE: Duration = Duration::from_secs(15 * 60);
/// How long a new volume counts before its folder is found.
const CLAIM_AGE: Duration = Duration::from_secs(60);
/// Looks at once. Each waits for its round trips, not for a processor.
const LOOKERS: usize = 8;

/// The records of one share as they were last read.
#[derive(Clone, Debug, Default)]
pub(super) struct Index(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    known: Mutex<Known>,
    /// Held by whoever counts.
    counting: Mutex<()>,
    /// A thread counts for calls that did not wait.
    beside: AtomicBool,
}

#[derive(Debug, Default)]
struct Known {
    volumes: BTreeMap<VolumeId, Entry>,
    /// Those whose record could not be read when it was last looked at.
    damaged: BTreeSet<VolumeId>,
    /// When the last whole look began.
    counted: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// None: nothing was read yet, this is only what is about to be written.
    stamp: Option<Stamp>,
    /// When this was said without reading.
    said: Option<Instant>,
    state: State,
    capacity: u64,
    view: Option<VolumeView>,
    work: Work,
}

/// What a call that wants the sum has to do for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needed {
    Nothing,
    /// Let it be counted, and go on with what is known. Said to one caller until that has ended: on a share that hangs it is
    /// this one thread that waits.
    Beside,
    Now,
}

/// What there is to do on a volume.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    pub layers: usize,
    /// For the background, since about then, in Unix time.
    pub waits: Option<i64>,
    /// A merge is journaled.
    pub merges: bool,
    /// All of it is to go.
    pub deleted: bool,
}

/// Tells one file from the next of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    modified: (i64, i64),
    size: u64,
    settled: bool,
}

/// A volume in a listing.
#[derive(Debug)]
pub enum Listed {
    /// As its record says.
    Volume(VolumeView),
    /// Its record cannot be read: what it is like is unknown.
    Damaged(VolumeId, Error),
}

impl Index {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Every change is one insert or removal: nothing is half done after a panic.
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn to count. None: somebody counts, and what is known is good enough until he has done.
    fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        match self.0.counting.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::WouldBlock) if self.was_counted_within(SUM_AGE_MEANWHILE) => None,
            Err(_) => Some(self.0.counting.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    fn needed(&self) -> Needed {
        if self.was_counted_within(SUM_AGE) {
            Needed::Nothing
        } else if !self.was_counted_within(SUM_AGE_MEANWHILE) {
            Needed::Now
        } else if self.0.beside.swap(true, Ordering::SeqCst) {
            Needed::Nothing
        } else {
            Needed::Beside
        }
    }

    fn was_counted_within(&self, age: Duration) -> bool {
        self.known().counted.is_some_and(|counted| counted.elapsed() <= age)
    }

    /// Counts a new volume before it is written, if all volumes together stay within `limit`.
    pub(super) fn claim(&self, id: VolumeId, capacity: u64, limit: u64) -> bool {
        let mut known = self.known();
        let others = sum(known.volumes.iter().filter(|(other, _)| **other != id).map(|(_, entry)| entry));
        if others.saturating_add(capacity) > limit {
            return false;
        }
        let entry = Entry {
            stamp: None,
            said: Some(Instant::now()),
            state: State::Creating,
            capacity,
            view: None,
            work: Work::default(),
        };
        known.volumes.insert(id, entry);
        true
    }

    /// What was just written about a volume that is ready.
    pub(super) fn note(&self, id: VolumeId, view: VolumeView) {
        let (state, capacity) = (State::Ready, view.capacity);
        let entry = Entry {
            stamp: None,
            said: Some(Instant::now()),
            state,
            capacity,
            view: Some(view),
            work: Work::default(),
        };
        self.known().volumes.insert(id, entry);
    }

    /// A volume that was just deleted counts no longer.
    pub(super) fn forget(&self, id: VolumeId) {
        self.known().volumes.remove(&id);
    }

    /// The next sum is that of the moment.
    pub(super) fn count_anew(&self) {
        self.known().counted = None;
    }
}

fn sum<'a>(entries: impl Iterator<Item = &'a Entry>) -> u64 {
    let living = entries.filter(|entry| entry.state != State::Deleted);
    living.fold(0, |sum, entry| sum.saturating_add(entry.capacity))
}

impl Stamp {
    fn of(meta: &std::fs::Metadata) -> Stamp {
        let age = meta.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        Stamp {
            inode: meta.ino(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            size: meta.size(),
            settled: age.is_some_and(|age| age > SETTLED),
        }
    }
}

impl Volumes {
    /// At most `max` volumes after that one, ordered by id, and whether there are more. Volumes that are being
    /// made, restored or deleted are none. A record that is damaged hides no other.
    pub fn list_volumes(&self, after: Option<VolumeId>, max: usize) -> Result<(Vec<Listed>, bool), Error> {
        let mut found = Vec::new();
        for id in self.list()?.into_iter().filter(|id| after.is_none_or(|after| *id > after)) {
            let listed = match self.glance(id) {
                Ok(Some(entry)) if entry.state == State::Ready => entry.view.map(Listed::Volume),
                Ok(_) => None,
                Err(error) if lost_share(&error) => return Err(error),
                Err(error) => Some(Listed::Damaged(id, error)),
            };
            if let Some(listed) = listed {
                if found.len() == max {
                    return Ok((found, true));
                }
                found.push(listed);
            }
        }
        Ok((found, false))
    }

    /// The sum of the capacities of all volumes, those that are being made included; some seconds old.
    pub(super) fn provisioned(&self) -> Result<u64, Error> {
        self.count()?;
        Ok(sum(self.index.known().volumes.values()))
    }

    /// How many volumes other than that one are published to a node; some seconds old but for what was published here.
    pub(super) fn given_to(&self, node: &NodeId, but: VolumeId) -> Result<usize, Error> {
        self.count()?;
        let known = self.index.known();
        let given = |view: &VolumeView| view.nodes.contains(node);
        let others = known.volumes.iter().filter(|(id, _)| **id != but);
        Ok(others.filter(|(_, entry)| entry.view.as_ref().is_some_and(given)).count())
    }

    /// What is known is some seconds old, or is being put right beside this call.
    fn count(&self) -> Result<(), Error> {
        match self.index.needed() {
            Needed::Nothing => {}
            Needed::Now => return self.count_now(),
            Needed::Beside => {
                let volumes = self.clone();
                std::thread::spawn(move || {
                    if let Err(error) = volumes.count_now() {
                        tracing::debug!(share = %volumes.share.key, %error, "the share was not counted");
                    }
                    volumes.index.0.beside.store(false, Ordering::SeqCst);
                });
            }
        }
        Ok(())
    }

    /// Looks at every record that has changed, unless that was done some seconds ago. One call at a time does.
    fn count_now(&self) -> Result<(), Error> {
        let Some(_turn) = self.index.turn() else { return Ok(()) };
        // Perhaps by the one whose turn was waited for.
        if self.index.was_counted_within(SUM_AGE) {
            return Ok(());
        }
        let begun = Instant::now();
        let ids: Vec<VolumeId> = list_ids(&self.layout.volumes())?;
        self.look_at_all(&ids)?;
        let mut known = self.index.known();
        let is_young = |entry: &Entry| entry.said.is_some_and(|said| said.elapsed() < CLAIM_AGE);
        known.volumes.retain(|id, entry| is_young(entry) || ids.binary_search(id).is_ok());
        known.damaged.retain(|id| ids.binary_search(id).is_ok());
        known.counted = Some(begun);
        Ok(())
    }

    /// The work on each volume, and how many records cannot be read; some seconds old.
    pub(super) fn work(&self) -> Result<(Vec<(VolumeId, Work)>, usize), Error> {
        // No call waits for it.
        self.count_now()?;
        let known = self.index.known();
        Ok((known.volumes.iter().map(|(id, entry)| (*id, entry.work)).collect(), known.damaged.len()))
    }

    fn look_at_all(&self, ids: &[VolumeId]) -> Result<(), Error> {
        let next = AtomicUsize::new(0);
        let look = || {
            while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.glance(*id) {
                    Err(error) if lost_share(&error) => return Err(error),
                    // Its size is unknown; `volume check` tells of it, and so does a listing.
                    Err(_) | Ok(_) => {}
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let lookers: Vec<_> = (0..LOOKERS.min(ids.len())).map(|_| scope.spawn(look)).collect();
            lookers
                .into_iter()
                .try_for_each(|looker| looker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    /// What a record says, read again only if its file is another one than last time.
    fn glance(&self, id: VolumeId) -> Result<Option<Entry>, Error> {
        let path = self.layout.record(id);
        let stamp = match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.index.known().volumes.remove(&id);
                return Ok(None);
            }
            meta => Stamp::of(&meta.map_err(Error::io("look at", &path))?),
        };
        if let Some(entry) = self.index.known().volumes.get(&id)
            && entry.stamp == Some(stamp)
            && stamp.settled
        {
            return Ok(Some(entry.clone()));
        }
        let record = match self.read(id) {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(None),
            Err(error) => {
                if !lost_share(&error) {
                    self.index.known().damaged.insert(id);
                }
                return Err(error);
            }
        };
        let waited = self.index.known().volumes.get(&id).and_then(|entry| entry.work.waits);
        // What was last written of it made the work, unless it was there before.
        let since = waited.unwrap_or(stamp.modified.0);
        // What a clone stands on counts, for the record does not tell of clones.
        let waits = self.has_work(&record, &HashSet::new()).then_some(since);
        let (layers, merges) = (record.layers.len(), record.merge.is_some());
        let work = Work { layers, waits, merges, deleted: record.state == State::Deleted };
        let view = (record.state == State::Ready).then(|| self.view(&record));
        let entry = Entry {
            stamp: Some(stamp),
            said: None,
            state: record.state,
            capacity: record.capacity,
            view,
            work,
        };
        let mut known = self.index.known();
        known.damaged.remove(&id);
        known.volumes.insert(id, entry.clone());
        drop(known);
        Ok(Some(entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new volume waits for no look at thousands of others; the first one of a process does.
    #[test]
    fn what_is_known_is_good_enough_while_it_is_counted_anew() {
        let index = Index::default();
        let counted = |age: Duration| index.known().counted = Some(Instant::now().checked_sub(age).unwrap());
        assert_eq!(index.needed(), Needed::Now);
        counted(Duration::ZERO);
        assert_eq!(index.needed(), Needed::Nothing);
        counted(SUM_AGE * 2);
        assert_eq!([index.needed(), index.needed()], [Needed::Beside, Needed::Nothing]);
        counted(SUM_AGE_MEANWHILE * 2);
        assert_eq!(index.needed(), Needed::Now);
        index.count_anew();
        assert_eq!(index.needed(), Needed::Now);
    }

    /// Thousands of records take seconds: calls beside each other do not all count them.
    #[test]
    fn one_counts_and_the_others_go_on() {
        let index = Index::default();
        let first = index.turn().expect("nobody counts");
        index.known().counted = Some(Instant::now());
        assert!(index.turn().is_none());
        drop(first);
        assert!(index.turn().is_some());
    }
}
