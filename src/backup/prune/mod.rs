//! Removing what a retention policy does not keep (K11).

mod retention;
#[cfg(test)]
mod retention_tests;

pub use retention::{Basis, Candidate, Decision, Reason, Retention};

use super::engine::Engine;
use super::error::{BackupError, BadRequestSnafu};
use super::list::BackupInfo;
use super::{Cancel, Progress};
use jiff::Timestamp;
use serde::Serialize;
use snafu::ensure;
use std::collections::{BTreeMap, HashSet};
use uuid::Uuid;

/// What to prune, and how.
#[derive(Clone, Debug, Default)]
pub struct PruneOptions {
    /// What stays.
    pub retention: Retention,
    /// Of one volume, or each volume by itself.
    pub volume: Option<Uuid>,
    /// Backups that stay are made independent of those that go, where they need them.
    pub rebase: bool,
    /// Nothing is changed.
    pub dry_run: bool,
}

/// One backup of a plan.
#[derive(Clone, Debug, Serialize)]
pub struct PruneRow {
    /// Which.
    pub backup_id: Uuid,
    /// Whose.
    pub volume_id: Uuid,
    /// When it was made.
    pub created_at: String,
    /// For people.
    pub name: Option<String>,
    /// Whether it stays.
    pub kept: bool,
    /// Why it stays.
    pub reasons: Vec<Reason>,
    /// Whether it is rewritten because what it is made on goes.
    pub rebased: bool,
    /// Then: what it is made on now; `None` for a full one.
    pub rebased_onto: Option<Uuid>,
    /// In the repository.
    pub bytes_stored: u64,
    /// What is wrong with it.
    pub damage: Option<String>,
}

/// What was done, or would be.
#[derive(Clone, Debug, Serialize)]
pub struct PruneReport {
    /// Nothing was changed.
    pub dry_run: bool,
    /// In order of volume, then time.
    pub backups: Vec<PruneRow>,
    /// Backups that stay.
    pub kept: u64,
    /// Backups that go.
    pub removed: u64,
    /// In the repository, by those that go. What a rebase stores anew is not taken off.
    pub bytes_freed: u64,
}

impl Engine {
    /// Plans, and unless it is a dry run does it: first the rebases, then the deletions, each time the oldest backup
    /// that nothing else is made on. Broken off at any point the rest is whole, and pruning again goes on.
    pub async fn prune(
        &self,
        options: &PruneOptions,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<PruneReport, BackupError> {
        let reason = "no rule says what to keep: give at least one";
        ensure!(!options.retention.is_empty(), BadRequestSnafu { reason });
        let mut volumes: BTreeMap<Uuid, Vec<BackupInfo>> = BTreeMap::new();
        for info in cancel.or(self.list(options.volume)).await? {
            volumes.entry(info.volume_id).or_default().push(info);
        }
        let mut rows = Vec::new();
        let mut bytes_freed = 0;
        for (volume, backups) in volumes {
            let candidates: Vec<Candidate> = backups.iter().map(candidate).collect();
            let decisions = options.retention.decide(&candidates, options.rebase);
            if options.dry_run {
                let gone = backups.iter().zip(&decisions).filter(|(_, decision)| decision.keep.is_empty());
                bytes_freed += gone.map(|(info, _)| info.bytes_stored).sum::<u64>();
            } else {
                for decision in &decisions {
                    if let Some(onto) = decision.rebase {
                        self.rebase_of(Some(volume), decision.backup, onto, progress, cancel).await?;
                    }
                }
                for backup in removal_order(&candidates, &decisions) {
                    cancel.check()?;
                    bytes_freed += self.delete_of(Some(volume), backup).await?.bytes_freed;
                }
            }
            rows.extend(backups.into_iter().zip(decisions).map(|(info, decision)| row(info, decision)));
        }
        let kept = rows.iter().filter(|row| row.kept).count() as u64;
        let removed = rows.len() as u64 - kept;
        Ok(PruneReport { dry_run: options.dry_run, backups: rows, kept, removed, bytes_freed })
    }
}

fn candidate(info: &BackupInfo) -> Candidate {
    let basis = match info.parent_id {
        Some(parent) => Basis::On(parent),
        None if info.is_read => Basis::Full,
        None => Basis::Unknown,
    };
    let created: Option<Timestamp> = info.created_at.parse().ok();
    Candidate { backup: info.backup_id, basis, created, good: info.damage.is_none() }
}

fn row(info: BackupInfo, decision: Decision) -> PruneRow {
    PruneRow {
        backup_id: info.backup_id,
        volume_id: info.volume_id,
        created_at: info.created_at,
        name: info.name,
        kept: !decision.keep.is_empty(),
        reasons: decision.keep,
        rebased: decision.rebase.is_some(),
        rebased_onto: decision.rebase.flatten(),
        bytes_stored: info.bytes_stored,
        damage: info.damage,
    }
}

/// What goes, so that nothing is ever removed before what is made on it: the oldest first, where there is a choice.
fn removal_order(candidates: &[Candidate], decisions: &[Decision]) -> Vec<Uuid> {
    let gone = |(_, decision): &(&Candidate, &Decision)| decision.keep.is_empty();
    let mut left: Vec<&Candidate> =
        candidates.iter().zip(decisions).filter(gone).map(|(candidate, _)| candidate).collect();
    left.sort_by_key(|candidate| candidate.created);
    let mut order = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let needed: HashSet<Uuid> = left
            .iter()
            .filter_map(|candidate| match candidate.basis {
                Basis::On(parent) => Some(parent),
                _ => None,
            })
            .collect();
        // Ancestors that go round are damaged, and nothing damaged goes: there always is a leaf.
        let leaf = left.iter().position(|candidate| !needed.contains(&candidate.backup)).unwrap_or(0);
        order.push(left.remove(leaf).backup);
    }
    order
}
