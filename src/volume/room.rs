//! How much room a share has for new volumes (G4), and that no more than that is promised.

use super::error::{Error, FullSnafu};
use super::id::VolumeId;
use super::policy::Policy;
use super::view::VolumeKind;
use super::volumes::Volumes;
use std::fmt;

/// With less of the limit left than one part in so many, nothing but a count of the moment is believed.
const NEAR: u64 = 10;
/// Of a thinly made volume, what its first metadata and writes take.
const THIN_START: u64 = 64 << 20;

/// A share's space and what was promised of it, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// In all.
    pub total: u64,
    /// Not in use.
    pub free: u64,
    /// The capacities of all its volumes together.
    pub provisioned: u64,
    /// What they may come to.
    pub limit: u64,
    /// What is kept free for snapshots.
    pub reserve: u64,
}

impl Capacity {
    /// From what was measured, under a policy.
    pub fn new(total: u64, free: u64, provisioned: u64, policy: &Policy) -> Self {
        let percent = |share: u64| {
            let bytes = u128::from(total) * u128::from(share) / 100;
            u64::try_from(bytes).unwrap_or(u64::MAX)
        };
        let limit = percent(policy.oversubscription_percent);
        Capacity { total, free, provisioned, limit, reserve: percent(policy.reserve_percent) }
    }

    /// The largest volume of that layout that can be made.
    pub fn available(&self, kind: VolumeKind) -> u64 {
        let promisable = self.limit.saturating_sub(self.provisioned);
        let spare = self.spare();
        match kind {
            VolumeKind::RawFull => promisable.min(spare),
            _ if spare < THIN_START => 0,
            _ => promisable,
        }
    }

    /// Free beyond the reserve.
    fn spare(&self) -> u64 {
        self.free.saturating_sub(self.reserve)
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Capacity { total, free, provisioned, limit, reserve } = self;
        write!(
            f,
            "{free} of {total} bytes are free, of which {reserve} are kept for snapshots; its volumes come to \
             {provisioned} bytes of at most {limit}"
        )
    }
}

impl Volumes {
    /// How much room the share has, as far as this process knows: what others have promised of it may be missing for some
    /// minutes, what this one has is in it.
    pub fn capacity(&self) -> Result<Capacity, Error> {
        let room = self.room()?;
        Ok(Capacity::new(room.total, room.free, self.provisioned()?, &self.tools.policy))
    }

    /// As [`Volumes::capacity`], of this very moment.
    pub fn capacity_now(&self) -> Result<Capacity, Error> {
        self.index.count_anew();
        self.capacity()
    }

    /// Counts a new volume, or says why there is no room for it. `written` bytes are allocated at once.
    pub(super) fn claim_room(&self, id: VolumeId, size: u64, written: u64) -> Result<(), Error> {
        let capacity = self.capacity()?;
        if written.max(THIN_START) > capacity.spare() {
            return FullSnafu { needed: size, capacity }.fail();
        }
        // Well below the limit what others have made meanwhile does not matter; they count it themselves.
        if self.index.claim(id, size, capacity.limit - capacity.limit / NEAR) {
            return Ok(());
        }
        let capacity = self.capacity_now()?;
        match self.index.claim(id, size, capacity.limit) {
            true => Ok(()),
            false => FullSnafu { needed: size, capacity }.fail(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const GIB: u64 = 1 << 30;

    /// G4: thin volumes count by their capacity, full ones take what is there, the reserve stays.
    #[rstest]
    #[case(VolumeKind::Qcow2, 100, 50, 150, 50)]
    #[case(VolumeKind::Qcow2, 100, 50, 300, 0)]
    #[case(VolumeKind::RawSparse, 100, 11, 0, 200)]
    #[case(VolumeKind::RawSparse, 100, 10, 0, 0)]
    #[case(VolumeKind::RawFull, 100, 50, 0, 40)]
    #[case(VolumeKind::RawFull, 100, 50, 190, 10)]
    #[case(VolumeKind::RawFull, 100, 5, 0, 0)]
    fn what_is_available_follows_ratio_and_reserve(
        #[case] kind: VolumeKind,
        #[case] total: u64,
        #[case] free: u64,
        #[case] provisioned: u64,
        #[case] expected: u64,
    ) {
        let policy = Policy { oversubscription_percent: 200, reserve_percent: 10, ..Policy::default() };
        let capacity = Capacity::new(total * GIB, free * GIB, provisioned * GIB, &policy);
        assert_eq!(capacity.available(kind), expected * GIB);
    }
}
