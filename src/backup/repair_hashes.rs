//! A damaged hash file: made anew from the chunks of the chain, each of which has its manifest's md5.

use super::catalog::Chain;
use super::create::hash_writer::HashWriter;
use super::engine::Engine;
use super::error::{BackupError, HashesShortSnafu};
use super::format::{Digest, HashFrame, entry};
use super::hash_reader::HashReader;
use super::repair::{RepairOptions, nearest};
use super::restore::check::{Fault, Job};
use super::restore::chunk::Chunk;
use super::restore::flow::{Flow, Sink};
use super::restore::plan::{Plan, fold};
use super::verify_set::Family;
use super::{Cancel, Progress, blocking};
use snafu::ensure;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

/// Hashes what comes by.
struct Hashing {
    block: u64,
    made: Mutex<Made>,
}

/// Hashes that were made in whatever order.
#[derive(Default)]
struct Made {
    /// Those that are in order, as text, and not written yet.
    text: Vec<u8>,
    /// The block behind them.
    next: u64,
    /// What came before its turn, by its first block.
    ahead: BTreeMap<u64, Vec<Digest>>,
}

impl Made {
    fn add(&mut self, first: u64, digests: Vec<Digest>) {
        self.ahead.insert(first, digests);
        while let Some(digests) = self.ahead.remove(&self.next) {
            self.next += digests.len() as u64;
            self.text.extend(digests.iter().flat_map(entry));
        }
    }
}

impl Hashing {
    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn text(&self) -> Vec<u8> {
        std::mem::take(&mut self.made().text)
    }
}

impl Sink for Hashing {
    fn wants<'a>(&'a self, job: &'a Job) -> &'a [Range<u64>] {
        &job.parts
    }

    fn take(&self, job: &Job, chunk: &Chunk) -> Result<(), BackupError> {
        for part in &job.parts {
            let blocks = (part.start..part.end).step_by(self.block as usize);
            let found =
                blocks.map(|start| chunk.digest(&(start..part.end.min(start + self.block)))).collect();
            self.made().add(part.start / self.block, found);
        }
        Ok(())
    }

    fn lost(&self, job: &Job, fault: Fault) -> Result<(), BackupError> {
        if let Fault::Gone(backup) = fault {
            return Err(BackupError::Changed { backup });
        }
        Err(BackupError::Damaged { key: job.extent.key.clone(), reason: fault.reason() })
    }
}

/// Makes a hash file anew and stores it, or answers why that cannot be.
pub(super) async fn rebuild_hashes(
    engine: &Engine,
    family: &Family,
    id: Uuid,
    options: &RepairOptions,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Result<(), String>, BackupError> {
    let Some(manifest) = family.manifest(id) else {
        return Ok(Err("its manifest is damaged".to_owned()));
    };
    if family.size(id).is_none() {
        return Ok(Err("its chain is not whole".to_owned()));
    }
    let block = match cancel.or(block_of(engine, family, id)).await?.or(options.hash_block) {
        None => return Ok(Err("its block size is known from nowhere: say --hash-block".to_owned())),
        Some(block) if !fits(family, id, block) => {
            return Ok(Err(format!(
                "hash blocks of {block} bytes do not fit its chunks: say another --hash-block"
            )));
        }
        Some(block) => block,
    };
    let links = family.chain(id).into_iter().filter_map(|id| {
        family.member(id).and_then(|(set, manifest)| Some((set.clone(), manifest.as_ref().ok()?.clone())))
    });
    let chain = Chain { links: links.collect() };
    let (name, about) = (manifest.name.as_deref(), manifest.description.as_deref());
    let frame = HashFrame::new(&manifest.prefix, block, name, about, &manifest.created_at)?;
    let hashed = async {
        let plan = blocking(move || fold(chain, block, None)).await?;
        let store = engine.store.as_ref();
        let mut writer = cancel.or(HashWriter::begin(store, &manifest.prefix.hashes(), frame)).await?;
        let beside = plan.memory() + family.memory();
        let sink = Arc::new(Hashing { block, made: Mutex::default() });
        let store = Arc::clone(&engine.store);
        let flow = Flow::new(store, Arc::clone(&sink), options.limits, beside, progress, cancel);
        match hash_all(flow, plan, &sink, &mut writer).await {
            Ok(()) => cancel.or_soon(writer.replace()).await,
            Err(error) => {
                // Nothing of it has a name yet, and what is there may still be of use.
                if let Err(e) = cancel.or_soon(writer.abort()).await {
                    let key = manifest.prefix.hashes();
                    tracing::warn!(error = %e, "parts of {key} stay until they are cleared away");
                }
                Err(error)
            }
        }
    };
    match hashed.await {
        Ok(()) => Ok(Ok(())),
        Err(e @ (BackupError::Damaged { .. } | BackupError::BadChain { .. })) => Ok(Err(e.to_string())),
        Err(e) => Err(e),
    }
}

/// Whether no chunk of the chain begins within a hash block.
fn fits(family: &Family, id: Uuid, block: u64) -> bool {
    let chain = family.chain(id).into_iter().filter_map(|id| family.manifest(id));
    chain.flat_map(|manifest| &manifest.extents).all(|extent| extent.offset.is_multiple_of(block))
}

/// What is left of the file itself tells, or another one: all backups of one volume usually have one block size.
async fn block_of(engine: &Engine, family: &Family, id: Uuid) -> Result<Option<u64>, BackupError> {
    let own = family.manifest(id).into_iter();
    for manifest in own.chain(nearest(family, id)) {
        match HashReader::open(&engine.catalog(), &manifest.prefix).await {
            Ok(reader) if fits(family, id, reader.block()) => return Ok(Some(reader.block())),
            Ok(_) => {}
            Err(e) if e.is_about_the_set() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

async fn hash_all(
    mut flow: Flow<Hashing>,
    plan: Plan,
    sink: &Hashing,
    writer: &mut HashWriter,
) -> Result<(), BackupError> {
    let (cancel, blocks) = (flow.cancel(), plan.size.div_ceil(sink.block));
    let fed = async {
        for fetch in plan.fetches {
            let Some(stored) = fetch.stored else {
                let reason = "it is missing, or larger than it can be".to_owned();
                return Err(BackupError::Damaged { key: fetch.extent.key, reason });
            };
            // No digests to compare with: md5 alone.
            flow.push(Job::unhashed(fetch.extent, stored, fetch.parts)).await?;
            cancel.or(writer.write(sink.text().into())).await?;
        }
        Ok(())
    };
    let fed = fed.await;
    flow.end(fed).await?;
    cancel.or(writer.write(sink.text().into())).await?;
    let reason = format!("{} hashes of {blocks}", writer.entries());
    ensure!(writer.entries() == blocks, HashesShortSnafu { reason });
    Ok(())
}
