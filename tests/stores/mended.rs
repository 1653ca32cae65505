//! Damage in a store is found and mended, through whatever kind of store.

use crate::util::{Bytes as Volume, create, noise, restored, small};
use bytes::Bytes;
use std::sync::Arc;
use strata::backup::store::Store;
use strata::backup::{
    Cancel, Engine, Limits, ParentChoice, Progress, RepairOptions, RepairReport, SnapshotSource,
    VerifyOptions, VerifyReport, Which,
};
use uuid::Uuid;

async fn verify(engine: &Engine) -> VerifyReport {
    let options = VerifyOptions { which: Which::All, data: 1.0, seed: 1, limits: Limits::default() };
    engine.verify(&options, &Progress::default(), &Cancel::never()).await.unwrap()
}

async fn repair(engine: &Engine, backup: Uuid, image: Option<&[u8]>) -> RepairReport {
    let source = image.map(|data| Arc::new(Volume(data.to_vec())) as Arc<dyn SnapshotSource>);
    let options = RepairOptions { backup, source, hash_block: Some(1024), limits: Limits::default() };
    engine.repair(&options, &Progress::default(), &Cancel::never()).await.unwrap()
}

/// A chunk of other bytes, one that is gone, and a hash file that is gone; the store is empty before and after.
pub async fn mended(store: Arc<dyn Store>) {
    let engine = Engine::new(Arc::clone(&store));
    let data = noise(1, 100_003);
    let made = create(&engine, &data, &small(Uuid::new_v4(), ParentChoice::None)).await.unwrap();
    assert!(verify(&engine).await.good);
    let key = |end: &str| format!("{}{end}", made.prefix);
    let mut bytes = store.get(&key("-00002"), 1 << 20).await.unwrap().to_vec();
    bytes[50] ^= 1;
    store.put(&key("-00002"), Bytes::from(bytes)).await.unwrap();
    store.delete(&key("-00004")).await.unwrap();
    let report = verify(&engine).await;
    let mut damaged: Vec<&str> = report.damage.iter().map(|damage| damage.object.as_str()).collect();
    damaged.sort();
    assert_eq!((report.good, damaged), (false, vec![key("-00002").as_str(), &key("-00004")]), "{report:?}");
    let left = repair(&engine, made.backup_id, None).await;
    assert!(!left.good && left.left.len() == 2, "{left:?}");
    let report = repair(&engine, made.backup_id, Some(&data)).await;
    assert!(report.good && report.repaired.len() == 2, "{report:?}");
    store.delete(&key("_sha256file")).await.unwrap();
    assert!(!verify(&engine).await.good);
    let report = repair(&engine, made.backup_id, None).await;
    assert!(report.good && report.repaired.len() == 1, "{report:?}");
    assert!(verify(&engine).await.good);
    assert!(restored(&engine, made.backup_id).await == data);
    engine.delete(made.backup_id).await.unwrap();
    assert_eq!(store.list("").await.unwrap(), vec![]);
}
