//! How long a pin holds. The clocks of two machines need not agree, nor does the share lend them one: GlusterFS takes the
//! times of files from its clients.
//!
//! So nobody compares a time that another machine wrote with its own: a pin holds until it was seen unchanged for as long as
//! a lease, by the clock of who looks. Its owner, who renews it several times a lease, counts from before each renewal:
//! it gives up first.

use super::id::VolumeId;
use super::record::{Pin, Record};
use jiff::Timestamp;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// After this a pin whose owner died no longer holds anything up.
pub(super) const LEASE: Duration = Duration::from_secs(15 * 60);

/// What a renewal changes in a pin: for people the end of its lease, by its owner's clock.
pub(super) fn until() -> Timestamp {
    Timestamp::now() + LEASE
}

/// The pins that this process has seen: each as it was, and since when it is so.
#[derive(Debug, Default)]
pub(super) struct Watch(Mutex<HashMap<VolumeId, Seen>>);

type Seen = HashMap<Uuid, (Timestamp, Instant)>;

impl Watch {
    /// The pins of a record that hold. One that was never seen before does.
    pub(super) fn holding<'a>(&self, record: &'a Record) -> Vec<&'a Pin> {
        self.holding_at(record, Instant::now())
    }

    fn holding_at<'a>(&self, record: &'a Record, now: Instant) -> Vec<&'a Pin> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.remove(&record.id).unwrap_or_default();
        if record.pins.is_empty() {
            return Vec::new();
        }
        let since = |pin: &Pin| {
            let unchanged = before.get(&pin.id).filter(|(until, _)| *until == pin.until);
            unchanged.map_or(now, |(_, since)| *since)
        };
        let seen: Seen = record.pins.iter().map(|pin| (pin.id, (pin.until, since(pin)))).collect();
        let holds = |pin: &&Pin| now.saturating_duration_since(seen[&pin.id].1) < LEASE;
        let holding = record.pins.iter().filter(holds).collect();
        all.insert(record.id, seen);
        holding
    }
}

/// The owner's side: whether its pins are known to hold.
pub(super) struct Lease(Mutex<Option<Moment>>);

/// By two clocks. One of them stands still while the machine is asleep, the other may be put right.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    awake: Instant,
    wall: Timestamp,
}

impl Moment {
    pub(super) fn now() -> Moment {
        Moment { awake: Instant::now(), wall: Timestamp::now() }
    }

    fn is_a_lease_ago(&self) -> bool {
        let passed = Timestamp::now().duration_since(self.wall);
        self.awake.elapsed() >= LEASE || Duration::try_from(passed).is_ok_and(|passed| passed >= LEASE)
    }
}

impl Lease {
    /// Of pins that are written after that moment.
    pub(super) fn since(begun: Moment) -> Lease {
        Lease(Mutex::new(Some(begun)))
    }

    /// The pins were written again after that moment.
    pub(super) fn renew(&self, begun: Moment) {
        if !self.is_lost() {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(begun);
        }
    }

    /// A pin was taken away.
    pub(super) fn lose(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Once over, over: what it held may have been changed since.
    pub(super) fn is_lost(&self) -> bool {
        let mut begun = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *begun = begun.filter(|begun| !begun.is_a_lease_ago());
        begun.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::record::tests::sample;

    fn pinned(until: Timestamp) -> Record {
        let mut record = sample();
        let layer = record.layers[0].id;
        record.pins.push(Pin { id: Uuid::from_u128(1), layer, owner: "a reader".into(), until });
        record
    }

    /// Whatever the clock of its owner says: behind by an hour, right, or ahead by ten years.
    #[test]
    fn a_pin_holds_until_it_was_seen_unchanged_for_a_lease() {
        let (watch, begin) = (Watch::default(), Instant::now());
        let second = Duration::from_secs(1);
        for skew in [-3600, 0, 10 * 365 * 86400] {
            let mut record = pinned(until() + jiff::SignedDuration::from_secs(skew));
            let holds = |record: &Record, after| watch.holding_at(record, begin + after).len() == 1;
            assert!(holds(&record, Duration::ZERO) && holds(&record, LEASE - second), "{skew}");
            record.pins[0].until += Duration::from_secs(240);
            assert!(holds(&record, LEASE - second) && holds(&record, LEASE * 2 - second * 2), "{skew}");
            assert!(!holds(&record, LEASE * 2 - second), "{skew}");
        }
        watch.holding(&sample());
        assert!(watch.0.lock().unwrap().is_empty(), "what is gone is remembered");
    }

    #[test]
    fn a_lease_that_was_lost_is_not_renewed() {
        let lease = Lease::since(Moment::now());
        lease.renew(Moment::now());
        assert!(!lease.is_lost());
        lease.lose();
        lease.renew(Moment::now());
        assert!(lease.is_lost());
        // The machine was asleep.
        let slept = Lease::since(Moment { wall: Timestamp::now() - LEASE, ..Moment::now() });
        assert!(slept.is_lost());
    }
}
