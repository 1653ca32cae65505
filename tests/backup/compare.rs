//! Comparing and exporting backups, and telling Cinder of them.

use crate::util::{Repository, create, noise, restored, small};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::sync::Arc;
use strata::backup::format::Compression;
use strata::backup::store::{ObjectBacked, Store};
use strata::backup::{
    ByteRange, Cancel, Canceller, CreateOptions, Engine, ErrorKind, ParentChoice, Progress,
};
use uuid::Uuid;

const BLOCK: usize = 1024;

/// Runs of blocks that differ, byte by byte.
fn differing(one: &[u8], other: &[u8]) -> Vec<ByteRange> {
    let end = one.len().max(other.len());
    let mut ranges: Vec<ByteRange> = Vec::new();
    for start in (0..end).step_by(BLOCK) {
        let block = |data: &[u8]| data[start.min(data.len())..(start + BLOCK).min(data.len())].to_vec();
        if block(one) == block(other) {
            continue;
        }
        let (offset, length) = (start as u64, (BLOCK.min(end - start)) as u64);
        match ranges.last_mut().filter(|last| last.offset + last.length == offset) {
            Some(last) => last.length += length,
            None => ranges.push(ByteRange { offset, length }),
        }
    }
    ranges
}

/// Any two of a chain, forwards and backwards, also where the volume grew.
#[tokio::test]
async fn what_differs() {
    let repository = Repository::new();
    let volume = Uuid::new_v4();
    let mut data = noise(3, 100_003);
    let mut points = Vec::new();
    let edits: [fn(&mut Vec<u8>); 4] =
        [|_| {}, |d| d[1023..1025].fill(7), |d| d[50_000..70_000].fill(0), |d| d.resize(150_000, 1)];
    for edit in edits {
        edit(&mut data);
        let made = repository.create(&data, &small(volume, ParentChoice::Latest)).await.unwrap();
        points.push((made.backup_id, data.clone()));
    }
    for (from, old) in &points {
        for (to, new) in &points {
            let report = repository.engine.diff(*from, *to, 100, &Cancel::never()).await.unwrap();
            let expected = differing(old, new);
            assert_eq!(report.ranges, expected);
            assert_eq!(report.ranges_total, expected.len() as u64);
            assert_eq!(report.bytes_differ, expected.iter().map(|range| range.length).sum::<u64>());
            assert_eq!((report.bytes_from, report.bytes_to), (old.len() as u64, new.len() as u64));
        }
    }
    let (first, last) = (points[0].0, points[3].0);
    let short = repository.engine.diff(first, last, 1, &Cancel::never()).await.unwrap();
    assert!(short.ranges.len() == 1 && short.ranges_total > 1);
    // What cannot be compared.
    let other = repository.create(&data, &small(Uuid::new_v4(), ParentChoice::None)).await.unwrap();
    let coarse = CreateOptions { hash_block: 2048, ..small(volume, ParentChoice::None) };
    let coarse = repository.create(&data, &coarse).await.unwrap();
    for (backup, says) in [(other.backup_id, "volume"), (coarse.backup_id, "1024 bytes")] {
        let error = repository.engine.diff(first, backup, 1, &Cancel::never()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains(says), "{error}");
    }
}

