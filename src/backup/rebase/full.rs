//! One full backup from a chain, under an id of its own, in the same repository or another.

use super::write::Synthesis;
use super::{Shape, merge, usual_compression};
use crate::backup::catalog::Chain;
use crate::backup::engine::Engine;
use crate::backup::error::{BackupError, LeftBehindSnafu};
use crate::backup::format::{Compression, Digest, HashList, Manifest, Prefix};
use crate::backup::hash_reader::HashReader;
use crate::backup::store::ObjectWriter;
use crate::backup::{Cancel, Progress, blocking};
use serde::Serialize;
use snafu::IntoError;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;
use uuid::Uuid;

/// Hashes at a time.
const STEP: u64 = 1 << 15;

/// What was done.
#[derive(Clone, Debug, Serialize)]
pub struct FullReport {
    /// The new backup.
    pub backup_id: Uuid,
    /// What it has the bytes of.
    pub from: Uuid,
    /// Whose it is.
    pub volume_id: Uuid,
    /// What its objects' names begin with.
    pub prefix: String,
    /// Its chunks.
    pub objects: u64,
    /// The volume's size.
    pub bytes_total: u64,
    /// Got from the repository.
    pub bytes_fetched: u64,
    /// Put into the other one.
    pub bytes_uploaded: u64,
    /// Stored by the store's own copying, if both are one.
    pub bytes_copied: u64,
    /// From begin to end.
    pub seconds: f64,
}

impl Engine {
    /// Makes a full backup with the bytes, the time, the names and the metadata of this one. Every byte is checked
    /// on its way; on failure, or when cancelled, nothing of it stays.
    pub async fn export_full(
        &self,
        backup: Uuid,
        to: &Engine,
        compression: Option<Compression>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<FullReport, BackupError> {
        let started = Instant::now();
        let catalog = self.catalog();
        let chain = cancel.or(catalog.chain(backup)).await?;
        let old = chain.newest();
        let hashes = HashReader::open(&catalog, &old.prefix).await?;
        let shape = Shape::new(&chain.links, chain.size(), hashes.block());
        let runs = merge(&chain.links, shape, true)?;
        cancel.or(to.store.ensure()).await?;
        // Before anything is stored that a store might not let be finished.
        cancel.or(to.store.exclusive()).await?;
        let work = Synthesis {
            from: Arc::clone(&self.store),
            to: Arc::clone(&to.store),
            prefix: renamed(&old.prefix, Uuid::new_v4()),
            compression: compression.unwrap_or_else(|| usual_compression(&chain.links)),
            progress: progress.clone(),
            cancel: cancel.clone(),
        };
        let chunks = runs.len() as u64;
        let stored = async {
            let mut written = work.chunks(runs, hashes, shape).await?;
            written.bytes_uploaded += self.write_hashes(&chain, &work).await?;
            let (prefix, extents) = (work.prefix.clone(), written.extents.clone());
            let manifest = Manifest { prefix, parent: None, extents, ..old.clone() };
            let body = blocking(move || Ok(manifest.encode()?)).await?;
            work.cancel.check()?;
            to.store.put(&work.prefix.manifest(), body.into()).await?;
            Ok(written)
        };
        let written = match stored.await {
            Ok(written) => written,
            Err(error) => {
                return Err(match work.remove(chunks).await {
                    Ok(()) => error,
                    Err(source) => LeftBehindSnafu { error, prefix: work.prefix.as_str() }.into_error(source),
                });
            }
        };
        Ok(FullReport {
            backup_id: work.prefix.backup(),
            from: backup,
            volume_id: work.prefix.volume(),
            prefix: work.prefix.to_string(),
            objects: chunks,
            bytes_total: shape.size,
            bytes_fetched: written.bytes_fetched,
            bytes_uploaded: written.bytes_uploaded,
            bytes_copied: written.bytes_copied,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// The same hashes under the new id, bit by bit.
    async fn write_hashes(&self, chain: &Chain, work: &Synthesis) -> Result<u64, BackupError> {
        let old = chain.newest();
        let mut hashes = HashReader::open(&self.catalog(), &old.prefix).await?;
        let empty = HashList { block: hashes.block(), digests: Vec::new() };
        let (name, description) = (old.name.as_deref(), old.description.as_deref());
        let frame = empty.encode(&work.prefix, name, description, &old.created_at)?;
        // Behind the one list of the file, which is empty: brackets in names come before it.
        let list = frame.windows(2).rposition(|pair| pair == b"[]").map_or(frame.len(), |at| at + 1);
        let mut writer = work.to.begin(&work.prefix.hashes()).await?;
        let copied = async {
            let mut bytes = send(&mut writer, frame[..list].to_vec()).await?;
            let blocks = chain.size().div_ceil(hashes.block());
            for start in (0..blocks).step_by(STEP as usize) {
                work.cancel.check()?;
                let digests = hashes.take(start..blocks.min(start + STEP)).await?;
                bytes += send(&mut writer, entries(&digests, start == 0)).await?;
            }
            bytes += send(&mut writer, [b"\n  ", &frame[list..]].concat()).await?;
            Ok(bytes)
        };
        match copied.await {
            Ok(bytes) => {
                writer.finish().await?;
                Ok(bytes)
            }
            Err(error) => {
                // The error matters more; gc finds what stays.
                let _ = writer.abort().await;
                Err(error)
            }
        }
    }
}

async fn send(writer: &mut Box<dyn ObjectWriter>, bytes: Vec<u8>) -> Result<u64, BackupError> {
    let length = bytes.len() as u64;
    writer.write(bytes.into()).await?;
    Ok(length)
}

/// As the list of a hash file has them, a line each.
fn entries(digests: &[Digest], first: bool) -> Vec<u8> {
    let mut text = String::with_capacity(digests.len() * 72);
    for (at, digest) in digests.iter().enumerate() {
        text.push_str(if first && at == 0 { "\n    \"" } else { ",\n    \"" });
        for byte in digest {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text.push('"');
    }
    text.into_bytes()
}

/// The same name with another backup's id: the time and the zone are those of the bytes.
fn renamed(prefix: &Prefix, backup: Uuid) -> Prefix {
    let text = prefix.as_str();
    // A name ends with its id, which has 36 characters.
    let text = format!("{}{backup}", &text[..text.len() - 36]);
    Prefix::of_key(&text).map_or_else(|| prefix.clone(), |(prefix, _)| prefix)
}
