//! Writes the objects of a set that is made from stored ones: each is fetched, checked, cut to what is still needed,
//! and stored again.

use super::plan::{Run, Shape};
use crate::backup::error::{BackupError, BadChainSnafu, DamagedSnafu, WorkerSnafu};
use crate::backup::format::{Compression, Digest, Extent, Prefix, digest_of, md5_hex};
use crate::backup::hash_reader::HashReader;
use crate::backup::store::{Store, StoreError};
use crate::backup::{Cancel, Progress, blocking};
use bytes::Bytes;
use snafu::{ResultExt, ensure};
use std::ops::Range;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Objects made at a time: each is in memory up to three times.
const WORKERS: usize = 3;
/// Of a hash file, at a time.
const COPIED: u64 = 8 << 20;

/// From where to where.
#[derive(Clone, Debug)]
pub(in crate::backup) struct Synthesis {
    pub from: Arc<dyn Store>,
    pub to: Arc<dyn Store>,
    /// Of the new set.
    pub prefix: Prefix,
    /// Of what is not stored as it was.
    pub compression: Compression,
    pub progress: Progress,
    pub cancel: Cancel,
}

/// What was written.
#[derive(Debug, Default)]
pub(in crate::backup) struct Written {
    /// In the order of the volume.
    pub extents: Vec<Extent>,
    pub bytes_fetched: u64,
    pub bytes_uploaded: u64,
    /// By the store itself.
    pub bytes_copied: u64,
}

struct Made {
    extent: Extent,
    fetched: u64,
    stored: u64,
    /// The store has made it, from one that was seen to be right.
    is_copy: bool,
}