/// The fields that Cinder wants, parents first.
#[tokio::test]
async fn records_for_cinder() {
    let repository = Repository::new();
    let (volume, mut data) = (Uuid::new_v4(), noise(3, 50_000));
    let named = CreateOptions { name: Some("first".to_owned()), ..small(volume, ParentChoice::None) };
    let full = repository.create(&data, &named).await.unwrap();
    data[0] ^= 1;
    let child = repository.create(&data, &small(volume, ParentChoice::Latest)).await.unwrap();
    let records = repository.engine.import_records(child.backup_id, "bucket").await.unwrap();
    let fields: Vec<Value> = records
        .iter()
        .map(|record| serde_json::from_slice(&STANDARD.decode(&record.backup_url).unwrap()).unwrap())
        .collect();
    let time = fields[0]["data_timestamp"].as_str().unwrap();
    assert!(time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "{time}");
    assert_eq!(
        fields[0],
        json!({
            "id": full.backup_id, "volume_id": volume, "parent_id": null, "snapshot_id": null, "size": 1,
            "container": "bucket", "service_metadata": full.prefix, "object_count": full.objects,
            "display_name": "first", "display_description": null, "data_timestamp": time,
            "encryption_key_id": null, "metadata": {}, "driver_info": {},
        })
    );
    assert_eq!(
        (&fields[1]["id"], &fields[1]["parent_id"]),
        (&json!(child.backup_id), &json!(full.backup_id))
    );
    assert!(records.iter().all(|record| record.backup_service == "cinder.backup.drivers.s3.S3BackupDriver"));
}

/// One full backup of a chain: the bytes, hashes and metadata of the newest, an id of its own, into another store. It is
/// what a full backup of these bytes would have been.
#[tokio::test]
async fn a_chain_becomes_one_full_backup() {
    let repository = Repository::new();
    let (volume, mut data) = (Uuid::new_v4(), noise(3, 100_003));
    repository.create(&data, &small(volume, ParentChoice::None)).await.unwrap();
    data[16_383..16_385].fill(3);
    data.resize(120_000, 0);
    let options = CreateOptions {
        name: Some("a [] \"name\"".to_owned()),
        volume_meta: Some("{\"version\": 2}".to_owned()),
        compression: Compression::Bz2,
        ..small(volume, ParentChoice::Latest)
    };
    let newest = repository.create(&data, &options).await.unwrap();
    let store: Arc<dyn Store> = Arc::new(ObjectBacked::memory());
    let to = Engine::new(Arc::clone(&store));
    let progress = Progress::default();
    let made = repository
        .engine
        .export_full(newest.backup_id, &to, Some(Compression::Zlib), &progress, &Cancel::never())
        .await
        .unwrap();
    assert_eq!((made.objects, made.bytes_total, progress.state().done), (8, 120_000, 120_000));
    assert!(restored(&to, made.backup_id).await == data);
    let shown = to.show(made.backup_id).await.unwrap();
    assert_eq!((shown.chain.len(), shown.backup.name.as_deref()), (1, options.name.as_deref()));
    assert_eq!(shown.volume_meta, options.volume_meta);
    let full = create(&to, &data, &CreateOptions { parent: ParentChoice::None, ..options }).await.unwrap();
    let text = |prefix: String| {
        let store = Arc::clone(&store);
        async move {
            String::from_utf8(store.get(&format!("{prefix}_sha256file"), 1 << 20).await.unwrap().to_vec())
                .unwrap()
        }
    };
    let (exported, fresh) = (text(made.prefix.clone()).await, text(full.prefix.clone()).await);
    let created =
        |text: &str| serde_json::from_str::<Value>(text).unwrap()["created_at"].as_str().unwrap().to_owned();
    let renamed = exported
        .replace(&made.backup_id.to_string(), &full.backup_id.to_string())
        .replace(&created(&exported), &created(&fresh));
    assert_eq!(renamed, fresh);
    // Cancelled, or on damage: nothing stays.
    let empty = Engine::new(Arc::new(ObjectBacked::memory()));
    let (canceller, cancel) = Canceller::new();
    canceller.cancel();
    let error = repository.engine.export_full(newest.backup_id, &empty, None, &progress, &cancel).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Cancelled);
    std::fs::write(repository.file(&format!("{}-00001", newest.prefix)), b"damaged").unwrap();
    let error =
        repository.engine.export_full(newest.backup_id, &empty, None, &progress, &Cancel::never()).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Damaged);
    assert!(
        empty
            .gc(strata::backup::GcOptions { before: jiff::Timestamp::MAX, dry_run: true }, &Cancel::never())
            .await
            .unwrap()
            .removed
            .is_empty()
    );
}
