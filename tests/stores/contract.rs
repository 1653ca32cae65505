//! What every store must do, whatever it is.

use crate::util::{create, restored, small};
use bytes::Bytes;
use futures::future::join_all;
use std::sync::Arc;
use strata::backup::store::{Exclusive, Store, StoreError};
use strata::backup::{Engine, ParentChoice};
use uuid::Uuid;

/// The store is empty before and after.
pub async fn contract(store: &dyn Store) {
    kept(store, true).await;
}

/// The same for a store that lets several writers through under a race, and now and then hides that from a
/// probe.
pub async fn contract_without_races(store: &dyn Store) {
    kept(store, false).await;
}

async fn kept(store: &dyn Store, exact: bool) {
    store.ensure().await.unwrap();
    store.ensure().await.unwrap();
    assert_eq!(store.list("").await.unwrap(), vec![]);
    let keys = ["volume_a/1/x-00001", "volume_a/1/x_metadata", "volume_a/2/y_metadata", "volume_b/1/z"];
    for key in keys {
        store.put(key, Bytes::from(key.repeat(3))).await.unwrap();
    }
    assert_eq!(store.get(keys[0], 1000).await.unwrap(), keys[0].repeat(3));
    // A prefix is text: it may end inside a name.
    for (prefix, expected) in [
        ("volume_a/1/x", &keys[..2]),
        ("volume_a/1/x-", &keys[..1]),
        ("volume_a/", &keys[..3]),
        ("volume_", &keys[..]),
        ("w", &[]),
    ] {
        let listed = store.list(prefix).await.unwrap();
        assert_eq!(listed.iter().map(|o| o.key.as_str()).collect::<Vec<_>>(), expected, "{prefix}");
        assert!(listed.iter().all(|o| o.size == 3 * o.key.len() as u64));
    }
    // Over one of that name, and read back at once.
    store.put(keys[0], Bytes::from_static(b"new")).await.unwrap();
    assert_eq!(store.get(keys[0], 3).await.unwrap(), "new");
    assert!(matches!(store.get(keys[0], 2).await, Err(StoreError::TooLarge { size: 3, limit: 2, .. })));
    assert!(matches!(store.get("volume_a/1/none", 9).await, Err(StoreError::Missing { .. })));
    store.put("volume_b/empty", Bytes::new()).await.unwrap();
    assert_eq!(store.get("volume_b/empty", 0).await.unwrap(), "");
    for (range, expected) in [(0..2, "ne"), (1..3, "ew"), (2..9, "w"), (3..9, ""), (7..9, "")] {
        assert_eq!(store.get_range(keys[0], range).await.unwrap(), expected);
    }
    assert!(matches!(store.get_range("volume_a/1/none", 0..1).await, Err(StoreError::Missing { .. })));
    bit_by_bit(store).await;
    made_once(store).await;
    copied(store).await;
    race(store, "volume_b/raced", exact).await;
    let odd = "volume_b/az_my zone 100%, ü*?\\_x";
    store.put_new(odd, Bytes::from_static(b"odd")).await.unwrap();
    assert_eq!(store.get(odd, 3).await.unwrap(), "odd");
    let listed = store.list("volume_b/az_my zone 1").await.unwrap();
    assert_eq!(listed.iter().map(|o| o.key.as_str()).collect::<Vec<_>>(), [odd]);
    store.delete(odd).await.unwrap();
    for key in ["../x", "a/../b", "/a", "a//b", "", "a\tb", "a\nb", "a/"] {
        assert!(matches!(store.put(key, Bytes::new()).await, Err(StoreError::BadKey { .. })), "{key:?}");
        assert!(matches!(store.put_new(key, Bytes::new()).await, Err(StoreError::BadKey { .. })), "{key:?}");
    }
    for key in keys {
        store.delete(key).await.unwrap();
        store.delete(key).await.unwrap();
    }
    store.delete("volume_b/empty").await.unwrap();
    assert_eq!(store.list("").await.unwrap(), vec![]);
}

/// Bytes that come one after the other are an object only at the end; more than one part of them, or none.
async fn bit_by_bit(store: &dyn Store) {
    let key = "volume_b/bits";
    for part in [0usize, 1000, 5 << 20] {
        let parts: Vec<Bytes> = (1..=4).map(|n| Bytes::from(vec![n; part])).collect();
        let mut broken_off = store.begin(key).await.unwrap();
        broken_off.write(parts[0].clone()).await.unwrap();
        broken_off.abort().await.unwrap();
        let mut writer = store.begin(key).await.unwrap();
        for part in &parts {
            writer.write(part.clone()).await.unwrap();
        }
        assert_eq!(store.list(key).await.unwrap(), vec![]);
        writer.finish().await.unwrap();
        assert_eq!(store.get(key, 1 << 30).await.unwrap(), parts.concat());
        // What is there is not replaced.
        let mut second = store.begin(key).await.unwrap();
        second.write(Bytes::from_static(b"other")).await.unwrap();
        let refused = second.finish().await.unwrap_err();
        assert!(matches!(&refused, StoreError::Exists { key: taken } if taken == key), "{refused}");
        assert_eq!(store.get(key, 1 << 30).await.unwrap(), parts.concat());
        // Unless that is meant.
        let mut third = store.begin(key).await.unwrap();
        for part in parts.iter().rev() {
            third.write(part.clone()).await.unwrap();
        }
        third.replace().await.unwrap();
        assert_eq!(
            store.get(key, 1 << 30).await.unwrap(),
            parts.iter().rev().cloned().collect::<Vec<_>>().concat()
        );
        store.delete(key).await.unwrap();
    }
    assert_eq!(store.unfinished().await.unwrap(), vec![]);
    assert!(matches!(store.begin("../x").await, Err(StoreError::BadKey { .. })));
}

