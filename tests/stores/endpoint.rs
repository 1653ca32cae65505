//! Any S3 server, for `make test-stores`: STRATA_TEST_ENDPOINT and the AWS_* variables of a user who may make buckets.
//! STRATA_TEST_BUCKET is used under a prefix of its own; or a bucket strata-test-… is made, and stays.

use crate::contract::{contract, job, unfinished};
use crate::faulty::{Fault, Faulty, Request};
use crate::mended::mended;
use crate::requests::patient;
use crate::util::{create, noise, restored, small};
use bytes::Bytes;
use futures::future::join_all;
use std::sync::Arc;
use strata::backup::store::{Exclusive, ObjectBacked, S3Options, Store, StoreError};
use strata::backup::{Engine, ParentChoice};
use uuid::Uuid;

fn endpoint() -> String {
    std::env::var("STRATA_TEST_ENDPOINT").expect("STRATA_TEST_ENDPOINT is not set")
}

/// Credentials and region of the environment.
fn store(endpoint: &str, bucket: &str, prefix: &str) -> ObjectBacked {
    let options = S3Options { endpoint: Some(endpoint.to_owned()), ..S3Options::default() };
    ObjectBacked::s3(bucket, prefix, &options).unwrap()
}

fn bucket() -> String {
    std::env::var("STRATA_TEST_BUCKET").unwrap_or_else(|_| format!("strata-test-{}", Uuid::new_v4()))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a server: make test-stores"]
async fn keeps_the_contract() {
    let (bucket, prefix) = (bucket(), format!("contract-{}", Uuid::new_v4()));
    let store = store(&endpoint(), &bucket, &prefix);
    contract(&store).await;
    unfinished(&store).await;
    let exclusive = store.exclusive().await.unwrap();
    println!("exclusive create: {exclusive:?}");
    if let Ok(expected) = std::env::var("STRATA_TEST_EXCLUSIVE") {
        assert_eq!(format!("{exclusive:?}"), expected);
    }
    job(Arc::new(store.clone())).await;
    mended(Arc::new(store)).await;
}

/// More objects than any server lists in one answer.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a server: make test-stores"]
async fn lists_in_pages() {
    let store = store(&endpoint(), &bucket(), &format!("pages-{}", Uuid::new_v4()));
    store.ensure().await.unwrap();
    let keys: Vec<String> = (0..1500).map(|n| format!("volume_a/{n:05}")).collect();
    for some in keys.chunks(32) {
        let puts = some.iter().map(|key| store.put(key, Bytes::from_static(b"1")));
        join_all(puts).await.into_iter().for_each(|done| done.unwrap());
    }
    let listed = store.list("volume_a/").await.unwrap();
    assert_eq!(listed.iter().map(|object| &object.key).collect::<Vec<_>>(), keys.iter().collect::<Vec<_>>());
    assert_eq!(store.list("volume_a/0001").await.unwrap().len(), 10);
    for some in keys.chunks(32) {
        join_all(some.iter().map(|key| store.delete(key))).await.into_iter().for_each(|done| done.unwrap());
    }
    assert_eq!(store.list("").await.unwrap(), vec![]);
}

/// Wrong keys are told as what they are, and a bucket that is not there is no empty one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a server: make test-stores"]
async fn refusals_are_understood() {
    let there = bucket();
    store(&endpoint(), &there, "").ensure().await.unwrap();
    let region = std::env::var("AWS_REGION").ok();
    let (key, secret) = (std::env::var("AWS_ACCESS_KEY_ID"), std::env::var("AWS_SECRET_ACCESS_KEY"));
    for (keys, code) in [
        ((key.unwrap(), "not the secret".to_owned()), "SignatureDoesNotMatch"),
        (("NOBODY".to_owned(), secret.unwrap()), "InvalidAccessKeyId"),
    ] {
        let options = S3Options { credentials: Some(keys), region: region.clone(), ..patient(&endpoint()) };
        let told = ObjectBacked::s3(&there, "", &options).unwrap().list("").await.unwrap_err().to_string();
        assert!(told.contains(code) && told.contains("AWS_"), "{told}");
    }
    let missing = store(&endpoint(), &format!("strata-test-{}", Uuid::new_v4()), "");
    for error in [
        missing.list("").await.map(drop).unwrap_err(),
        missing.get("a", 1).await.map(drop).unwrap_err(),
        missing.put_new("a", Bytes::new()).await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::NoRepository { .. }), "{error}");
    }
}

