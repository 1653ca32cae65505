//! How much memory chunks may take: permits counted by the bytes that are held, given back by being dropped.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits are of this many bytes: a semaphore counts no further than some billions.
const GRAIN: u64 = 1024;
/// Smaller buffers are not kept: getting them anew costs next to nothing.
const KEPT: usize = 1 << 20;

/// A budget that several tasks draw from.
#[derive(Clone, Debug)]
pub(in crate::backup) struct Budget {
    permits: Arc<Semaphore>,
    grains: u32,
    books: Arc<Mutex<Books>>,
}

#[derive(Debug, Default)]
struct Books {
    held: u64,
    peak: u64,
    /// Buffers that nobody uses, kept for the next chunk of about their size.
    idle: Vec<Vec<u8>>,
}

impl Books {
    fn idle_bytes(&self) -> u64 {
        self.idle.iter().map(|buffer| buffer.capacity() as u64).sum()
    }
}

impl Budget {
    /// Of so many bytes. What needs more than all of it gets all of it, alone.
    pub fn new(bytes: u64) -> Self {
        let grains = (bytes / GRAIN).clamp(1, u64::from(u32::MAX >> 4)) as u32;
        let permits = Arc::new(Semaphore::new(grains as usize));
        Budget { permits, grains, books: Arc::default() }
    }

    /// Waits until there is room for these bytes.
    pub async fn take(&self, bytes: u64) -> Held {
        let grains = bytes.div_ceil(GRAIN).clamp(1, u64::from(self.grains)) as u32;
        // Never closed.
        let permit = Arc::clone(&self.permits).acquire_many_owned(grains).await.ok();
        let mut books = self.books();
        books.held += bytes;
        while books.held + books.idle_bytes() > u64::from(self.grains) * GRAIN && books.idle.pop().is_some() {
        }
        books.peak = books.peak.max(books.held + books.idle_bytes());
        drop(books);
        Held { _permit: permit, bytes, budget: self.clone() }
    }

    /// The most that was held at a time.
    pub fn peak(&self) -> u64 {
        self.books().peak
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for some bytes.
#[derive(Debug)]
pub(in crate::backup) struct Held {
    _permit: Option<OwnedSemaphorePermit>,
    bytes: u64,
    budget: Budget,
}

impl Held {
    /// A buffer of this length within the room that is held; what is in it is anything.
    pub fn buffer(&self, length: usize) -> Buffer {
        let mut books = self.budget.books();
        let fits = |buffer: &Vec<u8>| buffer.len() >= length && buffer.capacity() / 5 * 4 <= length;
        let found = books.idle.iter().position(fits);
        let bytes = found.map(|at| books.idle.swap_remove(at));
        drop(books);
        let bytes = bytes.unwrap_or_else(|| vec![0; length]);
        Buffer { bytes, length, budget: self.budget.clone() }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.books().held -= self.bytes;
    }
}

/// Bytes that go back to where they came from.
#[derive(Debug)]
pub(in crate::backup) struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    budget: Budget,
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.len() >= KEPT {
            self.budget.books().idle.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn what_is_held_stays_within_the_budget() {
        let budget = Budget::new(8 << 20);
        let first = budget.take(5 << 20).await;
        assert!(budget.take(4 << 20).now_or_never().is_none());
        let second = budget.take(3 << 20).now_or_never().unwrap();
        drop(first);
        assert!(budget.take(5 << 20).now_or_never().is_some());
        drop(second);
        // More than all of it: alone.
        let all = budget.take(9 << 20).now_or_never().unwrap();
        assert!(budget.take(1).now_or_never().is_none());
        drop(all);
        assert_eq!(budget.peak(), 9 << 20);
    }

    #[tokio::test]
    async fn buffers_are_used_again_and_give_way() {
        let budget = Budget::new(8 << 20);
        let held = budget.take(4 << 20).await;
        let mut buffer = held.buffer(4 << 20);
        buffer[7] = 9;
        let place = buffer.as_ptr();
        drop(buffer);
        let again = held.buffer((4 << 20) - 100);
        assert_eq!((again.as_ptr(), again.len(), again[7]), (place, (4 << 20) - 100, 9));
        drop((again, held));
        // One that lies idle is given up for what needs the room.
        let held = budget.take(6 << 20).await;
        assert_eq!(budget.books().idle.len(), 0);
        assert_eq!(held.buffer(6 << 20).len(), 6 << 20);
        assert!(budget.peak() <= 8 << 20);
    }
}
