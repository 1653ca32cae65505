//! Restoring a backup: fold the chain into a plan, fetch each object once, check it, write it.

mod bell;
mod blocks;
pub(super) mod changed;
pub(super) mod check;
pub(super) mod chunk;
pub(super) mod flow;
pub(super) mod guard;
pub(super) mod hash_window;
mod lane;
mod ledger;
pub(super) mod plan;
pub(super) mod run;
mod source;
mod target;
mod unpack;
mod worker;
mod zeros;

use super::catalog::{Chain, check_listing};
use super::engine::Engine;
use super::error::{BackupError, BadRequestSnafu, UnfinishedSnafu};
use super::format::{Digest, zero_digest};
use super::hash_reader::HashReader;
use super::{Cancel, Progress, blocking};
use crate::image::Format;
use check::Job;
use flow::Flow;
pub use flow::Limits;
use guard::Allowed;
pub use guard::refuse_used_source;
use hash_window::HashWindow;
use plan::{Fetch, Plan, fold};
pub use run::{Damaged, Loss};
use run::{Writing, ranges_text};
use serde::Serialize;
use snafu::{OptionExt, ensure};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Instant;
use target::Target;
use uuid::Uuid;

/// How to restore.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// Which backup.
    pub backup: Uuid,
    /// Whose it is, where that is known: then only this volume's objects are listed.
    pub volume: Option<Uuid>,
    /// Into which file or device.
    pub to: PathBuf,
    /// As what.
    pub format: Format,
    /// Whether something that is there may be overwritten.
    pub in_place: bool,
    /// The target is a new file on a share, which the share's records know of. Any other there is refused.
    pub to_share: bool,
    /// Only these bytes of the volume, at the same place of the target; a new one has holes elsewhere.
    pub range: Option<Range<u64>>,
    /// What to do about damaged objects.
    pub damaged: Damaged,
    /// How much at a time.
    pub limits: Limits,
}

impl RestoreOptions {
    /// All of a backup into a new raw file.
    pub fn new(backup: Uuid, to: impl Into<PathBuf>) -> Self {
        RestoreOptions {
            backup,
            volume: None,
            to: to.into(),
            format: Format::Raw,
            in_place: false,
            to_share: false,
            range: None,
            damaged: Damaged::Fail,
            limits: Limits::default(),
        }
    }
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
    /// Chunks that were not: the hashes say that they are zeros wherever they are needed.
    pub objects_of_zeros: u64,
    /// The volume's size.
    pub bytes_total: u64,
    /// The part that was asked for, `[start, end]`; absent for all of it. What else a new target has is holes.
    pub range: Option<(u64, u64)>,
    /// Got from the repository; the hashes and the manifests are not counted.
    pub bytes_fetched: u64,
    /// Written; holes are not.
    pub bytes_written: u64,
    /// Made zeros in an existing target without being written.
    pub bytes_zeroed: u64,
    /// Damaged objects whose bytes are zeros now.
    pub losses: Vec<Loss>,
    /// The most that chunks took in memory at a time.
    pub memory_peak: u64,
    /// From begin to end.
    pub seconds: f64,
}

