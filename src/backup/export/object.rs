//! The object that an export uploads: in parts, which become an object when all of them are there.

use super::super::error::{BadRequestSnafu, ObjectExistsSnafu};
use super::super::progress::{Cancel, Progress};
use super::super::store::{ObjectBacked, Upload};
use super::super::{BackupError, SnapshotSource, blocking};
use super::walk::Walk;
use bytes::Bytes;
use snafu::ensure;
use std::sync::Arc;
use tokio::sync::mpsc;

/// S3's limits: 10,000 parts, 5 TiB an object.
const MOST_PARTS: u64 = 10_000;
const LARGEST: u64 = 5 << 40;
/// Few enough requests, and little enough memory: a part under way is held whole.
const SMALLEST_PART: u64 = 16 << 20;
/// Parts under way at a time.
const AT_A_TIME: usize = 3;

/// An object that is there.
pub(super) struct Uploaded {
    pub bytes: u64,
    pub sha256: String,
}

pub(super) async fn refuse_existing(store: &ObjectBacked, key: &str, force: bool) -> Result<(), BackupError> {
    ensure!(force || !store.has(key).await?, ObjectExistsSnafu { object: store.url_of(key) });
    Ok(())
}

/// Streams a disk into an object. Whatever ends it early, no object is made, and what was sent is removed.
pub(super) async fn upload(
    store: &ObjectBacked,
    key: &str,
    source: Arc<dyn SnapshotSource>,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Uploaded, BackupError> {
    let size = source.size();
    let reason = format!("{size} bytes are more than an object can have ({LARGEST}); export it to a file");
    ensure!(size <= LARGEST, BadRequestSnafu { reason });
    let mut upload = store.begin_upload(key, part_size(size)).await?;
    progress.set_total(size);
    let (sender, receiver) = mpsc::channel(2);
    let (progress_, cancel_) = (progress.clone(), cancel.clone());
    let reading = tokio::spawn(blocking(move || read(&*source, &progress_, &cancel_, &sender)));
    let sent = cancel.or(send(&mut upload, receiver, progress)).await;
    let read = reading.await.unwrap_or_else(|source| Err(BackupError::Worker { source }));
    // What is on its way lands before anything is finished or removed: later it would stay.
    let landed = cancel.or_soon(upload.landed()).await.and_then(|()| cancel.check());
    // Where nobody took the bytes any more, the reading ended for that alone.
    let error = match sent.and(read).and_then(|sha256| landed.map(|()| sha256)) {
        Ok(sha256) => {
            cancel.or_soon(upload.finish()).await?;
            return Ok(Uploaded { bytes: size, sha256 });
        }
        Err(error) => error,
    };
    if let Err(error) = cancel.or_soon(upload.abort()).await {
        tracing::warn!(object = key, %error, "parts of an upload that was broken off stay until they are cleared away");
    }
    Err(error)
}

/// As small as the limit on their number allows; a whole number of MiB.
fn part_size(size: u64) -> usize {
    let needed = size.div_ceil(MOST_PARTS).next_multiple_of(1 << 20);
    needed.max(SMALLEST_PART) as usize
}

/// Every byte of the disk, zeros too: an object has no holes.
fn read(
    source: &dyn SnapshotSource,
    progress: &Progress,
    cancel: &Cancel,
    to: &mpsc::Sender<Bytes>,
) -> Result<String, BackupError> {
    static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
    let size = source.size();
    let mut walk = Walk::new(source, progress, cancel);
    let mut at = 0;
    loop {
        let piece = walk.step()?.map(|piece| (piece.offset, Bytes::copy_from_slice(piece.data)));
        let hole_end = piece.as_ref().map_or(size, |(offset, _)| *offset);
        while at < hole_end {
            cancel.check()?;
            let length = (hole_end - at).min(ZEROS.len() as u64);
            let zeros = Bytes::from_static(&ZEROS).slice(..length as usize);
            // Nobody takes them any more: the upload has failed, which is told there.
            if to.blocking_send(zeros).is_err() {
                return Err(BackupError::Cancelled);
            }
            at += length;
        }
        let Some((_, data)) = piece else { return Ok(walk.digest()) };
        at += data.len() as u64;
        if to.blocking_send(data).is_err() {
            return Err(BackupError::Cancelled);
        }
    }
}

async fn send(
    upload: &mut Upload,
    mut from: mpsc::Receiver<Bytes>,
    progress: &Progress,
) -> Result<(), BackupError> {
    while let Some(data) = from.recv().await {
        let length = data.len() as u64;
        upload.send(data, AT_A_TIME).await?;
        progress.add_transferred(length);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_small_and_there_are_never_too_many() {
        assert_eq!(part_size(0), 16 << 20);
        assert_eq!(part_size(1 << 30), 16 << 20);
        for size in [1 << 40, LARGEST, LARGEST - 1, (160 << 30) - 1, 160_000 << 20] {
            assert!(size.div_ceil(part_size(size) as u64) <= MOST_PARTS, "{size}");
            assert_eq!(part_size(size) % (1 << 20), 0);
        }
    }
}
