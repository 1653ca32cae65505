//! How a backup is made, and what is told of it.

use crate::backup::BackupError;
use crate::backup::error::BadRequestSnafu;
use crate::backup::format::{
    Compression, DEFAULT_CHUNK_SIZE, DEFAULT_HASH_BLOCK, ENTRY, MAX_CHUNK_SIZE, MIN_HASH_BLOCK, ZoneName,
};
use serde::Serialize;
use snafu::ensure;
use uuid::Uuid;

/// On which backup an incremental one is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParentChoice {
    /// A full backup.
    None,
    /// The newest complete one of the same volume; if there is none, as [`ParentChoice::Origin`].
    Latest,
    /// None: a full backup, for which the store copies what it has of the data that the volume was made from.
    Origin,
    /// This one; a full one if it is gone or damaged.
    Backup(Uuid),
}

/// What to do with an earlier attempt that was broken off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// Nothing. What this attempt uploads is removed if it fails.
    #[default]
    No,
    /// Go on with this one. What is uploaded stays if it fails again.
    Backup(Uuid),
    /// Go on with one of the same snapshot, parent and settings, or begin one. What is uploaded stays if it fails.
    Auto,
    /// Go on with what there is of this one, or begin it under this id, which the caller gives to the same snapshot, parent
    /// and settings only. What is uploaded stays if it fails.
    As(Uuid),
}

/// `CreateOptions::hash_block`: the parent's, or by the volume's size.
pub const CHOOSE_HASH_BLOCK: u64 = 0;
/// A hash file should not be larger than this: 32 KiB blocks up to 145 GiB, 256 KiB at 1 TiB.
const HASH_FILE: u64 = 320 << 20;
/// Enough for two windows at work and one on its way.
pub const DEFAULT_MEMORY: u64 = 256 << 20;
/// Enough to hide a round trip to the store, few enough for a small server.
pub const DEFAULT_CONCURRENCY: usize = 4;

/// As many MD5s as are computed side by side: objects of 6.25 MiB.
pub const DEFAULT_SPLIT: u64 = 8;
/// Smaller objects cost a store more than they save.
const MIN_PART: u64 = 4 << 20;

/// How to make a backup.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Whose backup it is.
    pub volume: Uuid,
    /// Full or incremental.
    pub parent: ParentChoice,
    /// Of chunks that shrink by it.
    pub compression: Compression,
    /// Bytes of the volume in one window: zeros become objects of it. A multiple of `hash_block`.
    pub chunk_size: u64,
    /// Objects that the data of one window becomes, at most: their MD5s are computed side by side. Never smaller ones
    /// than `MIN_PART`; 1 for Cinder's own, one per window.
    pub split: u64,
    /// Bytes per hash: the grain of an incremental backup; or `CHOOSE_HASH_BLOCK`.
    pub hash_block: u64,
    /// Part of the objects' names.
    pub zone: ZoneName,
    /// For people.
    pub name: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// The volume's metadata, encoded.
    pub volume_meta: Option<String>,
    /// Bytes in memory, in all: read, compressed, on their way.
    pub memory: u64,
    /// Uploads at a time.
    pub concurrency: usize,
    /// Bytes uploaded per second, at most.
    pub limit_rate: Option<u64>,
    /// Changed runs of one window that are at most so many bytes apart become one object.
    pub join: u64,
    /// Blocks that are said to be unchanged, taken at random, read all the same and compared with the parent's
    /// hashes. One that differs: everything is read.
    pub spot_checks: u32,
    /// Whether an attempt that was broken off is gone on with.
    pub resume: Resume,
}

impl CreateOptions {
    /// A full backup with Cinder's sizes.
    pub fn new(volume: Uuid) -> Self {
        CreateOptions {
            volume,
            parent: ParentChoice::None,
            compression: Compression::default(),
            chunk_size: DEFAULT_CHUNK_SIZE,
            split: DEFAULT_SPLIT,
            hash_block: DEFAULT_HASH_BLOCK,
            zone: ZoneName::default(),
            name: None,
            description: None,
            volume_meta: None,
            memory: DEFAULT_MEMORY,
            concurrency: DEFAULT_CONCURRENCY,
            limit_rate: None,
            join: 0,
            spot_checks: 0,
            resume: Resume::No,
        }
    }