impl Engine {
    /// Restores a backup. A new file appears whole or not at all; nothing is written before the
    /// listing was compared with the manifests, and no byte before its chunk was verified.
    ///
    /// A chunk that is all zeros by the hash file, wherever it is needed, is not fetched: the hash says what the
    /// bytes are, the object itself is not looked at.
    ///
    /// A backup that is rebased or deleted meanwhile ends it with [`BackupError::Changed`], whatever
    /// `options.damaged` says: nothing is lost, its bytes are elsewhere, or nobody wants them.
    pub async fn restore(
        &self,
        options: &RestoreOptions,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<RestoreReport, BackupError> {
        match self.restore_as_it_is(options, progress, cancel).await {
            Err(error) => Err(changed::instead_of(&self.store, error).await),
            done => done,
        }
    }

    async fn restore_as_it_is(
        &self,
        options: &RestoreOptions,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<RestoreReport, BackupError> {
        let started = Instant::now();
        // Before the repository is asked: a refusal should be quick.
        let allowed = Allowed { in_place: options.in_place, to_share: options.to_share };
        let to = options.to.clone();
        blocking(move || guard::check(&to, allowed).map(drop)).await?;
        let catalog = self.catalog();
        let chain = cancel.or(catalog.manifests_of(options.volume, options.backup)).await?;
        let ids = chain.links.iter().map(|(set, _)| set.prefix.backup()).collect();
        let prefix = chain.newest().prefix.clone();
        let reader = cancel.or(HashReader::open(&catalog, &prefix)).await?;
        let mut hashes = cancel.or(HashWindow::new(reader, prefix.hashes())).await?;
        let block = hashes.block();
        let (range, damaged) = (options.range.clone(), options.damaged);
        let plan = blocking(move || make_plan(chain, block, range, damaged)).await?;
        let (size, end) = (plan.size, options.range.as_ref().map(|range| range.end));
        let wanted = options.range.clone().unwrap_or(0..size);
        progress.set_total(wanted.end - wanted.start);
        cancel.check()?;
        let (to, format) = (options.to.clone(), options.format);
        let target = blocking(move || Target::open(&to, format, allowed, size, end)).await?;
        let writing = Arc::new(Writing::new(target, wanted, damaged, progress));
        let mut flow = Flow::new(
            Arc::clone(&self.store),
            Arc::clone(&writing),
            options.limits,
            plan.memory(),
            progress,
            cancel,
        );
        let fed = feed(&mut flow, &writing, plan, &mut hashes).await;
        let fed = match fed {
            Ok(zeros) => hashes.finish(size).await.map(|()| zeros),
            Err(e) => Err(e),
        };
        let zeros = *fed.as_ref().unwrap_or(&0);
        let tally = flow.end(fed.map(drop)).await.inspect_err(|_| {
            if writing.target.is_in_place() {
                tracing::warn!("the target was being overwritten: it now holds parts of the backup only");
            }
        })?;
        // Every task has ended, and with it its hold on the target.
        let writing = Arc::into_inner(writing).context(UnfinishedSnafu)?;
        let mut losses = writing.losses.into_inner().unwrap_or_else(PoisonError::into_inner);
        losses.sort_by_key(|loss| loss.ranges.first().copied());
        let report = RestoreReport {
            backup_id: options.backup,
            chain: ids,
            to: options.to.clone(),
            objects: tally.objects,
            objects_of_zeros: zeros,
            bytes_total: size,
            range: options.range.as_ref().map(|range| (range.start, range.end)),
            bytes_fetched: tally.bytes_fetched,
            bytes_written: writing.data.load(Ordering::Relaxed),
            bytes_zeroed: writing.zeros.load(Ordering::Relaxed),
            losses,
            memory_peak: tally.memory_peak,
            seconds: 0.0,
        };
        cancel.check()?;
        let target = writing.target;
        blocking(move || target.finish()).await?;
        Ok(RestoreReport { seconds: started.elapsed().as_secs_f64(), ..report })
    }
}

fn make_plan(
    chain: Chain,
    block: u64,
    range: Option<Range<u64>>,
    damaged: Damaged,
) -> Result<Plan, BackupError> {
    if let Some(range) = &range {
        let size = chain.size();
        let reason =
            format!("the range {}-{} does not lie in a volume of {size} bytes", range.start, range.end);
        ensure!(!range.is_empty() && range.end <= size, BadRequestSnafu { reason });
    }
    let wrong: Vec<BackupError> =
        chain.links.iter().filter_map(|(set, manifest)| check_listing(set, manifest).err()).collect();
    let plan = fold(chain, block, range)?;
    match wrong.into_iter().next() {
        // What is missing and needed is told together with what is lost by it.
        Some(error) if damaged == Damaged::Fail => {
            let lost = plan.fetches.iter().find(|fetch| fetch.stored.is_none());
            Err(lost.map_or(error, |fetch| BackupError::Lost {
                key: fetch.extent.key.clone(),
                reason: NOT_THERE.to_owned(),
                ranges: ranges_text(&fetch.parts),
            }))
        }
        Some(error) => {
            tracing::warn!(%error, "the listing is not what the manifests say");
            Ok(plan)
        }
        None => Ok(plan),
    }
}

const NOT_THERE: &str = "it is missing, or larger than it can be";

/// Sends every object of the plan on its way; answers how many need not be fetched.
async fn feed(
    flow: &mut Flow<Writing>,
    writing: &Arc<Writing>,
    plan: Plan,
    hashes: &mut HashWindow,
) -> Result<u64, BackupError> {
    let (block, whole, end) = (hashes.block(), hashes.zeros(), plan.size % hashes.block());
    let zeros = Zeros { block, whole, end: blocking(move || Ok(zero_digest(end))).await? };
    let mut unfetched = 0;
    for Fetch { extent, stored, parts } in plan.fetches {
        let digests = flow.cancel().or(hashes.digests(&parts)).await?;
        if zeros.are_all(&parts, &digests) {
            unfetched += 1;
            let writing = Arc::clone(writing);
            flow.aside(move || writing.zero(&parts)).await?;
            continue;
        }
        match stored {
            Some(stored) => {
                let digests = Some(digests);
                flow.push(Job { extent, stored, parts, digests, block, zeros: whole }).await?;
            }
            None => {
                let writing = Arc::clone(writing);
                flow.aside(move || writing.lose(&extent.key, NOT_THERE.to_owned(), &parts)).await?;
            }
        }
    }
    Ok(unfetched)
}

/// Tells zeros by their digests.
struct Zeros {
    block: u64,
    whole: Digest,
    /// Of the volume's last block, where that is short.
    end: Digest,
}

impl Zeros {
    fn are_all(&self, parts: &[Range<u64>], digests: &[Digest]) -> bool {
        let mut rest = digests;
        parts.iter().all(|part| {
            let length = part.end - part.start;
            let (own, behind) = rest.split_at(rest.len().min(length.div_ceil(self.block) as usize));
            rest = behind;
            match length % self.block {
                0 => own.iter().all(|digest| *digest == self.whole),
                // Only the volume's last block is short.
                _ => own.split_last().is_some_and(|(last, own)| {
                    own.iter().all(|digest| *digest == self.whole) && *last == self.end
                }),
            }
        })
    }
}