/// What passes is not seen, with this server's way to answer the second try: lost answers above all.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a server: make test-stores"]
async fn faults_that_pass_are_not_seen() {
    let (bucket, data) = (bucket(), noise(4, 5 * 16 * 1024));
    store(&endpoint(), &bucket, "").ensure().await.unwrap();
    for fault in [Fault::LoseAnswer, Fault::Reset, Fault::Answer(503, "SlowDown"), Fault::Truncate] {
        let chosen = move |r: &Request| {
            let of_objects = r.before == 0 && r.target.contains("_backup_") && r.target.contains("volume_");
            of_objects && (fault != Fault::Truncate || r.method == "GET")
        };
        let faulty = Faulty::start(&endpoint(), move |r| if chosen(r) { fault } else { Fault::None });
        let through: Arc<dyn Store> = Arc::new(store(&faulty.endpoint, &bucket, &Uuid::new_v4().to_string()));
        let engine = Engine::new(Arc::clone(&through));
        let made = create(&engine, &data, &small(Uuid::new_v4(), ParentChoice::None)).await.unwrap();
        assert!(restored(&engine, made.backup_id).await == data, "{fault:?}");
        assert!(faulty.seen().iter().any(|r| r.before > 0), "{fault:?}: no request was made twice");
        engine.delete(made.backup_id).await.unwrap();
        assert_eq!(through.list("").await.unwrap(), vec![], "{fault:?}");
    }
}

/// An object is sent in parts, and the answer to each of its requests is lost once; so it is where it is broken off.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a server: make test-stores"]
async fn an_object_in_parts_stands_lost_answers() {
    let (bucket, prefix) = (bucket(), Uuid::new_v4().to_string());
    store(&endpoint(), &bucket, "").ensure().await.unwrap();
    let faulty = Faulty::start(&endpoint(), |r| match r.before {
        0 if r.target.contains("uploadId=") => Fault::LoseAnswer,
        _ => Fault::None,
    });
    let through = store(&faulty.endpoint, &bucket, &prefix);
    let parts: Vec<Bytes> = (1..=4).map(|n| Bytes::from(vec![n; 5 << 20])).collect();
    for finishes in [true, false] {
        let key = format!("volume_a/{finishes}");
        let mut writer = through.begin(&key).await.unwrap();
        for part in &parts {
            writer.write(part.clone()).await.unwrap();
        }
        match finishes {
            true => writer.finish().await.unwrap(),
            false => writer.abort().await.unwrap(),
        }
    }
    assert!(through.get("volume_a/true", 1 << 30).await.unwrap() == parts.concat());
    for method in ["PUT", "POST", "DELETE"] {
        assert!(
            faulty
                .seen()
                .iter()
                .any(|r| r.method == method && r.target.contains("uploadId=") && r.before > 0)
        );
    }
    assert_eq!(through.list("").await.unwrap().len(), 1);
    through.delete("volume_a/true").await.unwrap();
    assert_eq!(through.unfinished().await.unwrap(), vec![]);
}

/// Who wrote the object whose making was told to nobody is known when it is looked at again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a server: make test-stores"]
async fn an_object_whose_answer_was_lost_is_ours() {
    let (bucket, prefix) = (bucket(), Uuid::new_v4().to_string());
    let direct = store(&endpoint(), &bucket, &prefix);
    direct.ensure().await.unwrap();
    let faulty = Faulty::start(&endpoint(), |r| match r.method.as_str() {
        "PUT" if r.before == 0 && (r.target.ends_with("/ours") || r.target.ends_with("/taken")) => {
            Fault::LoseAnswer
        }
        _ => Fault::None,
    });
    let through = store(&faulty.endpoint, &bucket, &prefix);
    through.put_new("ours", Bytes::from_static(b"bytes")).await.unwrap();
    direct.put("taken", Bytes::from_static(b"others")).await.unwrap();
    let refused = through.put_new("taken", Bytes::from_static(b"bytes")).await.unwrap_err();
    assert!(matches!(refused, StoreError::Exists { .. }), "{refused}");
    assert_eq!(through.get("taken", 100).await.unwrap(), "others");
    if through.exclusive().await.unwrap() == Exclusive::Honoured {
        assert!(faulty.seen().iter().any(|r| r.header("if-none-match") == Some("*")));
    }
    for key in ["ours", "taken"] {
        through.delete(key).await.unwrap();
    }
}
