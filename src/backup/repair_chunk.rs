//! One damaged chunk: its blocks are gathered from what is left of it, from an image, and from other backups.

use super::engine::Engine;
use super::error::BackupError;
use super::format::{Digest, Extent, Manifest, Prefix, digest_of, md5_hex, zero_digest};
use super::hash_reader::HashReader;
use super::repair::{backup_word, nearest, touching};
use super::restore::check::push_range;
use super::restore::run::ranges_text;
use super::store::StoreError;
use super::verify_set::Family;
use super::{SnapshotSource, blocking};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// Where bytes may be found.
pub(super) struct Source<'a> {
    pub engine: &'a Engine,
    pub family: &'a Family,
    pub image: Option<&'a Arc<dyn SnapshotSource>>,
}

/// What to store, and where it was found; or why there is nothing.
pub(super) type Rebuilt = Result<(Bytes, Vec<String>), String>;

/// A chunk that is put together. Only blocks that have their hash go in.
struct Puzzle {
    extent: Extent,
    block: u64,
    digests: Vec<Digest>,
    data: Vec<u8>,
    found: Vec<bool>,
    from: Vec<String>,
}

/// A hash file that is read from front to back, as one damaged chunk follows another.
pub(super) type Kept = Option<(Prefix, HashReader)>;

/// Makes a chunk anew.
pub(super) async fn rebuild(
    source: &Source<'_>,
    kept: &mut Kept,
    manifest: &Manifest,
    extent: &Extent,
) -> Result<Rebuilt, BackupError> {
    let digests = match wanted(source.engine, kept, manifest, extent).await {
        Ok(digests) => digests,
        Err(e) if e.is_about_the_set() => return whole_from_image(source, extent).await,
        Err(e) => return Err(e),
    };
    let (block, digests) = digests;
    let data = vec![0; extent.length as usize];
    let found = vec![false; digests.len()];
    let puzzle = Puzzle { extent: extent.clone(), block, digests, data, found, from: Vec::new() };
    let mut puzzle = puzzle.zeros().await?;
    let own = fetch(source.engine, extent).await?;
    if let Some(own) = own {
        puzzle = puzzle.take(own, extent.offset, "what is left of it".to_owned()).await?;
    }
    if let Some(image) = source.image.filter(|_| !puzzle.is_whole()) {
        let image = Arc::clone(image);
        puzzle = blocking(move || puzzle.take_image(image.as_ref())).await?;
    }
    for other in nearest(source.family, manifest.prefix.backup()) {
        for there in touching(other, extent) {
            if puzzle.is_whole() || !puzzle.misses(there) {
                continue;
            }
            if let Some(chunk) = fetch(source.engine, there).await? {
                puzzle = puzzle.take(chunk, there.offset, backup_word(&other.prefix)).await?;
            }
        }
    }
    if !puzzle.is_whole() {
        return Ok(Err(format!("the bytes {} are found nowhere else", ranges_text(&puzzle.missing()))));
    }
    let Puzzle { extent, data, from, .. } = puzzle;
    pack(extent, data, from).await
}

/// The hashes of a chunk's blocks.
async fn wanted(
    engine: &Engine,
    kept: &mut Kept,
    manifest: &Manifest,
    extent: &Extent,
) -> Result<(u64, Vec<Digest>), BackupError> {
    let lies_ahead = |reader: &HashReader| reader.at() <= extent.offset / reader.block();
    let mut reader = match kept.take() {
        Some((prefix, reader)) if prefix == manifest.prefix && lies_ahead(&reader) => reader,
        _ => HashReader::open(&engine.catalog(), &manifest.prefix).await?,
    };
    let block = reader.block();
    let blocks = extent.offset / block..extent.end().div_ceil(block);
    let count = blocks.end - blocks.start;
    let digests = reader.take(blocks).await?;
    if digests.len() as u64 != count || !extent.offset.is_multiple_of(block) {
        let (key, reason) = (manifest.prefix.hashes(), "its blocks do not fit the chunks".to_owned());
        return Err(BackupError::Damaged { key, reason });
    }
    *kept = Some((manifest.prefix.clone(), reader));
    Ok((block, digests))
}

