//! What differs from a stored backup where nothing is recorded of it: all that is allocated is read, and compared by hash.

use super::plan::Wanted;
use super::window::WindowWork;
use crate::backup::error::UnusableParentSnafu;
use crate::backup::format::ENTRY;
use crate::backup::hash_reader::HashReader;
use crate::backup::{BackupError, Progress, blocking};
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use uuid::Uuid;

/// Bytes of the volume that are compared at a time, whole blocks of them.
const WINDOW: u64 = 64 << 20;

/// The blocks whose hash is another one, and how many bytes were read to know it.
pub(super) async fn differing(
    work: Arc<WindowWork>,
    (backup, mut hashes): (Uuid, HashReader),
    size: u64,
    progress: &Progress,
) -> Result<(Wanted, u64), BackupError> {
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let (block, step) = (work.block, WINDOW.next_multiple_of(work.block));
    let unusable = |reason: String| UnusableParentSnafu { parent: backup, reason }.build();
    let (mut jobs, mut at, mut failed) = (FuturesOrdered::new(), 0, None);
    let (mut changed, mut bytes_read) = (Vec::new(), 0);
    loop {
        while failed.is_none() && at < size && jobs.len() < workers {
            let range = at..size.min(at + step);
            at = range.end;
            match work.cancel.or(hashes.text(range.start / block..range.end.div_ceil(block))).await {
                Err(BackupError::Cancelled) => failed = Some(BackupError::Cancelled),
                Err(e) if e.is_about_the_set() => failed = Some(unusable(e.to_string())),
                Err(e) => failed = Some(e),
                Ok(known) => {
                    let work = Arc::clone(&work);
                    jobs.push_back(blocking(move || work.compare_with(range, &known)));
                }
            }
        }
        // After a failure too, to the last one: nobody reads the source any more when this is over.
        match jobs.next().await {
            None => break,
            Some(Ok((ranges, read))) => {
                changed.extend(ranges);
                bytes_read += read;
                progress.add_read(read);
            }
            Some(Err(e)) => {
                work.is_over.store(true, Ordering::Relaxed);
                failed = failed.or(Some(e));
            }
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    let wanted = Wanted::of(changed, block, 0, size);
    Ok((wanted.map_err(unusable)?, bytes_read))
}

impl WindowWork {
    /// The blocks of this range whose hash is not the known one, and how many bytes were read.
    fn compare_with(&self, range: Range<u64>, known: &[u8]) -> Result<(Vec<Range<u64>>, u64), BackupError> {
        let data = self.data(&range)?;
        let (mut changed, mut bytes_read) = (Vec::<Range<u64>>::new(), 0);
        let mut buffer = vec![0; self.step() as usize];
        for start in range.clone().step_by(self.step() as usize) {
            let step = start..range.end.min(start + self.step());
            let bytes = &mut buffer[..(step.end - step.start) as usize];
            let has_data = self.fill(bytes, &step, &data, &mut bytes_read)?;
            let mut hashes = Vec::new();
            self.hash(bytes, has_data, &mut hashes);
            for (hash, start) in hashes.chunks_exact(ENTRY).zip(step.step_by(self.block as usize)) {
                let at = ((start - range.start) / self.block) as usize * ENTRY;
                if known.get(at..at + ENTRY) == Some(hash) {
                    continue;
                }
                let end = range.end.min(start + self.block);
                match changed.last_mut().filter(|last| last.end == start) {
                    Some(last) => last.end = end,
                    None => changed.push(start..end),
                }
            }
        }
        Ok((changed, bytes_read))
    }
}
