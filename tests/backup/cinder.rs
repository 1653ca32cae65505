//! Against sets that Cinder wrote (tests/fixtures/cinder).

use crate::util::{Bytes, restored, sha256};
use rstest::rstest;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata::backup::format::Compression;
use strata::backup::store::LocalStore;
use strata::backup::{Cancel, CreateOptions, Engine, ParentChoice, Progress};
use uuid::Uuid;

const EXPECTED: [&str; 3] = [
    "0c707e760e3c7f141e3968c48977fdc7f8615b9ebb0c4bb1e0c80ab40e0761e5",
    "0e759cfaba48c1850fdf6a306b1340e6897b8f7dcbee8f2b186a0cc64218400a",
    "581aa0b51d329db7bc5c0b632db31f071a6065cc0c40baa3f464678a61d76795",
];

fn fixture(set: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cinder").join(set)
}

fn engine(set: &str) -> Engine {
    Engine::new(Arc::new(LocalStore::new(fixture(set).join("bucket"))))
}

/// The three backups of a set, the oldest first, as Cinder recorded them: id and prefix.
fn records(set: &str) -> Vec<(Uuid, String)> {
    let text = std::fs::read_to_string(fixture(set).join("records.json")).unwrap();
    let records: Vec<Value> = serde_json::from_str(&text).unwrap();
    let field = |record: &Value, name: &str| record[name].as_str().unwrap().to_owned();
    records.iter().map(|r| (field(r, "id").parse().unwrap(), field(r, "service_metadata"))).collect()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// B14, B11: every point of every set restores to the bytes that were backed up.
#[rstest]
#[tokio::test]
async fn what_cinder_wrote_restores(#[values("zlib", "zstd", "bz2")] set: &str) {
    for ((id, _), expected) in records(set).into_iter().zip(EXPECTED) {
        assert_eq!(sha256(&restored(&engine(set), id).await), expected, "{set} {id}");
    }
}

/// B4, B6, X5: the same volumes give the same files, byte for byte but for ids, names and times.
#[rstest]
#[case("zlib", Compression::Zlib, 52_428_800, 32_768)]
#[case("zstd", Compression::Zstd, 4_194_304, 32_768)]
#[case("bz2", Compression::Bz2, 4_194_304, 65_536)]
#[tokio::test]
async fn what_is_written_is_what_cinder_writes(
    #[case] set: &str,
    #[case] compression: Compression,
    #[case] chunk_size: u64,
    #[case] hash_block: u64,
) {
    let folder = tempfile::tempdir().unwrap();
    let ours = Engine::new(Arc::new(LocalStore::new(folder.path())));
    let mut parent = ParentChoice::None;
    for (cinders, (id, their_prefix)) in records(set).into_iter().enumerate() {
        let data = restored(&engine(set), id).await;
        let bucket = fixture(set).join("bucket");
        let theirs = json(&bucket.join(format!("{their_prefix}_metadata")));
        let text = |key: &str| theirs[key].as_str().map(str::to_owned);
        let options = CreateOptions {
            parent,
            compression,
            chunk_size,
            split: 1,
            hash_block,
            name: text("backup_name"),
            description: text("backup_description"),
            volume_meta: text("volume_meta"),
            ..CreateOptions::new(text("volume_id").unwrap().parse().unwrap())
        };
        let source = Arc::new(Bytes(data));
        let made = ours.create(source, &options, &Progress::default(), &Cancel::never()).await.unwrap();
        assert_eq!(made.full_because, None);
        let same = |end: &str| {
            let ours = std::fs::read_to_string(folder.path().join(format!("{}{end}", made.prefix))).unwrap();
            let theirs = std::fs::read_to_string(bucket.join(format!("{their_prefix}{end}"))).unwrap();
            let parsed: Value = serde_json::from_str(&ours).unwrap();
            let mut renamed = ours
                .replace(&made.prefix, &their_prefix)
                .replace(&made.backup_id.to_string(), &id.to_string())
                .replace(parsed["created_at"].as_str().unwrap(), text("created_at").as_deref().unwrap());
            if let ParentChoice::Backup(our_parent) = parent {
                let their_parent = records(set)[cinders - 1].0;
                renamed = renamed.replace(&our_parent.to_string(), &their_parent.to_string());
            }
            assert!(renamed == theirs, "{set} {cinders}{end}:\n{renamed:.3000}\n{theirs:.3000}");
        };
        same("_metadata");
        same("_sha256file");
        parent = ParentChoice::Backup(made.backup_id);
    }
}
