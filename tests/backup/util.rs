//! Volumes in memory, engines over stores, and digests.

use sha2::{Digest, Sha256};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata::backup::store::{LocalStore, Store};
use strata::backup::{
    BackupError, Cancel, CreateOptions, CreateReport, Engine, ParentChoice, Progress, RestoreOptions,
    RestoreReport, SnapshotSource,
};
use strata::image::{Format, ReadError};
use tempfile::TempDir;
use uuid::Uuid;

/// A volume in memory that reports whole zero sectors as holes.
pub struct Bytes(pub Vec<u8>);

impl SnapshotSource for Bytes {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + 512);
            if self.0[at as usize..end as usize] != [0; 512][..(end - at) as usize] {
                match ranges.last_mut().filter(|last| last.end == at) {
                    Some(last) => last.end = end,
                    None => ranges.push(at..end),
                }
            }
            at = end;
        }
        Ok(ranges)
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), ReadError> {
        buffer.copy_from_slice(&self.0[offset as usize..offset as usize + buffer.len()]);
        Ok(())
    }
}

/// A repository in a folder of its own.
pub struct Repository {
    pub folder: TempDir,
    pub store: Arc<dyn Store>,
    pub engine: Engine,
}

impl Repository {
    pub fn new() -> Repository {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(LocalStore::new(folder.path().join("repo")));
        Repository { engine: Engine::new(Arc::clone(&store)), store, folder }
    }

    /// Where an object is.
    pub fn file(&self, key: &str) -> PathBuf {
        self.folder.path().join("repo").join(key)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub async fn create(&self, data: &[u8], options: &CreateOptions) -> Result<CreateReport, BackupError> {
        create(&self.engine, data, options).await
    }

    pub async fn restore_to(&self, backup: Uuid, to: &Path) -> Result<RestoreReport, BackupError> {
        restore(&self.engine, backup, to, Format::Raw, false).await
    }

    /// Restores into a new file, and answers its bytes.
    pub async fn restored(&self, backup: Uuid) -> Vec<u8> {
        restored(&self.engine, backup).await
    }

    /// Names of files beside the repository: what a restore may leave.
    pub fn leftovers(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "repo").collect()
    }
}

pub async fn create(
    engine: &Engine,
    data: &[u8],
    options: &CreateOptions,
) -> Result<CreateReport, BackupError> {
    let source = Arc::new(Bytes(data.to_vec()));
    engine.create(source, options, &Progress::default(), &Cancel::never()).await
}

pub async fn restore(
    engine: &Engine,
    backup: Uuid,
    to: &Path,
    format: Format,
    in_place: bool,
) -> Result<RestoreReport, BackupError> {
    let options = RestoreOptions { format, in_place, ..RestoreOptions::new(backup, to) };
    engine.restore(&options, &Progress::default(), &Cancel::never()).await
}

pub async fn restored(engine: &Engine, backup: Uuid) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("volume");
    restore(engine, backup, &to, Format::Raw, false).await.unwrap();
    std::fs::read(to).unwrap()
}

/// Small sizes, so that small volumes have many chunks.
pub fn small(volume: Uuid, parent: ParentChoice) -> CreateOptions {
    CreateOptions { parent, chunk_size: 16 * 1024, hash_block: 1024, ..CreateOptions::new(volume) }
}

pub fn sha256(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|b| format!("{b:02x}")).collect()
}

/// Half of it compressible, half of it not, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut data = Vec::with_capacity(length + 64);
    while data.len() < length {
        match next() % 2 {
            0 => data.extend_from_slice(&next().to_le_bytes()),
            _ => data.extend_from_slice(b"a line of text that repeats, "),
        }
    }
    data.truncate(length);
    data
}