/// Without hashes the image must have all of it as it was: md5 tells.
async fn whole_from_image(source: &Source<'_>, extent: &Extent) -> Result<Rebuilt, BackupError> {
    let Some(image) = source.image.filter(|image| image.size() >= extent.end()) else {
        return Ok(Err("its hash file is damaged too, and there is no image that has its bytes".to_owned()));
    };
    let (image, length, offset) = (Arc::clone(image), extent.length as usize, extent.offset);
    let data = blocking(move || {
        let mut data = vec![0; length];
        image.read_at(&mut data, offset)?;
        Ok(data)
    })
    .await?;
    pack(extent.clone(), data, vec!["the image".to_owned()]).await
}

/// What is stored must unpack to the manifest's md5, by the manifest's word.
async fn pack(extent: Extent, data: Vec<u8>, from: Vec<String>) -> Result<Rebuilt, BackupError> {
    blocking(move || {
        if md5_hex(&data) != extent.md5 {
            return Ok(Err("the bytes that were found do not have the manifest's md5".to_owned()));
        }
        if extent.compression == super::format::Compression::None {
            return Ok(Ok((data.into(), from)));
        }
        Ok(match extent.compression.compress(&data)? {
            Some(packed) => Ok((packed.into(), from)),
            None => Err(format!("its bytes do not shrink by {} any more", extent.compression)),
        })
    })
    .await
}

/// The bytes of an object, whatever they are worth; nothing when they cannot be unpacked.
async fn fetch(engine: &Engine, extent: &Extent) -> Result<Option<Vec<u8>>, BackupError> {
    let stored = match engine.store.get(&extent.key, extent.length).await {
        Ok(stored) => stored,
        Err(StoreError::Missing { .. } | StoreError::TooLarge { .. }) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let (compression, length) = (extent.compression, extent.length);
    blocking(move || Ok(compression.decompress(&stored, length).ok())).await
}

impl Puzzle {
    fn is_whole(&self) -> bool {
        self.found.iter().all(|found| *found)
    }

    fn range(&self, index: usize) -> Range<u64> {
        let start = self.extent.offset + index as u64 * self.block;
        start..self.extent.end().min(start + self.block)
    }

    fn missing(&self) -> Vec<Range<u64>> {
        let mut ranges = Vec::new();
        for index in (0..self.found.len()).filter(|index| !self.found[*index]) {
            push_range(&mut ranges, self.range(index));
        }
        ranges
    }

    fn misses(&self, extent: &Extent) -> bool {
        self.missing().iter().any(|range| range.start < extent.end() && range.end > extent.offset)
    }

    /// Zeros are known by their hash.
    async fn zeros(mut self) -> Result<Puzzle, BackupError> {
        blocking(move || {
            // The last block may be a short one.
            let mut known = None;
            for index in 0..self.found.len() {
                let length = self.range(index).end - self.range(index).start;
                let (_, zeros) =
                    known.filter(|(of, _)| *of == length).unwrap_or_else(|| (length, zero_digest(length)));
                known = Some((length, zeros));
                self.found[index] = self.digests[index] == zeros;
            }
            Ok(self)
        })
        .await
    }

    async fn take(mut self, chunk: Vec<u8>, offset: u64, from: String) -> Result<Puzzle, BackupError> {
        blocking(move || {
            self.fill(&chunk, offset, from);
            Ok(self)
        })
        .await
    }

    fn take_image(mut self, image: &dyn SnapshotSource) -> Result<Puzzle, BackupError> {
        for range in self.missing() {
            let range = range.start..range.end.min(image.size());
            if !range.is_empty() {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                image.read_at(&mut bytes, range.start)?;
                self.fill(&bytes, range.start, "the image".to_owned());
            }
        }
        Ok(self)
    }

    /// Takes the blocks that are missing and have their hash, from bytes of the volume at `offset`.
    fn fill(&mut self, bytes: &[u8], offset: u64, from: String) {
        let mut took = false;
        for index in 0..self.found.len() {
            let range = self.range(index);
            let inside = range.start >= offset && range.end <= offset + bytes.len() as u64;
            if self.found[index] || !inside {
                continue;
            }
            let block = &bytes[(range.start - offset) as usize..(range.end - offset) as usize];
            if digest_of(block) == self.digests[index] {
                let start = (range.start - self.extent.offset) as usize;
                self.data[start..start + block.len()].copy_from_slice(block);
                self.found[index] = true;
                took = true;
            }
        }
        if took && !self.from.contains(&from) {
            self.from.push(from);
        }
    }
}
