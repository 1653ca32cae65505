//! Where two backups of one volume differ, by their hashes alone: no chunk is read.

use super::Cancel;
use super::catalog::{Catalog, Chain};
use super::engine::Engine;
use super::error::{BackupError, BadChainSnafu, BadRequestSnafu};
use super::format::Digest;
use super::hash_reader::HashReader;
use serde::Serialize;
use snafu::ensure;
use std::ops::Range;
use uuid::Uuid;

/// Blocks compared at a time: some megabytes of hashes.
const STEP: u64 = 1 << 15;

/// A run of bytes of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ByteRange {
    /// Where it begins.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// How two backups differ.
#[derive(Clone, Debug, Serialize)]
pub struct DiffReport {
    /// The one.
    pub from: Uuid,
    /// The other.
    pub to: Uuid,
    /// Whose they are.
    pub volume_id: Uuid,
    /// The grain: bytes per hash.
    pub hash_block: u64,
    /// The volume's size at the one.
    pub bytes_from: u64,
    /// And at the other.
    pub bytes_to: u64,
    /// In blocks that differ; what only one of them has counts.
    pub bytes_differ: u64,
    /// Runs of such blocks.
    pub ranges_total: u64,
    /// The first of them.
    pub ranges: Vec<ByteRange>,
}

/// The hashes of one side.
struct Side {
    chain: Chain,
    size: u64,
    hashes: HashReader,
}

impl Side {
    async fn open(catalog: &Catalog, backup: Uuid) -> Result<Self, BackupError> {
        let chain = catalog.chain(backup).await?;
        let hashes = HashReader::open(catalog, &chain.newest().prefix).await?;
        Ok(Side { size: chain.size(), chain, hashes })
    }

    fn blocks(&self) -> u64 {
        self.size.div_ceil(self.hashes.block())
    }

    async fn finish(self) -> Result<(), BackupError> {
        let (expected, size) = (self.blocks(), self.size);
        let count = self.hashes.finish().await?;
        let reason = format!("its {count} hashes do not fit {size} bytes");
        ensure!(count == expected, BadChainSnafu { backup: self.chain.newest().prefix.backup(), reason });
        Ok(())
    }
}

impl Engine {
    /// Compares two backups of one volume, in any order. At most `most` ranges are listed, all are counted.
    pub async fn diff(
        &self,
        from: Uuid,
        to: Uuid,
        most: usize,
        cancel: &Cancel,
    ) -> Result<DiffReport, BackupError> {
        let catalog = self.catalog();
        let mut one = Side::open(&catalog, from).await?;
        let mut other = Side::open(&catalog, to).await?;
        let volume = |side: &Side| side.chain.newest().prefix.volume();
        let reason = format!("{from} is a backup of volume {}, {to} of {}", volume(&one), volume(&other));
        ensure!(volume(&one) == volume(&other), BadRequestSnafu { reason });
        let (block, theirs) = (one.hashes.block(), other.hashes.block());
        let reason = format!(
            "{from} has hash blocks of {block} bytes, {to} of {theirs}: hashes of different sizes cannot be compared; \
             restore both and compare the files"
        );
        ensure!(block == theirs, BadRequestSnafu { reason });
        let mut report = DiffReport {
            from,
            to,
            volume_id: volume(&one),
            hash_block: block,
            bytes_from: one.size,
            bytes_to: other.size,
            bytes_differ: 0,
            ranges_total: 0,
            ranges: Vec::new(),
        };
        let (blocks, end) = (one.blocks().max(other.blocks()), one.size.max(other.size));
        let mut open: Option<Range<u64>> = None;
        for start in (0..blocks).step_by(STEP as usize) {
            cancel.check()?;
            let step = start..blocks.min(start + STEP);
            let (a, b) = (one.hashes.take(step.clone()).await?, other.hashes.take(step.clone()).await?);
            for run in differing(&a, &b, step) {
                let run = run.start * block..end.min(run.end * block);
                match open.as_mut().filter(|open| open.end == run.start) {
                    Some(open) => open.end = run.end,
                    None => report.close(open.replace(run), most),
                }
            }
        }
        report.close(open, most);
        one.finish().await?;
        other.finish().await?;
        Ok(report)
    }
}

impl DiffReport {
    fn close(&mut self, range: Option<Range<u64>>, most: usize) {
        let Some(Range { start: offset, end }) = range else { return };
        let length = end - offset;
        self.bytes_differ += length;
        self.ranges_total += 1;
        if self.ranges.len() < most {
            self.ranges.push(ByteRange { offset, length });
        }
    }
}

/// Runs of blocks that are not the same; a block that only one side has is not.
fn differing(one: &[Digest], other: &[Digest], step: Range<u64>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for block in step.clone() {
        let at = (block - step.start) as usize;
        if one.get(at).is_some() && one.get(at) == other.get(at) {
            continue;
        }
        match runs.last_mut().filter(|run| run.end == block) {
            Some(run) => run.end = block + 1,
            None => runs.push(block..block + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs() {
        let digests = |bytes: &[u8]| bytes.iter().map(|byte| [*byte; 32]).collect::<Vec<_>>();
        let (one, other) = (digests(&[1, 2, 3, 4, 5]), digests(&[1, 9, 9, 4]));
        assert_eq!(differing(&one, &other, 10..15), [11..13, 14..15]);
        assert_eq!(differing(&one, &one, 10..15), []);
        assert_eq!(differing(&one, &[], 0..5).first(), Some(&(0..5)));
    }
}