    pub(super) fn check(&self, size: u64) -> Result<(), BackupError> {
        let bad = |reason: String| BadRequestSnafu { reason };
        let Self { chunk_size: chunk, hash_block: block, .. } = *self;
        ensure!(size > 0, bad("the volume has no bytes: there is nothing to back up".to_owned()));
        let reason = format!("a chunk has at least {MIN_HASH_BLOCK} bytes, not {chunk}");
        ensure!(chunk >= MIN_HASH_BLOCK, bad(reason));
        let reason = format!("a chunk has at most {MAX_CHUNK_SIZE} bytes, not {chunk}");
        ensure!(chunk <= MAX_CHUNK_SIZE, bad(reason));
        ensure!(self.split > 0, bad("a chunk becomes at least one object".to_owned()));
        ensure!(self.concurrency > 0, bad("at least one upload at a time".to_owned()));
        ensure!(self.limit_rate != Some(0), bad("a rate of 0 bytes per second never ends".to_owned()));
        if block == CHOOSE_HASH_BLOCK {
            return Ok(());
        }
        let reason = format!("a hash block has at least {MIN_HASH_BLOCK} bytes, not {block}");
        ensure!(block >= MIN_HASH_BLOCK, bad(reason));
        let reason = format!("the chunk size {chunk} is no multiple of the hash block size {block}");
        ensure!(chunk % block == 0, bad(reason));
        Ok(())
    }

    /// Bytes of an object with data, at most: whole hash blocks.
    pub(super) fn part(&self, block: u64) -> u64 {
        let part = self.chunk_size.div_ceil(self.split).max(MIN_PART);
        part.next_multiple_of(block).min(self.chunk_size)
    }

    /// The hash block of a backup without a parent.
    pub(super) fn own_block(&self, size: u64) -> Result<u64, BackupError> {
        if self.hash_block != CHOOSE_HASH_BLOCK {
            return Ok(self.hash_block);
        }
        let divides = |block: &u64| self.chunk_size.is_multiple_of(*block);
        let steps = (0..16).map(|n| DEFAULT_HASH_BLOCK << n).take_while(divides);
        let fitting = steps.clone().find(|block| size.div_ceil(*block) * ENTRY as u64 <= HASH_FILE);
        // A chunk of an odd size: the best that divides it.
        let smaller = || (9..15).rev().map(|n| 1 << n).find(divides);
        let chunk = self.chunk_size;
        let reason = format!("the chunk size {chunk} is no multiple of {MIN_HASH_BLOCK}");
        fitting.or(steps.last()).or_else(smaller).ok_or_else(|| BadRequestSnafu { reason }.build())
    }
}

/// What was done.
#[derive(Clone, Debug, Serialize)]
pub struct CreateReport {
    /// The new backup.
    pub backup_id: Uuid,
    /// What it is made on; absent for a full one.
    pub parent_id: Option<Uuid>,
    /// What its objects' names begin with.
    pub prefix: String,
    /// Chunks; the manifest and the hashes are not counted.
    pub objects: u64,
    /// The volume's size.
    pub bytes_total: u64,
    /// Bytes per hash.
    pub hash_block: u64,
    /// Read from the source.
    pub bytes_read: u64,
    /// Of the volume, stored in this backup's chunks.
    pub bytes_changed: u64,
    /// Of those: unchanged, stored because they lie between two changed runs.
    pub bytes_joined: u64,
    /// Put into the repository.
    pub bytes_uploaded: u64,
    /// The backup of the volume's origin whose objects the store has copied.
    pub copied_from: Option<Uuid>,
    /// How many of them.
    pub objects_copied: u64,
    /// Their bytes in the repository: neither read from the source nor uploaded.
    pub bytes_copied: u64,
    /// Found there from an earlier attempt, compared, and not put again.
    pub bytes_resumed: u64,
    /// The most bytes of windows in memory at a time.
    pub bytes_buffered: u64,
    /// From begin to end.
    pub seconds: f64,
    /// Why it is a full one although a parent was asked for.
    pub full_because: Option<String>,
    /// Why everything was read although there is a parent.
    pub read_all_because: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// The hash file of any volume stays below some 300 MB, as long as the chunk allows.
    #[rstest]
    #[case(1 << 30, DEFAULT_CHUNK_SIZE, 32 << 10)]
    #[case(100 << 30, DEFAULT_CHUNK_SIZE, 32 << 10)]
    #[case(200 << 30, DEFAULT_CHUNK_SIZE, 64 << 10)]
    #[case(1 << 40, DEFAULT_CHUNK_SIZE, 256 << 10)]
    #[case(1 << 50, DEFAULT_CHUNK_SIZE, 2 << 20)]
    #[case(1 << 40, 16 << 10, 16 << 10)]
    #[case(1 << 40, 3 << 9, 512)]
    fn chosen_blocks(#[case] size: u64, #[case] chunk_size: u64, #[case] block: u64) {
        let options =
            CreateOptions { chunk_size, hash_block: CHOOSE_HASH_BLOCK, ..CreateOptions::new(Uuid::nil()) };
        options.check(size).unwrap();
        assert_eq!(options.own_block(size).unwrap(), block);
        let part = options.part(block);
        assert!(part.is_multiple_of(block) && part <= chunk_size && part * 8 >= chunk_size);
        let odd = CreateOptions { chunk_size: 1001, ..options };
        assert!(odd.own_block(size).is_err());
    }
}