/// An object is made once. The same bytes again are an earlier try whose answer was lost.
async fn made_once(store: &dyn Store) {
    let key = "volume_b/once";
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    store.put_new(key, bytes("first")).await.unwrap();
    store.put_new(key, bytes("first")).await.unwrap();
    for other in ["other", "x", "", "much longer than the first"] {
        let refused = store.put_new(key, bytes(other)).await.unwrap_err();
        assert!(matches!(&refused, StoreError::Exists { key: taken } if taken == key), "{refused}");
        assert_eq!(store.get(key, 100).await.unwrap(), "first");
    }
    store.put(key, bytes("replaced")).await.unwrap();
    assert_eq!(store.get(key, 100).await.unwrap(), "replaced");
    store.delete(key).await.unwrap();
}

/// A copy has the bytes, is made once, and outlives what it is a copy of.
async fn copied(store: &dyn Store) {
    let (from, to, body) = ("volume_b/az_my zone 100%, ü*?\\_x", "volume_c/1/copy", vec![7; 100_000]);
    store.put(from, body.clone().into()).await.unwrap();
    store.copy(from, to).await.unwrap();
    for taken in [to, from] {
        let refused = store.copy(from, taken).await.unwrap_err();
        assert!(matches!(&refused, StoreError::Exists { key } if key == taken), "{refused}");
    }
    let missing = store.copy("volume_b/none", "volume_c/none").await.unwrap_err();
    assert!(matches!(&missing, StoreError::Missing { key } if key == "volume_b/none"), "{missing}");
    for (from, to) in [("../x", "volume_c/x"), (from, "../x"), (from, "a//b")] {
        let refused = store.copy(from, to).await.unwrap_err();
        assert!(matches!(refused, StoreError::BadKey { .. }), "{refused}");
    }
    store.delete(from).await.unwrap();
    assert_eq!(store.get(to, 1 << 20).await.unwrap(), body);
    let listed: Vec<_> =
        store.list("volume_c/").await.unwrap().into_iter().map(|o| (o.key, o.size)).collect();
    assert_eq!(listed, [(to.to_owned(), 100_000)]);
    store.delete(to).await.unwrap();
}

/// 32 writers of one name at the same time.
async fn race(store: &dyn Store, key: &str, exact: bool) {
    let body = |writer: usize| Bytes::from(format!("writer {writer}").repeat(1000));
    let racers = (0..32).map(|writer| store.put_new(key, body(writer)));
    let results = join_all(racers).await;
    let winners: Vec<usize> = (0..32).filter(|writer| results[*writer].is_ok()).collect();
    let losers = results.iter().filter_map(|result| result.as_ref().err());
    for loser in losers {
        assert!(matches!(loser, StoreError::Exists { .. }), "{loser}");
    }
    let stored = store.get(key, 1 << 20).await.unwrap();
    assert!(winners.iter().any(|writer| stored == body(*writer)), "what is stored is no winner's");
    if exact && store.exclusive().await.unwrap() == Exclusive::Honoured {
        assert_eq!(winners.len(), 1, "winners: {winners:?}");
    }
    store.delete(key).await.unwrap();
}

/// An upload whose writer died is told and removed.
pub async fn unfinished(store: &dyn Store) {
    let mut writer = store.begin("volume_a/1").await.unwrap();
    for _ in 0..3 {
        writer.write(Bytes::from(vec![1; 5 << 20])).await.unwrap();
    }
    drop(writer);
    let left = store.unfinished().await.unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].key, "volume_a/1");
    store.remove_unfinished(&left[0]).await.unwrap();
    store.remove_unfinished(&left[0]).await.unwrap();
    assert_eq!(store.unfinished().await.unwrap(), vec![]);
}

/// The whole job over a store: full, incremental, both restored.
pub async fn job(store: Arc<dyn Store>) {
    let engine = Engine::new(store);
    let volume = Uuid::new_v4();
    let mut data = crate::util::noise(1, 100_000);
    let full = create(&engine, &data, &small(volume, ParentChoice::None)).await.unwrap();
    let before = data.clone();
    data[50_000] ^= 1;
    let second = create(&engine, &data, &small(volume, ParentChoice::Latest)).await.unwrap();
    assert_eq!((second.parent_id, second.objects), (Some(full.backup_id), 1));
    assert!(restored(&engine, full.backup_id).await == before);
    assert!(restored(&engine, second.backup_id).await == data);
    engine.delete(second.backup_id).await.unwrap();
    engine.delete(full.backup_id).await.unwrap();
    assert!(engine.list(None).await.unwrap().is_empty());
}