impl Synthesis {
    /// Writes all runs as the set's chunks; every byte is compared with its digest first.
    pub async fn chunks(
        &self,
        runs: Vec<Run>,
        mut hashes: HashReader,
        shape: Shape,
    ) -> Result<Written, BackupError> {
        self.progress.set_total(runs.iter().map(|run| run.range.end - run.range.start).sum());
        let mut made: Vec<Option<Extent>> = vec![None; runs.len()];
        let mut written = Written::default();
        let mut tasks: JoinSet<Result<(usize, Made), BackupError>> = JoinSet::new();
        let (mut failed, mut copies) = (None, Vec::new());
        let mut waiting = runs.into_iter().enumerate();
        loop {
            while failed.is_none() && tasks.len() < WORKERS {
                let Some((number, run)) = waiting.next() else { break };
                match self.digests(&mut hashes, &run, shape).await {
                    Err(e) => failed = Some(e),
                    Ok(digests) => {
                        let (this, key) = (self.clone(), self.prefix.chunk(number as u64 + 1));
                        tasks.spawn(async move { Ok((number, this.one(run, digests, shape, key).await?)) });
                    }
                }
            }
            // After a failure too, to the last one: what is on its way must have landed before it can be removed.
            let Some(ended) = tasks.join_next().await else { break };
            match ended.context(WorkerSnafu).and_then(|done| done) {
                Ok((number, Made { extent, fetched, stored, is_copy })) => {
                    self.progress.add_done(extent.length);
                    written.bytes_fetched += fetched;
                    if is_copy {
                        written.bytes_copied += stored;
                        copies.push((extent.key.clone(), stored));
                    } else {
                        written.bytes_uploaded += stored;
                    }
                    made[number] = Some(extent);
                }
                Err(e) => failed = failed.or(Some(e)),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        self.check_copies(copies).await?;
        let count = hashes.finish().await?;
        let reason = format!("its {count} hashes do not fit {} bytes", shape.size);
        let backup = self.prefix.backup();
        ensure!(count == shape.size.div_ceil(shape.block), BadChainSnafu { backup, reason });
        written.extents = made.into_iter().flatten().collect();
        Ok(written)
    }

    async fn digests(
        &self,
        hashes: &mut HashReader,
        run: &Run,
        shape: Shape,
    ) -> Result<Vec<Digest>, BackupError> {
        self.cancel.check()?;
        let blocks = run.range.start / shape.block..run.range.end.div_ceil(shape.block);
        let wanted = (blocks.end - blocks.start) as usize;
        let digests = hashes.take(blocks).await?;
        let reason = format!("it has no hashes of the bytes {}..{}", run.range.start, run.range.end);
        let backup = self.prefix.backup();
        ensure!(digests.len() == wanted, BadChainSnafu { backup, reason });
        Ok(digests)
    }

    async fn one(
        &self,
        run: Run,
        digests: Vec<Digest>,
        shape: Shape,
        key: String,
    ) -> Result<Made, BackupError> {
        let Range { start, end } = run.range;
        let digests = Arc::new(digests);
        let whole = run.whole().cloned();
        let mut as_stored = None;
        let mut buffer = if whole.is_some() { Vec::new() } else { vec![0; (end - start) as usize] };
        let mut fetched = 0;
        for (source, parts) in run.sources {
            let stored = self.from.get(&source.key, source.length).await?;
            fetched += stored.len() as u64;
            as_stored = whole.is_some().then(|| stored.clone());
            let digests = Arc::clone(&digests);
            let fill = move || {
                let data = unpack(&source, &stored)?;
                for part in parts {
                    let bytes =
                        &data[(part.start - source.offset) as usize..(part.end - source.offset) as usize];
                    let first = (part.start / shape.block - start / shape.block) as usize;
                    verify(&source, bytes, &digests[first..], shape.block)?;
                    if !buffer.is_empty() {
                        buffer[(part.start - start) as usize..(part.end - start) as usize]
                            .copy_from_slice(bytes);
                    }
                }
                Ok(buffer)
            };
            buffer = blocking(fill).await?;
        }
        let (extent, body) = match (whole, as_stored) {
            // Nothing to cut: stored again byte by byte, without being sent if the store can do that.
            (Some(extent), Some(body)) => {
                let is_copy = self.copied(&extent.key, &key).await?;
                let (extent, stored) = (Extent { key, ..extent }, body.len() as u64);
                if is_copy {
                    return Ok(Made { extent, fetched, stored, is_copy });
                }
                (extent, body)
            }
            _ => pack(buffer, start, key, self.compression).await?,
        };
        let stored = body.len() as u64;
        self.to.put(&extent.key, body).await?;
        self.progress.add_transferred(stored);
        Ok(Made { extent, fetched, stored, is_copy: false })
    }

    /// Whether the store has copied an object that was read and is right. If not, its bytes are at hand.
    async fn copied(&self, from: &str, to: &str) -> Result<bool, BackupError> {
        if !Arc::ptr_eq(&self.from, &self.to) {
            return Ok(false);
        }
        match self.to.copy(from, to).await {
            Ok(()) => Ok(true),
            Err(StoreError::CannotCopy { .. } | StoreError::Missing { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What was copied may be the last of these bytes soon: each copy is as long as its original.
    async fn check_copies(&self, copies: Vec<(String, u64)>) -> Result<(), BackupError> {
        if copies.is_empty() {
            return Ok(());
        }
        let listed = self.to.list(self.prefix.as_str()).await?;
        for (key, size) in copies {
            let found = listed.binary_search_by(|object| object.key.cmp(&key)).ok();
            let reason = "the store's copy of it has not as many bytes as the original";
            ensure!(found.is_some_and(|at| listed[at].size == size), DamagedSnafu { key, reason });
        }
        Ok(())
    }

    /// Copies a hash file as it is.
    pub async fn copy(&self, from: &str, to: &str) -> Result<u64, BackupError> {
        let mut writer = self.to.begin(to).await?;
        let mut at = 0;
        let copied = async {
            loop {
                self.cancel.check()?;
                let part = self.from.get_range(from, at..at + COPIED).await?;
                at += part.len() as u64;
                if part.is_empty() {
                    return Ok(());
                }
                writer.write(part).await?;
            }
        };
        match copied.await {
            Ok(()) => writer.finish().await?,
            Err(error) => {
                // The error matters more; gc finds what stays.
                let _ = writer.abort().await;
                return Err(error);
            }
        }
        Ok(at)
    }

    /// Removes what may have been written, the manifest first.
    pub async fn remove(&self, chunks: u64) -> Result<(), StoreError> {
        for key in [self.prefix.manifest(), self.prefix.hashes()] {
            self.to.delete(&key).await?;
        }
        for number in 1..=chunks {
            self.to.delete(&self.prefix.chunk(number)).await?;
        }
        Ok(())
    }
}

fn unpack(extent: &Extent, stored: &[u8]) -> Result<Vec<u8>, BackupError> {
    let damaged = |reason: String| DamagedSnafu { key: &extent.key, reason };
    let data = match extent.compression.decompress(stored, extent.length) {
        Ok(data) => data,
        Err(e) => return damaged(e.to_string()).fail(),
    };
    ensure!(md5_hex(&data) == extent.md5, damaged("its md5 is not the manifest's".to_owned()));
    Ok(data)
}

fn verify(extent: &Extent, bytes: &[u8], digests: &[Digest], block: u64) -> Result<(), BackupError> {
    let mut blocks = bytes.chunks(block as usize).zip(digests);
    let right = blocks.all(|(block, expected)| digest_of(block) == *expected);
    ensure!(right, DamagedSnafu { key: &extent.key, reason: "its SHA-256 is not the hash file's" });
    Ok(())
}

async fn pack(
    data: Vec<u8>,
    offset: u64,
    key: String,
    compression: Compression,
) -> Result<(Extent, Bytes), BackupError> {
    let pack = move || {
        let (md5, length) = (md5_hex(&data), data.len() as u64);
        let (compression, body) = match compression.compress(&data)? {
            Some(packed) => (compression, Bytes::from(packed)),
            None => (Compression::None, Bytes::from(data)),
        };
        Ok((Extent { key, offset, length, compression, md5 }, body))
    };
    blocking(pack).await
}
