//! The stored bytes of one object: asked for in parts, one ahead of what is unpacked, so that no object is in memory
//! whole. Reading never waits: what has not come yet is [`ErrorKind::WouldBlock`], and the bell is rung when it comes.

use super::bell::Bell;
use crate::backup::Progress;
use crate::backup::format::Extent;
use crate::backup::store::{Store, StoreError};
use bytes::{Buf, Bytes};
use std::io::{self, BufRead, ErrorKind, Read};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// Bytes per request: with several objects on their way enough to hide the round trips to a store.
const PART: u64 = 2 << 20;
/// Times that a part is asked for which comes shorter than the listing says.
const TRIES: usize = 3;

/// Where objects come from.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub store: Arc<dyn Store>,
    pub bell: Arc<Bell>,
    pub progress: Progress,
    pub runtime: Handle,
}

/// One object that is being read.
#[derive(Debug)]
pub(super) struct Source {
    origin: Origin,
    key: String,
    /// The most bytes that can be right.
    limit: u64,
    /// As listed.
    stored: u64,
    /// Of the first byte that is not asked for yet.
    asked: u64,
    part: Bytes,
    ahead: Option<Ahead>,
    /// Told by the next read.
    failed: Option<io::Error>,
    fetched: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Ahead {
    comes: oneshot::Receiver<Result<Bytes, StoreError>>,
    task: AbortHandle,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Rings when a request ends, however that is.
struct RingAtEnd(Arc<Bell>);

impl Drop for RingAtEnd {
    fn drop(&mut self) {
        self.0.ring();
    }
}

impl Source {
    /// Asks for the first part.
    pub fn begin(origin: Origin, extent: &Extent, stored: u64) -> Self {
        let mut source = Source {
            origin,
            key: extent.key.clone(),
            limit: extent.length,
            stored,
            asked: 0,
            part: Bytes::new(),
            ahead: None,
            failed: None,
            fetched: Arc::default(),
        };
        source.ask();
        source
    }

    /// The most memory that the parts of such an object take.
    pub fn memory(stored: u64) -> u64 {
        stored.min(2 * PART)
    }

    /// Counts what was got of it.
    pub fn fetched(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.fetched)
    }

    /// Whether reading tells something: more bytes, the end, or a failure.
    pub fn is_ready(&mut self) -> bool {
        match self.fill_buf() {
            Ok(_) => true,
            Err(e) if e.kind() == ErrorKind::WouldBlock => false,
            Err(e) => {
                self.failed = Some(e);
                true
            }
        }
    }

    fn ask(&mut self) {
        let (store, key, limit, begin) =
            (Arc::clone(&self.origin.store), self.key.clone(), self.limit, self.asked);
        let is_small = self.stored <= 2 * PART;
        let range = begin..self.stored.min(begin + PART);
        // A small one at once, with all the care that a store takes for whole objects.
        self.asked = if is_small { self.stored } else { range.end };
        let (answer, comes) = oneshot::channel();
        let bell = RingAtEnd(Arc::clone(&self.origin.bell));
        let task = self.origin.runtime.spawn(async move {
            let bell = bell;
            let got = match is_small {
                true => store.get(&key, limit).await,
                false => part(&store, &key, range).await,
            };
            // Nobody waits for it any more: fine.
            let _ = answer.send(got);
            drop(bell);
        });
        self.ahead = Some(Ahead { comes, task: task.abort_handle() });
    }
}

async fn part(store: &Arc<dyn Store>, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
    let mut got = Bytes::new();
    for _ in 0..TRIES {
        got = store.get_range(key, range.clone()).await?;
        if got.len() as u64 == range.end - range.start {
            break;
        }
    }
    Ok(got)
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if !self.part.is_empty() {
            return Ok(&self.part);
        }
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        let Some(ahead) = &mut self.ahead else { return Ok(&[]) };
        let got = match ahead.comes.try_recv() {
            Ok(got) => got,
            Err(oneshot::error::TryRecvError::Empty) => return Err(ErrorKind::WouldBlock.into()),
            Err(oneshot::error::TryRecvError::Closed) => {
                return Err(io::Error::other("the task that fetches it ended without an answer"));
            }
        };
        self.ahead = None;
        self.part = got.map_err(io::Error::other)?;
        let bytes = self.part.len() as u64;
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
        self.origin.progress.add_transferred(bytes);
        // After an end that came too early there is nothing to ask for.
        if self.asked < self.stored && !self.part.is_empty() {
            self.ask();
        }
        Ok(&self.part)
    }

    fn consume(&mut self, bytes: usize) {
        self.part.advance(bytes);
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?.read(buffer)?;
        self.consume(bytes);
        Ok(bytes)
    }
}
