//! As many objects as a dense tebibyte has: their names and digests count.

use super::{MIB, memory, peak};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::fmt::Write;
use std::process::Command;
use std::sync::Arc;
use strata::backup::format::{Compression, HashList, Prefix, VERSION, digest_of, md5_hex, zero_digest};
use strata::backup::store::{LocalStore, ObjectInfo, Store, StoreError};
use strata::backup::{Cancel, Engine, Limits, Progress, RepairOptions, RestoreOptions, VerifyOptions, Which};
use tempfile::TempDir;
use uuid::Uuid;

const OBJECTS: u64 = 175_000;
/// Of a hash, and of an object of zeros.
const BLOCK: u64 = 4096;
/// The first objects have data, and more of it than the budget.
const DATA: u64 = 8;
const LARGE: u64 = 24 * MIB;
/// In the process that a test has for itself, its name.
const ALONE: &str = "STRATA_TEST_ALONE";

/// A backup whose objects are not stored one by one, for many are the same.
#[derive(Debug)]
struct Many {
    folder: TempDir,
    files: LocalStore,
    prefix: Prefix,
    /// Of the first ones.
    data: Bytes,
    large: u64,
    /// Of all others.
    zeros: Bytes,
    small: u64,
}

impl Many {
    /// Made without small pieces of memory, which would be there to be used again.
    async fn new(large: u64, small: u64) -> Many {
        let prefix = Prefix::new(Uuid::new_v4(), "20261121194302", &Default::default(), Uuid::new_v4());
        let pack = |bytes: &[u8]| Bytes::from(Compression::Zstd.compress(bytes).unwrap().unwrap());
        let (data, zeros) = (vec![7; LARGE as usize], vec![0; BLOCK as usize]);
        let folder = tempfile::tempdir().unwrap();
        let files = LocalStore::new(folder.path().join("repository"));
        files.ensure().await.unwrap();
        let many = Many { folder, files, prefix, data: pack(&data), large, zeros: pack(&zeros), small };
        let manifest = many.manifest(&md5_hex(&data), &md5_hex(&zeros));
        many.files.put(&many.prefix.manifest(), manifest.into()).await.unwrap();
        many
    }

    fn manifest(&self, of_data: &str, of_zeros: &str) -> String {
        let (backup, volume) = (self.prefix.backup(), self.prefix.volume());
        let mut text = String::with_capacity((self.large + self.small) as usize * 400);
        write!(text, "{{\n  \"backup_id\": \"{backup}\",\n  \"created_at\": \"now\",\n  \"objects\": [")
            .unwrap();
        let mut offset = 0;
        for number in 0..self.large + self.small {
            let key = self.prefix.chunk(number + 1);
            let (length, md5) = if number < self.large { (LARGE, of_data) } else { (BLOCK, of_zeros) };
            let comma = if number == 0 { "" } else { "," };
            write!(
                text,
                "{comma}\n    {{\n      \"{key}\": {{\n        \"compression\": \"zstd\",\n        \
                 \"length\": {length},\n        \"md5\": \"{md5}\",\n        \"offset\": {offset}\n      }}\n    }}"
            )
            .unwrap();
            offset += length;
        }
        write!(text, "\n  ],\n  \"version\": \"{VERSION}\",\n  \"volume_id\": \"{volume}\"\n}}").unwrap();
        text
    }

    fn hashes(&self, block: u64) -> Vec<u8> {
        let mut digests = vec![digest_of(&vec![7; block as usize]); (self.large * LARGE / block) as usize];
        digests.resize(digests.len() + (self.small * BLOCK / block) as usize, zero_digest(block));
        HashList { block, digests }.encode(&self.prefix, None, None, "now").unwrap()
    }

    fn chunk(&self, number: u64) -> &Bytes {
        if number < self.large { &self.data } else { &self.zeros }
    }
}

impl Store for Many {
    forward!(files: ensure put begin delete get_range);

