//! One budget for all bytes on their way, with permits that release themselves, and buffers that are used again:
//! a fresh one of 50 MiB costs 12,800 page faults.

use crate::backup::BackupError;
use crate::backup::error::BadRequestSnafu;
use snafu::ensure;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes per permit.
const UNIT: u64 = 4096;
/// Smaller buffers are the allocator's business.
const POOLED: usize = 256 << 10;
/// Beside the windows: parts of the two hash files on their way, text between the stages, compressors' tables.
pub(super) const OVERHEAD: u64 = 64 << 20;

/// The budget of one backup.
#[derive(Debug)]
pub(super) struct Memory {
    permits: Arc<Semaphore>,
    /// Of the windows, in bytes.
    total: u64,
    /// What one window may take.
    window: u64,
    held: Mutex<Held>,
    peak: AtomicU64,
    /// Bytes that are to be taken out of the budget for good, and those that are.
    owed: Mutex<u64>,
    charged: AtomicU64,
}

/// What really is in memory, which may be less than what is reserved.
#[derive(Debug, Default)]
struct Held {
    /// Bytes of the buffers that somebody has.
    used: u64,
    /// Buffers that nobody has now.
    idle: Vec<Vec<u8>>,
}

impl Memory {
    /// A budget of `bytes` in all, of which one window may take `window`.
    pub fn new(bytes: u64, window: u64) -> Result<Arc<Self>, BackupError> {
        let total = bytes.saturating_sub(OVERHEAD);
        let needed = (window.next_multiple_of(UNIT) + OVERHEAD).div_ceil(1 << 20);
        let reason = format!(
            "{} MiB of memory are not enough for chunks of that size: give {needed} MiB, or smaller chunks",
            bytes >> 20
        );
        ensure!(total >= window.next_multiple_of(UNIT), BadRequestSnafu { reason });
        let permits = Arc::new(Semaphore::new((total / UNIT) as usize));
        let (window, held, owed) = (window.next_multiple_of(UNIT), Mutex::default(), Mutex::default());
        let (peak, charged) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Arc::new(Memory { permits, total, window, held, peak, owed, charged }))
    }

    /// Waits until so much is free. Reservations are granted in the order in which they were asked for.
    pub async fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).ok()?;
        let permit = Arc::clone(&self.permits).acquire_many_owned(units).await.ok()?;
        self.peak.fetch_max(self.in_use(), Ordering::Relaxed);
        Some(Reservation { memory: Arc::clone(self), permit })
    }

    /// Takes bytes out of the budget for good, for what is kept until the end: out of the next buffers that come back,
    /// so that nobody waits for it, and never so many that no window would fit any more.
    pub fn charge(&self, bytes: u64) {
        *self.owed.lock().unwrap_or_else(PoisonError::into_inner) += bytes;
    }

    /// Keeps a part of what comes back, as far as it is owed.
    fn keep(&self, permit: &mut OwnedSemaphorePermit) {
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        let charged = self.charged.load(Ordering::Relaxed);
        let most = (self.total - self.window).saturating_sub(charged).min(*owed) / UNIT;
        let units = permit.num_permits().min(most as usize);
        if let Some(kept) = permit.split(units).filter(|_| units > 0) {
            kept.forget();
            *owed -= units as u64 * UNIT;
            self.charged.store(charged + units as u64 * UNIT, Ordering::Relaxed);
        }
    }

    /// Lets the buffers go that nobody uses now.
    pub fn shrink(&self) {
        self.held().idle.clear();
    }

    /// The most bytes that were reserved at a time.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    fn in_use(&self) -> u64 {
        (self.total / UNIT - self.permits.available_permits() as u64) * UNIT
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn allocate(&self, length: usize) -> Vec<u8> {
        let mut held = self.held();
        // Not a much larger one: what is taken is more than what is paid for.
        let fits = |buffer: &Vec<u8>| buffer.len() >= length && buffer.len() - length <= length / 64;
        let again = held.idle.iter().position(fits).map(|at| held.idle.remove(at));
        held.used += again.as_ref().map_or(length, Vec::len) as u64;
        self.trim(&mut held);
        drop(held);
        // From the kernel, and not touched before it is filled.
        again.unwrap_or_else(|| vec![0; length])
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut held = self.held();
        held.used -= buffer.len() as u64;
        if buffer.len() >= POOLED {
            held.idle.push(buffer);
            self.trim(&mut held);
        }
    }

    /// Buffers are kept for others only within the budget; the one that lay there longest goes first.
    fn trim(&self, held: &mut Held) {
        let taken = held.used + self.charged.load(Ordering::Relaxed);
        let idle = |held: &Held| held.idle.iter().map(|buffer| buffer.len() as u64).sum::<u64>();
        while !held.idle.is_empty() && taken + idle(held) > self.total {
            held.idle.remove(0);
        }
    }
}

