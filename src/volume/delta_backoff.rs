//! Deltas that could not be kept: each new try reads the map of a whole layer, so tries become rare.

use super::id::{LayerId, VolumeId};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longer than from one round of the background work to the next.
const FIRST: Duration = Duration::from_secs(1800);
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// What failed lately, in this process. A new one tries again.
#[derive(Debug, Default)]
pub(super) struct Unkept(Mutex<HashMap<(VolumeId, LayerId), Failed>>);

#[derive(Debug)]
struct Failed {
    times: u32,
    again: Instant,
}

impl Unkept {
    fn all(&self) -> MutexGuard<'_, HashMap<(VolumeId, LayerId), Failed>> {
        // Changed by whole inserts and removals only.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is too early for another try.
    pub fn waits(&self, volume: VolumeId, layer: LayerId, now: Instant) -> bool {
        self.all().get(&(volume, layer)).is_some_and(|failed| now < failed.again)
    }

    /// A try has failed; how long the next one waits.
    pub fn failed(&self, volume: VolumeId, layer: LayerId, now: Instant) -> Duration {
        let mut all = self.all();
        // Most layers are merged away some day: nobody asks for those again.
        all.retain(|_, failed| now < failed.again + LONGEST);
        let failed = all.entry((volume, layer)).or_insert(Failed { times: 0, again: now });
        let wait = FIRST.saturating_mul(1 << failed.times.min(16)).min(LONGEST);
        failed.times = failed.times.saturating_add(1);
        failed.again = now + wait;
        wait
    }

    /// It is there.
    pub fn kept(&self, volume: VolumeId, layer: LayerId) {
        self.all().remove(&(volume, layer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_become_rare_and_what_is_kept_is_forgotten() {
        let unkept = Unkept::default();
        let (volume, layer) = (VolumeId::from_name("v"), LayerId::random());
        let mut now = Instant::now();
        assert!(!unkept.waits(volume, layer, now));
        for expected in [1800, 3600, 7200, 14400, 28800, 57600, 86400, 86400] {
            let wait = unkept.failed(volume, layer, now);
            assert_eq!(wait.as_secs(), expected);
            assert!(unkept.waits(volume, layer, now + wait / 2));
            assert!(!unkept.waits(volume, LayerId::random(), now));
            now += wait;
            assert!(!unkept.waits(volume, layer, now));
        }
        unkept.failed(volume, LayerId::random(), now + LONGEST * 3);
        assert_eq!(unkept.all().len(), 1, "what nobody asks for is forgotten");
        unkept.failed(volume, layer, now);
        unkept.kept(volume, layer);
        assert_eq!(unkept.failed(volume, layer, now), FIRST);
    }
}
