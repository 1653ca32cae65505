//! How much memory chunks may take, and who gets it. A chunk begins with little and grows while it is unpacked, so more
//! of them are on their way than would fit if each held all that it will need. Nobody is granted what could leave
//! an older one without the rest of its own: the oldest always comes to its end, and gives all back.

use super::bell::Bell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Bytes of a chunk that are unpacked, hashed and granted at a time: few enough for a core's own cache.
pub(super) const SEGMENT: usize = 256 << 10;

/// Who holds what.
#[derive(Debug)]
pub(super) struct Ledger {
    total: i64,
    books: Mutex<Books>,
    bell: Arc<Bell>,
    /// Told when something was given back.
    room: Notify,
}

#[derive(Debug, Default)]
struct Books {
    free: i64,
    /// The oldest first.
    accounts: Vec<Account>,
    next: u64,
    peak: i64,
    /// Segments that nobody uses.
    idle: Vec<Box<[u8]>>,
}

#[derive(Debug)]
struct Account {
    id: u64,
    held: i64,
    /// What it may still ask for.
    claim: i64,
}

impl Books {
    /// Whether each can come to its end with what is free and what the older ones give back.
    fn is_safe(&self) -> bool {
        let mut free = self.free;
        self.accounts.iter().all(|account| {
            let fits = free >= account.claim;
            free += account.held;
            fits
        })
    }

    fn account(&mut self, id: u64) -> Option<(usize, &mut Account)> {
        self.accounts.iter_mut().enumerate().find(|(_, account)| account.id == id)
    }

    /// Takes note of the peak, and lets idle segments go that would be too much.
    fn settle(&mut self, total: i64) {
        let used = total - self.free;
        while used + (self.idle.len() * SEGMENT) as i64 > total && self.idle.pop().is_some() {}
        self.peak = self.peak.max(used + (self.idle.len() * SEGMENT) as i64);
    }
}

impl Ledger {
    /// Of so many bytes.
    pub fn new(bytes: u64, bell: &Arc<Bell>) -> Arc<Self> {
        let total = i64::try_from(bytes).unwrap_or(i64::MAX / 2).min(i64::MAX / 2);
        let books = Mutex::new(Books { free: total, ..Books::default() });
        Arc::new(Ledger { total, books, bell: Arc::clone(bell), room: Notify::new() })
    }

    /// Lets a chunk begin that holds `fixed` bytes all the time and asks for up to `segments`. One that needs more
    /// than there is begins when it is alone.
    pub fn admit(self: &Arc<Self>, fixed: u64, segments: u64) -> Option<Grant> {
        let claim = segments.saturating_mul(SEGMENT as u64);
        let [fixed, claim] = [fixed, claim].map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX / 4));
        let mut books = self.books();
        let (id, alone) = (books.next, books.accounts.is_empty());
        books.accounts.push(Account { id, held: fixed, claim });
        books.free -= fixed;
        if !alone && (books.free < 0 || !books.is_safe()) {
            books.accounts.pop();
            books.free += fixed;
            return None;
        }
        books.next += 1;
        books.settle(self.total);
        Some(Grant { ledger: Arc::clone(self), id })
    }

    /// Chunks that have begun and not ended.
    pub fn accounts(&self) -> usize {
        self.books().accounts.len()
    }

    /// Ready when something was given back since it was made.
    pub fn room(&self) -> &Notify {
        &self.room
    }

    /// The most bytes that were in use or kept for use at a time.
    pub fn peak(&self) -> u64 {
        self.books().peak.unsigned_abs()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.room.notify_one();
        self.bell.ring();
    }
}

/// A chunk's account; closed by being dropped.
#[derive(Debug)]
pub(super) struct Grant {
    ledger: Arc<Ledger>,
    id: u64,
}

impl Grant {
    /// A segment whose bytes are anything, if it can be had now: the bell tells when to ask again.
    pub fn segment(&self) -> Option<Segment> {
        const BYTES: i64 = SEGMENT as i64;
        let mut books = self.ledger.books();
        books.free -= BYTES;
        let (place, account) = books.account(self.id)?;
        account.held += BYTES;
        account.claim -= BYTES;
        // The oldest may have all: also more than there is, when it is alone with that.
        if place > 0 && !books.is_safe() {
            books.free += BYTES;
            let (_, account) = books.account(self.id)?;
            account.held -= BYTES;
            account.claim += BYTES;
            return None;
        }
        let idle = books.idle.pop();
        books.settle(self.ledger.total);
        drop(books);
        let bytes = idle.unwrap_or_else(|| vec![0; SEGMENT].into_boxed_slice());
        Some(Segment { bytes, ledger: Arc::clone(&self.ledger), id: self.id })
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        let mut books = self.ledger.books();
        if let Some((place, _)) = books.account(self.id) {
            books.free += books.accounts.remove(place).held;
        }
        drop(books);
        self.ledger.tell();
    }
}

/// Bytes that go back to where they came from. Dropped before its chunk's grant.
#[derive(Debug)]
pub(super) struct Segment {
    bytes: Box<[u8]>,
    ledger: Arc<Ledger>,
    id: u64,
}

impl Segment {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        let mut books = self.ledger.books();
        books.idle.push(std::mem::take(&mut self.bytes));
        if let Some((_, account)) = books.account(self.id) {
            account.held -= SEGMENT as i64;
            books.free += SEGMENT as i64;
        }
        drop(books);
        self.ledger.tell();
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
