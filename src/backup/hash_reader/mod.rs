//! The hashes of a stored backup, taken from front to back as the volume is gone through. The file is read in
//! parts, one ahead, so memory does not grow with the volume. It was written by somebody else: any JSON of
//! that shape is understood, keys in any order, and nothing in it can ask for much memory.

mod scan;

use super::catalog::Catalog;
use super::error::BackupError;
use super::format::{Digest, ENTRY, HashHeader, InvalidSnafu, Prefix, digest_in};
use scan::Scanner;
use snafu::{OptionExt, ensure};
use std::ops::Range;

/// How much of a file's end is looked at for the keys that stand behind the list.
const END: u64 = 64 << 10;
/// Digests passed over at a time.
const STEP: u64 = 64 << 10;

/// A hash file that is being read.
#[derive(Debug)]
pub(super) struct HashReader {
    prefix: Prefix,
    scanner: Scanner,
    block: u64,
    /// The next one.
    at: u64,
}

impl HashReader {
    /// Begins to read the hashes of a set. Version and header are checked, also those that stand behind the list.
    pub async fn open(catalog: &Catalog, prefix: &Prefix) -> Result<Self, BackupError> {
        let store = catalog.store();
        let mut scanner = Scanner::new(store.clone(), prefix.hashes());
        scanner.read_to_list().await?;
        let mut header = scanner.header().clone();
        if !header.is_complete() {
            fill_from_end(catalog, prefix, &mut header).await?;
        }
        if !header.is_complete() {
            // Another order than ours, or a long end: the whole file is passed over once.
            let mut whole = Scanner::new(store.clone(), prefix.hashes());
            whole.read_to_list().await?;
            while whole.entries(STEP, None).await? == STEP {}
            whole.read_to_end().await?;
            header = whole.header().clone();
        }
        let block = header.check(prefix)?;
        Ok(HashReader { prefix: prefix.clone(), scanner, block, at: 0 })
    }

    /// Bytes per hash.
    pub fn block(&self) -> u64 {
        self.block
    }

    /// The first block that can still be asked for.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The digests of these blocks, fewer where the file ends before. Blocks are asked for in ascending order:
    /// `blocks.start` is never below an earlier call's end.
    pub async fn take(&mut self, blocks: Range<u64>) -> Result<Vec<Digest>, BackupError> {
        let text = self.text(blocks).await?;
        let digests = text.chunks_exact(ENTRY).map(digest_in);
        let digests: Option<Vec<Digest>> = digests.collect();
        let reason = "a digest that is no SHA-256";
        Ok(digests.context(InvalidSnafu { key: self.prefix.hashes(), reason })?)
    }

    /// The same as text: entries as we write them, comma first.
    pub async fn text(&mut self, blocks: Range<u64>) -> Result<Vec<u8>, BackupError> {
        while self.at < blocks.start {
            let step = (blocks.start - self.at).min(STEP);
            let passed = self.scanner.entries(step, None).await?;
            self.at += passed;
            if passed < step {
                return Ok(Vec::new());
            }
        }
        let mut text = Vec::new();
        self.at += self.scanner.entries(blocks.end.saturating_sub(self.at), Some(&mut text)).await?;
        Ok(text)
    }

    /// Reads on to the end, checks what stands behind the hashes, and answers how many there are.
    pub async fn finish(mut self) -> Result<u64, BackupError> {
        loop {
            let passed = self.scanner.entries(STEP, None).await?;
            self.at += passed;
            if passed < STEP {
                break;
            }
        }
        self.scanner.read_to_end().await?;
        let (key, reason) = (self.prefix.hashes(), "its hash block size is given twice, differently");
        let block = self.scanner.header().check(&self.prefix)?;
        ensure!(block == self.block, InvalidSnafu { key, reason });
        Ok(self.at)
    }
}

/// Keys are sorted, so the version stands behind the list: it is looked up before anything is relied on. What is
/// found here is looked at again when the end is reached.
async fn fill_from_end(
    catalog: &Catalog,
    prefix: &Prefix,
    header: &mut HashHeader,
) -> Result<(), BackupError> {
    let key = prefix.hashes();
    let listed = catalog.store().list(&key).await?;
    let Some(size) = listed.iter().find(|object| object.key == key).map(|object| object.size) else {
        return Ok(());
    };
    let end = catalog.store().get_range(&key, size.saturating_sub(END)..size).await?;
    let Some(close) = end.iter().rposition(|b| *b == b']') else { return Ok(()) };
    let members = end[close + 1..].trim_ascii_start();
    if let Some(members) = members.strip_prefix(b",") {
        header.fill(&[b"{", members].concat());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
