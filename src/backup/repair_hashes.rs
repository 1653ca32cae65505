//! A damaged hash file: made anew from the chunks of the chain, each of which has its manifest's md5.

use super::catalog::Chain;
use super::engine::Engine;
use super::error::BackupError;
use super::format::{Digest, HashList};
use super::hash_reader::HashReader;
use super::repair::{RepairOptions, nearest};
use super::restore::check::{Fault, Job};
use super::restore::chunk::Chunk;
use super::restore::flow::{Flow, Sink};
use super::restore::plan::fold;
use super::verify_set::Family;
use super::{Cancel, Progress, blocking};
use bytes::Bytes;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use uuid::Uuid;

/// Hashes what comes by.
struct Hashing {
    /// Of each object.
    parts: HashMap<String, Vec<Range<u64>>>,
    block: u64,
    digests: Mutex<Vec<Digest>>,
}

impl Sink for Hashing {
    fn wants<'a>(&'a self, job: &'a Job) -> &'a [Range<u64>] {
        self.parts.get(&job.extent.key).map_or(&[], Vec::as_slice)
    }

    fn take(&self, job: &Job, chunk: &Chunk) -> Result<(), BackupError> {
        for part in self.wants(job) {
            let blocks = (part.start..part.end).step_by(self.block as usize);
            let found: Vec<Digest> =
                blocks.map(|start| chunk.digest(&(start..part.end.min(start + self.block)))).collect();
            let first = (part.start / self.block) as usize;
            let mut digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
            digests[first..first + found.len()].copy_from_slice(&found);
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

/// The bytes of a hash file, or why there are none.
pub(super) async fn rebuild_hashes(
    engine: &Engine,
    family: &Family,
    id: Uuid,
    options: &RepairOptions,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Result<Bytes, String>, BackupError> {
    let Some(manifest) = family.manifest(id).cloned() else {
        return Ok(Err("its manifest is damaged".to_owned()));
    };
    if family.size(id).is_none() {
        return Ok(Err("its chain is not whole".to_owned()));
    }
    let block = match block_of(engine, family, id).await?.or(options.hash_block) {
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
    let hashed = hash_all(engine, chain, block, options, progress, cancel).await;
    match hashed {
        Ok(digests) => {
            let (name, about) = (manifest.name.clone(), manifest.description.clone());
            let encode = move || {
                let list = HashList { block, digests };
                let made =
                    list.encode(&manifest.prefix, name.as_deref(), about.as_deref(), &manifest.created_at)?;
                // It goes over what may still be of use: only if whoever reads it will understand it.
                if HashList::parse(&manifest.prefix, &made)? != list {
                    return Ok(Err("what was made of its chunks does not read as it was written".to_owned()));
                }
                Ok(Ok(Bytes::from(made)))
            };
            blocking(encode).await
        }
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
    engine: &Engine,
    chain: Chain,
    block: u64,
    options: &RepairOptions,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Vec<Digest>, BackupError> {
    let mut plan = blocking(move || fold(chain, block, None)).await?;
    let digests = Mutex::new(vec![[0; 32]; plan.size.div_ceil(block) as usize]);
    let taken = plan.fetches.iter_mut().map(|f| (f.extent.key.clone(), std::mem::take(&mut f.parts)));
    let sink = Arc::new(Hashing { parts: taken.collect(), block, digests });
    let mut flow =
        Flow::new(Arc::clone(&engine.store), Arc::clone(&sink), options.limits, 0, progress, cancel);
    let mut fed = Ok(());
    for fetch in plan.fetches {
        let Some(stored) = fetch.stored else {
            let reason = "it is missing, or larger than it can be".to_owned();
            fed = Err(BackupError::Damaged { key: fetch.extent.key, reason });
            break;
        };
        // No digests to compare with: md5 alone.
        fed = flow.push(Job::unhashed(fetch.extent, stored)).await;
        if fed.is_err() {
            break;
        }
    }
    flow.end(fed).await?;
    let digests = std::mem::take(&mut *sink.digests.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(digests)
}