/// A part of the budget.
#[derive(Debug)]
pub(super) struct Reservation {
    memory: Arc<Memory>,
    permit: OwnedSemaphorePermit,
}

impl Reservation {
    /// A buffer, paid for out of this reservation. Its bytes are anything.
    pub fn buffer(&mut self, length: usize) -> Buffer {
        let units = (length as u64).div_ceil(UNIT) as usize;
        let paid = self.permit.split(units.min(self.permit.num_permits()));
        let bytes = self.memory.allocate(length);
        Buffer { bytes, length, memory: Arc::clone(&self.memory), _paid: paid }
    }
}

/// Bytes of the budget. The buffer and its permits go back together.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    memory: Arc<Memory>,
    _paid: Option<OwnedSemaphorePermit>,
}

impl Buffer {
    /// Only so many of them count.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// The same bytes in a buffer of their size, which pays for them; the rest of the permits goes back.
    pub fn shrunk(mut self) -> Buffer {
        let units = (self.length as u64).div_ceil(UNIT) as usize;
        let paid = self._paid.as_mut().and_then(|paid| paid.split(units.min(paid.num_permits())));
        let bytes = self.as_ref().to_vec();
        self.memory.held().used += bytes.len() as u64;
        Buffer { length: bytes.len(), bytes, memory: Arc::clone(&self.memory), _paid: paid }
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.memory.give_back(std::mem::take(&mut self.bytes));
        if let Some(paid) = &mut self._paid {
            self.memory.keep(paid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever is taken and given back, at most the budget is in use, and buffers come again.
    #[tokio::test]
    async fn a_budget() {
        let memory = Memory::new(OVERHEAD + (4 << 20), 4 << 20).unwrap();
        assert!(Memory::new(OVERHEAD + (4 << 20), (4 << 20) + 1).is_err());
        let mut first = memory.reserve(3 << 20).await.unwrap();
        let mut buffer = first.buffer(1 << 20);
        let place = buffer.bytes().as_ptr() as usize;
        drop(first);
        assert_eq!(memory.in_use(), 1 << 20);
        let mut second = memory.reserve(3 << 20).await.unwrap();
        let waits = memory.reserve(1 << 20);
        let mut waits = std::pin::pin!(waits);
        assert!(futures::poll!(&mut waits).is_pending());
        drop(buffer);
        drop(waits.await.unwrap());
        assert_eq!(second.buffer(1 << 20).bytes().as_ptr() as usize, place, "used again");
        drop(second);
        // A small body in a large buffer goes on paying for itself.
        let mut third = memory.reserve(3 << 20).await.unwrap();
        let mut large = third.buffer(3 << 20);
        large.truncate(10_000);
        let small = large.shrunk();
        assert_eq!((small.as_ref().len(), memory.in_use()), (10_000, 3 * UNIT));
        drop((small, third));
        assert_eq!(memory.in_use(), 0);
        let mut whole = memory.reserve(4 << 20).await.unwrap();
        let large = whole.buffer(4 << 20);
        assert!(memory.held().idle.is_empty(), "nothing idle beside a full budget");
        drop(large);
        assert_eq!(memory.peak(), 4 << 20);
    }

    /// Bodies that shrank lie idle in sizes that fit nobody: they go before they are more than the budget.
    #[tokio::test]
    async fn what_lies_idle_is_within_the_budget() {
        let memory = Memory::new(OVERHEAD + (4 << 20), 4 << 20).unwrap();
        for _ in 0..20 {
            let mut large = memory.reserve(2 << 20).await.unwrap().buffer(2 << 20);
            large.truncate(POOLED + 1000);
            drop(large.shrunk());
            let held = memory.held();
            let idle: usize = held.idle.iter().map(Vec::len).sum();
            assert!(held.used == 0 && idle <= 4 << 20, "{idle} bytes lie idle");
            assert!(held.idle.iter().any(|buffer| buffer.len() == 2 << 20), "none would be used again");
        }
    }

    /// What is kept to the end leaves less to the windows, and always enough for one.
    #[tokio::test]
    async fn a_charge() {
        let memory = Memory::new(OVERHEAD + (4 << 20), 3 << 20).unwrap();
        memory.charge(100);
        memory.charge(3 * UNIT);
        assert_eq!(memory.in_use(), 0, "nobody waits for it");
        drop(memory.reserve(1 << 20).await.unwrap().buffer(1 << 20));
        assert_eq!(memory.in_use(), 3 * UNIT);
        memory.charge(4 << 20);
        for _ in 0..3 {
            drop(memory.reserve(3 << 20).await.unwrap().buffer(3 << 20));
        }
        assert_eq!(memory.in_use(), 1 << 20);
    }
}
