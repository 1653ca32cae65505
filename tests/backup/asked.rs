//! What is asked of a store: the work follows the volume, not the repository.

use crate::util::{Repository, create, noise, small};
use bytes::Bytes as Body;
use futures::future::BoxFuture;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use strata::backup::format::Compression;
use strata::backup::store::{ObjectInfo, Store, StoreError};
use strata::backup::{Cancel, CreateOptions, Engine, Limits, ParentChoice, Progress, RepairOptions};
use uuid::Uuid;

/// A store that writes down what it is asked for.
#[derive(Debug)]
struct Asked {
    store: Arc<dyn Store>,
    listed: Mutex<Vec<String>>,
    got: Mutex<Vec<String>>,
    read: Mutex<Vec<String>>,
}

impl Asked {
    fn over(repository: &Repository) -> Arc<Asked> {
        let store = Arc::clone(&repository.store);
        Arc::new(Asked { store, listed: Mutex::default(), got: Mutex::default(), read: Mutex::default() })
    }
}

impl Store for Asked {
    forward!(store: ensure put begin delete);

    fn get_range<'a>(&'a self, key: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Body, StoreError>> {
        self.read.lock().unwrap().push(key.to_owned());
        self.store.get_range(key, range)
    }

    fn get<'a>(&'a self, key: &'a str, limit: u64) -> BoxFuture<'a, Result<Body, StoreError>> {
        self.got.lock().unwrap().push(key.to_owned());
        self.store.get(key, limit)
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<ObjectInfo>, StoreError>> {
        self.listed.lock().unwrap().push(prefix.to_owned());
        self.store.list(prefix)
    }
}

/// An incremental backup looks at its own volume's names once before it begins, and reads the manifests of the chain
/// that it is made on, not those of other chains.
#[tokio::test]
async fn an_incremental_asks_for_its_volume_alone() {
    let repository = Repository::new();
    let (volume, mut data) = (Uuid::new_v4(), noise(1, 50_000));
    create(&repository.engine, &data, &small(Uuid::new_v4(), ParentChoice::None)).await.unwrap();
    let (mut chain, mut older) = (Vec::new(), Vec::new());
    for at in 0..4 {
        data[at * 1000] ^= 1;
        let parent = if at == 2 { ParentChoice::None } else { ParentChoice::Latest };
        let made = create(&repository.engine, &data, &small(volume, parent)).await.unwrap();
        if at < 2 { older.push(made) } else { chain.push(made) }
    }
    // The names of two chains that were made in one second tell nothing: here the first is of a day before.
    for made in &older {
        rename_to_the_past(&repository, &made.prefix).await;
    }
    let asked = Asked::over(&repository);
    data[0] ^= 1;
    let engine = Engine::new(Arc::clone(&asked) as _);
    let made = create(&engine, &data, &small(volume, ParentChoice::Latest)).await.unwrap();
    assert_eq!(made.parent_id, Some(chain[1].backup_id));
    let of_volume = format!("volume_{volume}/");
    let listed = std::mem::take(&mut *asked.listed.lock().unwrap());
    assert!(listed.iter().all(|prefix| prefix.starts_with(&of_volume)), "{listed:?}");
    assert_eq!(listed.iter().filter(|prefix| **prefix == of_volume).count(), 1, "{listed:?}");
    let got = std::mem::take(&mut *asked.got.lock().unwrap());
    let mut manifests: Vec<&String> = got.iter().filter(|key| !key.starts_with(&made.prefix)).collect();
    manifests.sort();
    // Of two that were begun in one second both are read to tell which is the newer.
    manifests.dedup();
    let mut expected: Vec<String> = chain.iter().map(|made| format!("{}_metadata", made.prefix)).collect();
    expected.sort();
    assert_eq!(manifests, expected.iter().collect::<Vec<_>>());
    // So does who deletes a backup and knows its volume.
    engine.delete_of(Some(volume), made.backup_id).await.unwrap();
    let listed = asked.listed.lock().unwrap();
    assert!(!listed.is_empty() && listed.iter().all(|prefix| prefix.starts_with(&of_volume)), "{listed:?}");
}

/// A repair goes through a hash file once, however many chunks are damaged.
#[tokio::test]
async fn a_repair_reads_a_hash_file_once() {
    let repository = Repository::new();
    let (volume, data) = (Uuid::new_v4(), noise(1, 100_000));
    let options = CreateOptions { compression: Compression::None, ..small(volume, ParentChoice::None) };
    let made = create(&repository.engine, &data, &options).await.unwrap();
    create(&repository.engine, &data, &options).await.unwrap();
    let mut reads = Vec::new();
    for damaged in [1, 5] {
        for chunk in 1..=damaged {
            let key = format!("{}-{chunk:05}", made.prefix);
            let mut body = repository.store.get(&key, 1 << 20).await.unwrap().to_vec();
            body[100] ^= 1;
            repository.store.put(&key, body.into()).await.unwrap();
        }
        let asked = Asked::over(&repository);
        let backup = made.backup_id;
        let options = RepairOptions { backup, source: None, hash_block: None, limits: Limits::default() };
        let engine = Engine::new(Arc::clone(&asked) as _);
        let report = engine.repair(&options, &Progress::default(), &Cancel::never()).await.unwrap();
        assert!(report.good && report.repaired.len() == damaged, "{report:?}");
        let hashes = format!("{}_sha256file", made.prefix);
        reads.push(asked.read.lock().unwrap().iter().filter(|key| **key == hashes).count());
    }
    assert_eq!(reads[0], reads[1]);
}

/// Gives a set the name and the time that it would have had then.
async fn rename_to_the_past(repository: &Repository, prefix: &str) {
    let (begin, rest) = prefix.split_once('/').unwrap();
    let past = format!("{begin}/20200101000000/{}", rest.split_once('/').unwrap().1);
    for object in repository.store.list(prefix).await.unwrap() {
        let mut body = repository.store.get(&object.key, 1 << 20).await.unwrap();
        if object.key.ends_with("_metadata") {
            let text = String::from_utf8(body.to_vec()).unwrap().replace(prefix, &past);
            let mut manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
            manifest["created_at"] = "2020-01-01 00:00:00.000000+00:00".into();
            body = manifest.to_string().into();
        }
        repository.store.put(&object.key.replace(prefix, &past), body).await.unwrap();
        repository.store.delete(&object.key).await.unwrap();
    }
}
