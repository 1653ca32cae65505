//! The pipeline of a backup. A feeder walks through the volume: for what did not change it takes the parent's
//! hashes as text, unread; the windows that are to be read it gives to workers, once there is memory for them.
//! Both reach the other end in the order of the volume, where hashes are written and objects uploaded. What is
//! slow there holds the feeder back.

use super::copies::Whole;
use super::hash_writer::HashWriter;
use super::memory::Memory;
use super::plan::Wanted;
use super::upload::Upload;
use super::window::{Job, WindowResult, WindowWork};
use crate::backup::error::{
    BadRequestSnafu, CancelledSnafu, UnusableParentSnafu, WorkerSnafu, WrongDeltaSnafu,
};
use crate::backup::format::ENTRY;
use crate::backup::hash_reader::HashReader;
use crate::backup::{BackupError, Progress, blocking};
use bytes::Bytes;
use snafu::{OptionExt, ResultExt, ensure};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tracing::Instrument;
use uuid::Uuid;

/// Entries passed on at a time: about a mebibyte.
const STRETCH: u64 = (1 << 20) / ENTRY as u64;
/// Stretches and windows between feeder and end, beside those at work.
const QUEUE: usize = 8;

/// A backup's way through the volume.
pub(super) struct Pipeline {
    pub work: Arc<WindowWork>,
    pub memory: Arc<Memory>,
    pub wanted: Wanted,
    pub chunk: u64,
    pub size: u64,
    pub progress: Progress,
    /// Blocks that are compared with the parent's hash although they are said to be unchanged; ascending.
    pub spots: Vec<u64>,
}

/// The parent's hashes.
pub(super) struct Known {
    pub reader: HashReader,
    /// How many there must be.
    pub blocks: u64,
    pub backup: Uuid,
    /// It is no parent: what is read is stored, all of it, and these objects of it are copied. In order.
    pub copies: Option<VecDeque<Whole>>,
}

enum Item {
    /// Hashes of blocks that did not change, and how many bytes those have.
    Unread(Bytes, u64),
    /// Objects to be copied.
    Copies(Vec<Whole>),
    Window(JoinHandle<Result<WindowResult, BackupError>>, u64),
}

impl Item {
    /// Waits for a worker whose result nobody wants.
    async fn ended(self) {
        if let Item::Window(worker, _) = self {
            // Why it stopped has been said elsewhere.
            let _ = worker.await;
        }
    }
}

impl Pipeline {
    /// Takes the whole volume through; the hashes are written, not finished, and all uploads have landed.
    pub async fn run(
        self,
        known: Option<Known>,
        upload: &mut Upload,
        hashes: &mut HashWriter,
    ) -> Result<(), BackupError> {
        let workers = std::thread::available_parallelism().map_or(2, usize::from);
        let (sender, mut receiver) = mpsc::channel(workers + QUEUE);
        let end = async {
            let done = collect(&mut receiver, &self.work, &self.progress, upload, hashes).await;
            // Seen by the workers, and by the feeder once it meets the closed channel. Nobody reads the source
            // any more when this is over.
            self.work.is_over.store(done.is_err(), Ordering::Relaxed);
            receiver.close();
            while let Some(item) = receiver.recv().await {
                item.ended().await;
            }
            done
        };
        let (fed, collected) = tokio::join!(self.feed(known, sender, workers), end);
        // Also after a failure: what is still on its way must have landed before it can be removed.
        let drained = upload.drain().await;
        // The end knows better why it stopped than the feeder, who only misses it.
        match (fed, collected) {
            (Err(fed), Ok(())) => Err(fed),
            (_, collected) => collected.and(drained),
        }
    }

    async fn feed(
        &self,
        mut known: Option<Known>,
        sender: mpsc::Sender<Item>,
        workers: usize,
    ) -> Result<(), BackupError> {
        let cores = Arc::new(Semaphore::new(workers));
        let block = self.work.block;
        let known_blocks = known.as_ref().map_or(0, |known| known.blocks);
        let copies = known.as_ref().is_some_and(|known| known.copies.is_some());
        let mut at = 0;
        for parts in self.wanted.windows(self.chunk, !copies) {
            self.work.cancel.check()?;
            let (first, end) = (parts[0].start / block, parts[parts.len() - 1].end.div_ceil(block));
            if let Some(known) = &mut known {
                self.pass(known, at..first, &sender).await?;
            }
            let text = match &mut known {
                Some(known) if !copies => {
                    let text = known.text(first..end.min(known_blocks).max(first));
                    self.work.cancel.or(text).await?
                }
                _ => Vec::new(),
            };
            at = end;
            let cost = self.work.cost(&parts, text.len());
            let reservation = tokio::select! {
                reservation = self.memory.reserve(cost) => reservation,
                () = self.work.cancel.asked() => return CancelledSnafu.fail(),
                () = sender.closed() => return Ok(()),
            };
            let reason = format!("a window of {cost} bytes is more than any budget");
            let reservation = reservation.context(BadRequestSnafu { reason })?;
            let bytes = (end * block).min(self.size) - first * block;
            let (work, cores) = (Arc::clone(&self.work), Arc::clone(&cores));
            let worker = async move {
                // Never closed.
                let _core = cores.acquire_owned().await;
                blocking(move || work.run(Job { parts, known: text, reservation })).await
            };
            let worker = tokio::spawn(worker.in_current_span());
            if let Err(unsent) = sender.send(Item::Window(worker, bytes)).await {
                unsent.0.ended().await;
                return Ok(());
            }
        }
        let Some(mut known) = known else { return Ok(()) };
        self.pass(&mut known, at..known_blocks, &sender).await?;
        self.work.cancel.or(known.finish()).await
    }

