//! Restoring a backup: fold the chain into a plan, fetch each object once, check it, write it.

pub(super) mod guard;
mod plan;
mod target;

use super::engine::Engine;
use super::error::{BackupError, DamagedSnafu, UnfinishedSnafu};
use super::format::{Extent, HashList, digest_of, md5_hex};
use super::{Cancel, Progress, blocking};
use crate::image::Format;
pub use guard::refuse_used_source;
use plan::{Fetch, fold};
use serde::Serialize;
use snafu::{OptionExt, ResultExt, ensure};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use target::Target;
use tokio::task::JoinSet;
use uuid::Uuid;

/// Objects fetched, checked and written at a time: each is in memory twice, packed and unpacked.
const FETCHES: usize = 4;

/// How to restore.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// Which backup.
    pub backup: Uuid,
    /// Into which file or device.
    pub to: PathBuf,
    /// As what.
    pub format: Format,
    /// Whether something that is there may be overwritten.
    pub in_place: bool,
}

/// What was done.
#[derive(Clone, Debug, Serialize)]
pub struct RestoreReport {
    /// Which backup.
    pub backup_id: Uuid,
    /// It and its ancestors, the newest first.
    pub chain: Vec<Uuid>,
    /// Where it is now.
    pub to: PathBuf,
    /// Chunks fetched.
    pub objects: u64,
    /// The volume's size.
    pub bytes_total: u64,
    /// Got from the repository.
    pub bytes_fetched: u64,
    /// Written; holes are not.
    pub bytes_written: u64,
    /// From begin to end.
    pub seconds: f64,
}

impl Engine {
    /// Restores a backup. A new file appears whole or not at all; nothing is written before the
    /// listing was compared with the manifests, and no byte before its chunk was verified.
    pub async fn restore(
        &self,
        options: &RestoreOptions,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<RestoreReport, BackupError> {
        let started = Instant::now();
        // Before the repository is asked: a refusal should be quick.
        let (to, in_place) = (options.to.clone(), options.in_place);
        blocking(move || guard::check(&to, in_place).map(drop)).await?;
        let catalog = self.catalog();
        let chain = catalog.chain(options.backup).await?;
        let hashes = catalog.hashes(&chain.newest().prefix).await?;
        let plan = fold(&chain, &hashes)?;
        progress.set_total(plan.size);
        cancel.check()?;
        let (to, format, size) = (options.to.clone(), options.format, plan.size);
        let target = Arc::new(blocking(move || Target::open(&to, format, in_place, size)).await?);
        let objects = plan.fetches.len() as u64;
        let mut run = Run { engine: self, hashes: Arc::new(hashes), target, progress, cancel };
        let (bytes_fetched, bytes_written) = run.all(plan.fetches).await?;
        // Every task has ended, and with it its hold on the target.
        let target = Arc::into_inner(run.target).context(UnfinishedSnafu)?;
        blocking(move || target.finish()).await?;
        Ok(RestoreReport {
            backup_id: options.backup,
            chain: chain.links.iter().map(|(set, _)| set.prefix.backup()).collect(),
            to: options.to.clone(),
            objects,
            bytes_total: size,
            bytes_fetched,
            bytes_written,
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}

/// A restore that has begun.
struct Run<'a> {
    engine: &'a Engine,
    hashes: Arc<HashList>,
    target: Arc<Target>,
    progress: &'a Progress,
    cancel: &'a Cancel,
}

impl Run<'_> {
    /// Fetches and writes all; answers the bytes fetched and written.
    async fn all(&mut self, fetches: Vec<Fetch>) -> Result<(u64, u64), BackupError> {
        let mut tasks: JoinSet<Result<(u64, u64), BackupError>> = JoinSet::new();
        let (mut fetched, mut written) = (0, 0);
        let mut failed = None;
        let mut waiting = fetches.into_iter();
        loop {
            while failed.is_none() && tasks.len() < FETCHES {
                let Some(fetch) = waiting.next() else { break };
                match self.cancel.check() {
                    Err(e) => failed = Some(e),
                    Ok(()) => drop(tasks.spawn(self.one(fetch))),
                }
            }
            // After a failure too, to the last one: nobody may write to a target that is given up.
            let Some(ended) = tasks.join_next().await else { break };
            match ended.context(super::error::WorkerSnafu).and_then(|done| done) {
                Ok((got, put)) => (fetched, written) = (fetched + got, written + put),
                Err(e) => failed = failed.or(Some(e)),
            }
        }
        match failed {
            None => Ok((fetched, written)),
            Some(e) if self.target.is_in_place() => {
                tracing::warn!("the target was being overwritten: it now holds parts of the backup only");
                Err(e)
            }
            Some(e) => Err(e),
        }
    }

    fn one(&self, fetch: Fetch) -> impl Future<Output = Result<(u64, u64), BackupError>> + Send + 'static {
        let store = Arc::clone(&self.engine.store);
        let (hashes, target) = (Arc::clone(&self.hashes), Arc::clone(&self.target));
        let progress = self.progress.clone();
        async move {
            let stored = store.get(&fetch.extent.key, fetch.extent.length).await?;
            let got = stored.len() as u64;
            progress.add_transferred(got);
            let write = move || {
                let data = verify(&fetch, &stored, &hashes)?;
                let mut written = 0;
                for part in &fetch.parts {
                    let from = (part.start - fetch.extent.offset) as usize;
                    let to = (part.end - fetch.extent.offset) as usize;
                    written += target.write_at(&data[from..to], part.start)?;
                    progress.add_done(part.end - part.start);
                }
                Ok((got, written))
            };
            blocking(write).await
        }
    }
}

/// Unpacks a chunk and checks all of it, before any of it is used.
fn verify(fetch: &Fetch, stored: &[u8], hashes: &HashList) -> Result<Vec<u8>, BackupError> {
    let Extent { key, offset, length, compression, md5 } = &fetch.extent;
    let damaged = |reason: String| DamagedSnafu { key, reason };
    let data = match compression.decompress(stored, *length) {
        Ok(data) => data,
        Err(e) => return damaged(e.to_string()).fail(),
    };
    ensure!(md5_hex(&data) == *md5, damaged("its md5 is not the manifest's".to_owned()));
    for part in &fetch.parts {
        let bytes = &data[(part.start - offset) as usize..(part.end - offset) as usize];
        let first = part.start / hashes.block;
        for (block, expected) in bytes.chunks(hashes.block as usize).zip(&hashes.digests[first as usize..]) {
            ensure!(digest_of(block) == *expected, damaged("its SHA-256 is not the hash file's".to_owned()));
        }
    }
    Ok(data)
}