    fn get<'a>(&'a self, key: &'a str, limit: u64) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        let number = key.strip_prefix(self.prefix.as_str()).and_then(|rest| rest.strip_prefix('-'));
        match number {
            // What comes over a network has memory of its own.
            Some(number) => {
                let body = Bytes::copy_from_slice(self.chunk(number.parse::<u64>().unwrap() - 1));
                Box::pin(async move { Ok(body) })
            }
            None => self.files.get(key, limit),
        }
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<ObjectInfo>, StoreError>> {
        Box::pin(async move {
            let mut found = Vec::new();
            for number in 0..self.large + self.small {
                let (key, size) = (self.prefix.chunk(number + 1), self.chunk(number).len() as u64);
                found.push(ObjectInfo { key, size, modified: Default::default() });
            }
            found.retain(|object| object.key.starts_with(prefix));
            found.extend(self.files.list(prefix).await?);
            found.sort();
            Ok(found)
        })
    }
}

/// Runs `test` in a process of its own, which is this program once more.
fn alone(name: &str, test: impl Future<Output = ()>) {
    if std::env::var_os(ALONE).is_some_and(|alone| alone == name) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(test);
    }
    let mut program = Command::new(std::env::current_exe().unwrap());
    let ran =
        program.args(["--exact", "--nocapture", &format!("many::{name}")]).env(ALONE, name).output().unwrap();
    let said = [ran.stdout, ran.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}

/// Does something, and holds the memory that it takes at most to its budget.
async fn within(budget: u64, work: impl Future<Output = String>) {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS");
    let report = work.await;
    let grown = peak() - before;
    println!("{} MiB more: {report}", grown / MIB);
    assert!(grown < budget, "{} MiB more: {report}", grown / MIB);
}

#[test]
fn a_restore_of_very_many_objects() {
    alone("a_restore_of_very_many_objects", async {
        let many = Many::new(DATA, OBJECTS - DATA).await;
        many.files.put(&many.prefix.hashes(), many.hashes(BLOCK).into()).await.unwrap();
        let (backup, target) = (many.prefix.backup(), many.folder.path().join("volume"));
        let engine = Engine::new(Arc::new(many));
        let options = RestoreOptions::new(backup, target);
        within(Limits::default().memory, async {
            let report = engine.restore(&options, &Progress::default(), &Cancel::never()).await.unwrap();
            assert_eq!((report.objects, report.objects_of_zeros), (DATA, OBJECTS - DATA));
            assert_eq!(report.bytes_written, DATA * LARGE);
            format!("{report:?}")
        })
        .await;
    });
}

#[test]
fn a_verification_of_very_many_objects() {
    alone("a_verification_of_very_many_objects", async {
        let many = Many::new(DATA, OBJECTS - DATA).await;
        many.files.put(&many.prefix.hashes(), many.hashes(BLOCK).into()).await.unwrap();
        let which = Which::Backup(many.prefix.backup());
        let engine = Engine::new(Arc::new(many));
        let options = VerifyOptions { which, data: 0.1, seed: 1, limits: Limits::default() };
        within(Limits::default().memory, async {
            let report = engine.verify(&options, &Progress::default(), &Cancel::never()).await.unwrap();
            assert!(report.good && report.objects == OBJECTS, "{report:?}");
            assert!(report.objects_read > OBJECTS / 20, "{report:?}");
            format!("{report:?}")
        })
        .await;
    });
}

/// A million hashes, 72 MB of text.
#[test]
fn a_hash_file_that_is_made_again() {
    const BLOCK: u64 = 512;
    alone("a_hash_file_that_is_made_again", async {
        let many = Many::new(20, 0).await;
        let (backup, key) = (many.prefix.backup(), many.prefix.hashes());
        let many = Arc::new(many);
        let engine = Engine::new(Arc::clone(&many) as Arc<dyn Store>);
        let limits = Limits { memory: 96 * MIB, ..Limits::default() };
        let options = RepairOptions { backup, source: None, hash_block: Some(BLOCK), limits };
        within(limits.memory, async {
            let report = engine.repair(&options, &Progress::default(), &Cancel::never()).await.unwrap();
            assert!(report.good && report.repaired.len() == 1, "{report:?}");
            format!("{report:?}")
        })
        .await;
        assert!(many.get(&key, u64::MAX).await.unwrap() == many.hashes(BLOCK));
    });
}