    /// Passes the hashes of what did not change on, unread.
    async fn pass(
        &self,
        known: &mut Known,
        blocks: Range<u64>,
        sender: &mpsc::Sender<Item>,
    ) -> Result<(), BackupError> {
        let mut at = blocks.start;
        let copies = known.copies_before(blocks.end * self.work.block);
        let is_copied = known.copies.is_some();
        if !copies.is_empty() && sender.send(Item::Copies(copies)).await.is_err() {
            return Ok(());
        }
        while at < blocks.end {
            self.work.cancel.check()?;
            let end = blocks.end.min(at + STRETCH);
            let text = self.work.cancel.or(known.text(at..end)).await?;
            self.check_spots(at..end, &text).await?;
            let bytes = (end * self.work.block).min(self.size) - at * self.work.block;
            // Of what is copied that counts which is on its way.
            let item = Item::Unread(text.into(), if is_copied { 0 } else { bytes });
            if sender.send(item).await.is_err() {
                break;
            }
            at = end;
        }
        Ok(())
    }
}

impl Pipeline {
    /// Reads the chosen ones of these blocks, and compares them with the parent's hashes.
    async fn check_spots(&self, blocks: Range<u64>, text: &[u8]) -> Result<(), BackupError> {
        let first = self.spots.partition_point(|spot| *spot < blocks.start);
        for spot in self.spots[first..].iter().take_while(|spot| **spot < blocks.end) {
            let offset = spot * self.work.block;
            let range = offset..self.size.min(offset + self.work.block);
            let at = (spot - blocks.start) as usize * ENTRY;
            let (work, hash) = (Arc::clone(&self.work), text[at..at + ENTRY].to_vec());
            let same = blocking(move || work.has_hash(range, &hash)).await?;
            ensure!(same, WrongDeltaSnafu { offset });
        }
        Ok(())
    }
}

impl Known {
    /// The objects to be copied that end there.
    fn copies_before(&mut self, end: u64) -> Vec<Whole> {
        let Some(copies) = &mut self.copies else { return Vec::new() };
        let count = copies.partition_point(|whole| whole.extent.offset < end);
        copies.drain(..count).collect()
    }

    /// The hashes of these blocks: all of them, or the parent is no parent.
    async fn text(&mut self, blocks: Range<u64>) -> Result<Vec<u8>, BackupError> {
        let wanted = (blocks.end - blocks.start) as usize * ENTRY;
        match self.reader.text(blocks).await {
            Ok(text) if text.len() == wanted => Ok(text),
            Ok(_) => Err(self.unusable("it has fewer hashes than blocks".to_owned())),
            Err(e) if e.is_about_the_set() => Err(self.unusable(e.to_string())),
            Err(e) => Err(e),
        }
    }

    async fn finish(self) -> Result<(), BackupError> {
        let Known { reader, blocks, backup, .. } = self;
        let unusable = |reason: String| UnusableParentSnafu { parent: backup, reason }.build();
        match reader.finish().await {
            Ok(count) if count == blocks => Ok(()),
            Ok(count) => Err(unusable(format!("it has {count} hashes for {blocks} blocks"))),
            Err(e) if e.is_about_the_set() => Err(unusable(e.to_string())),
            Err(e) => Err(e),
        }
    }

    fn unusable(&self, reason: String) -> BackupError {
        UnusableParentSnafu { parent: self.backup, reason }.build()
    }
}

/// The end of the pipeline.
async fn collect(
    items: &mut mpsc::Receiver<Item>,
    work: &WindowWork,
    progress: &Progress,
    upload: &mut Upload,
    hashes: &mut HashWriter,
) -> Result<(), BackupError> {
    while let Some(item) = items.recv().await {
        match item {
            Item::Unread(text, bytes) => {
                work.cancel.or(hashes.write(text)).await?;
                progress.add_done(bytes);
            }
            Item::Copies(copies) => {
                for whole in copies {
                    let bytes = whole.extent.length;
                    upload.copy(whole, &work.cancel).await?;
                    progress.add_done(bytes);
                }
            }
            Item::Window(worker, bytes) => {
                let result = worker.await.context(WorkerSnafu)??;
                upload.bytes_read += result.bytes_read;
                upload.bytes_joined += result.bytes_joined;
                progress.add_read(result.bytes_read);
                for piece in result.pieces {
                    progress.add_changed(piece.length);
                    upload.send(piece, &work.cancel).await?;
                }
                work.cancel.or(hashes.write(result.text)).await?;
                progress.add_done(bytes);
            }
        }
    }
    Ok(())
}
