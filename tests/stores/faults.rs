//! Backups over a store that fails: no half one is ever listed, the cause is told, and trying again works.

use crate::faulty::{Fault, Faulty, Request};
use crate::requests::{patient, store};
use crate::s3_server::S3Server;
use crate::util::{Bytes as Memory, create, noise, restored, small};
use bytes::Bytes;
use rstest::rstest;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use strata::backup::store::{ObjectBacked, Store, StoreError};
use strata::backup::{
    BackupError, Cancel, Canceller, CreateOptions, DataPoint, Engine, ErrorKind, Export, ParentChoice,
    Progress, RestoreOptions, Resume, SnapshotSource,
};
use strata::image::{Format, ReadError};
use uuid::Uuid;

/// Five chunks.
fn data() -> Vec<u8> {
    noise(4, 5 * 16 * 1024)
}

/// A volume in memory that says of which snapshot it is.
struct Snapshot(Memory, DataPoint);

impl SnapshotSource for Snapshot {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        self.0.data_ranges(range)
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), ReadError> {
        self.0.read_at(buffer, offset)
    }
    fn point(&self) -> Option<DataPoint> {
        Some(self.1)
    }
}

fn point() -> DataPoint {
    DataPoint { incarnation: Uuid::new_v4(), snapshot: Uuid::new_v4() }
}

/// What passes when it is asked again is asked again: the first try of each request fails.
#[rstest]
#[case::overloaded(Fault::Answer(503, "SlowDown"))]
#[case::too_many_requests(Fault::Answer(429, "TooManyRequests"))]
#[case::internal_error(Fault::Answer(500, "InternalError"))]
#[case::reset(Fault::Reset)]
#[case::lost_answers(Fault::LoseAnswer)]
#[case::stalled(Fault::Stall)]
#[case::truncated(Fault::Truncate)]
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_that_passes_is_not_seen(#[case] fault: Fault) {
    let server = S3Server::start();
    store(&server.endpoint).ensure().await.unwrap();
    let of_objects = |r: &Request| r.target.contains("_backup_") && r.target.contains("/bucket/");
    let faulty = Faulty::start(&server.endpoint, move |r| match r.before {
        0 if of_objects(r) && (fault != Fault::Truncate || r.method == "GET") => fault,
        _ => Fault::None,
    });
    let engine = Engine::new(Arc::new(store(&faulty.endpoint)));
    let data = data();
    let report = create(&engine, &data, &small(Uuid::new_v4(), ParentChoice::None)).await.unwrap();
    assert!(restored(&engine, report.backup_id).await == data);
    engine.delete(report.backup_id).await.unwrap();
    assert_eq!(store(&server.endpoint).list("").await.unwrap(), vec![]);
    assert!(faulty.seen().iter().any(|r| r.before > 0), "no request was made twice");
    let removed_twice = faulty.seen().iter().any(|r| r.before > 0 && r.method == "DELETE");
    assert!(removed_twice || fault == Fault::Truncate, "no removal was asked for twice");
}

/// An object whose making was acknowledged to nobody is ours when we look again.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_whose_answer_was_lost_is_no_strangers() {
    let server = S3Server::start();
    store(&server.endpoint).ensure().await.unwrap();
    let faulty = Faulty::start(&server.endpoint, |r| match (r.target.as_str(), r.before) {
        ("/bucket/ours" | "/bucket/taken", 0) if r.method == "PUT" => Fault::LoseAnswer,
        _ => Fault::None,
    });
    let through = store(&faulty.endpoint);
    through.put_new("ours", Bytes::from_static(b"bytes")).await.unwrap();
    store(&server.endpoint).put("taken", Bytes::from_static(b"others")).await.unwrap();
    let refused = through.put_new("taken", Bytes::from_static(b"bytes")).await.unwrap_err();
    assert!(matches!(refused, StoreError::Exists { .. }), "{refused}");
    assert_eq!(through.get("taken", 100).await.unwrap(), "others");
}

/// Whatever does not pass ends the backup with its cause; nothing of it is a backup, and it can be tried again.
#[rstest]
#[case::denied(Fault::Answer(403, "AccessDenied"), "AccessDenied")]
#[case::overloaded(Fault::Answer(503, "SlowDown"), "SlowDown")]
#[case::stalled(Fault::Stall, "no byte moved")]
#[case::reset(Fault::Reset, "reset")]
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_in_the_middle_that_stays_leaves_no_backup(
    #[case] fault: Fault,
    #[case] cause: &str,
    #[values(Resume::No, Resume::Auto)] resume: Resume,
) {
    let server = S3Server::start();
    let direct = Engine::new(Arc::new(store(&server.endpoint)));
    store(&server.endpoint).ensure().await.unwrap();
    let (chunks, broken) = (AtomicUsize::new(0), Arc::new(AtomicBool::new(true)));
    let still = Arc::clone(&broken);
    // From the third chunk on no write is possible, no removal either.
    let faulty = Faulty::start(&server.endpoint, move |r| {
        let writes = r.method == "PUT" && r.is_of_a_chunk();
        let met = writes && chunks.fetch_add(1, Ordering::SeqCst) >= 2;
        let after = chunks.load(Ordering::SeqCst) > 2 && ["PUT", "DELETE"].contains(&r.method.as_str());
        if (met || after) && still.load(Ordering::SeqCst) { fault } else { Fault::None }
    });
    let engine = Engine::new(Arc::new(store(&faulty.endpoint)));
    let (data, volume) = (data(), Uuid::new_v4());
    let options = CreateOptions { resume, ..small(volume, ParentChoice::None) };
    let source: Arc<dyn SnapshotSource> = Arc::new(Snapshot(Memory(data.clone()), point()));
    let make =
        async || engine.create(Arc::clone(&source), &options, &Progress::default(), &Cancel::never()).await;
    let told = make().await.unwrap_err().to_string();
    assert!(told.contains(cause) && told.contains(&format!("volume_{volume}/")), "{told}");
    let left = store(&server.endpoint).list("").await.unwrap();
    assert!(left.iter().all(|object| !object.key.ends_with("_metadata")), "{left:?}");
    let listed = direct.list(None).await.unwrap();
    assert!(listed.is_empty(), "{listed:?}");
    broken.store(false, Ordering::SeqCst);
    let report = make().await.unwrap();
    assert!(restored(&direct, report.backup_id).await == data);
    // Of the two that were stored the first is always stored again.
    assert_eq!(report.bytes_resumed > 0, resume == Resume::Auto, "{report:?}");
}

/// A bucket that lets backups be written and nothing else is tried out before anything is stored, and does without.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_tried_out_first_and_need_not_let_itself() {
    for fault in [Fault::None, Fault::Answer(403, "AccessDenied")] {
        let server = S3Server::start();
        store(&server.endpoint).ensure().await.unwrap();
        let faulty = Faulty::start(&server.endpoint, move |r| match r.target.contains(".strata-probe-") {
            true => fault,
            false => Fault::None,
        });
        let (data, engine) = (data(), Engine::new(Arc::new(store(&faulty.endpoint))));
        let report = create(&engine, &data, &small(Uuid::new_v4(), ParentChoice::None)).await.unwrap();
        let seen = faulty.seen();
        let is_probe = |r: &Request| r.target.contains(".strata-probe-");
        let writes: Vec<bool> = seen.iter().filter(|r| r.method == "PUT").map(is_probe).collect();
        let first = writes.iter().position(|is_probe| !is_probe).unwrap();
        assert!(first > 0 && writes[first..].iter().all(|is_probe| !is_probe), "{writes:?}");
        assert!(restored(&engine, report.backup_id).await == data);
    }
}

/// Whoever asks to stop is not made to wait for a store that stands still.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_stalls_holds_nobody() {
    let server = S3Server::start();
    let direct = Engine::new(Arc::new(store(&server.endpoint)));
    store(&server.endpoint).ensure().await.unwrap();
    let data = data();
    let made = create(&direct, &data, &small(Uuid::new_v4(), ParentChoice::None)).await.unwrap();
    let before = store(&server.endpoint).list("").await.unwrap();
    let (met, has_met) = tokio::sync::watch::channel(0);
    let old = made.prefix.clone();
    let faulty = Faulty::start(&server.endpoint, move |r| {
        let is_old = r.target.contains(&old);
        let stalls = match r.method.as_str() {
            "PUT" => r.target.contains("-00002"),
            _ => is_old && r.target.contains("_metadata") && !r.target.contains("prefix="),
        };
        met.send_modify(|times| *times += usize::from(stalls));
        if stalls { Fault::Stall } else { Fault::None }
    });
    // Tries for three minutes.
    let patient = ObjectBacked::s3("bucket", "", &patient(&faulty.endpoint)).unwrap();
    let engine = Engine::new(Arc::new(patient));
    let folder = tempfile::tempdir().unwrap();
    for (times, restores) in [(1, false), (2, true)] {
        let (canceller, cancel) = Canceller::new();
        let mut stalled = has_met.clone();
        let asks = tokio::spawn(async move {
            stalled.wait_for(|met| *met >= times).await.unwrap();
            canceller.cancel();
            Instant::now()
        });
        let progress = Progress::default();
        let error = match restores {
            true => {
                let options = RestoreOptions::new(made.backup_id, folder.path().join("volume"));
                engine.restore(&options, &progress, &cancel).await.unwrap_err()
            }
            false => {
                let options = small(Uuid::new_v4(), ParentChoice::None);
                let source = Arc::new(Memory(data.clone()));
                engine.create(source, &options, &progress, &cancel).await.unwrap_err()
            }
        };
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
        let waited = asks.await.unwrap().elapsed();
        assert!(waited < Duration::from_secs(60), "{waited:?}, restores: {restores}");
    }
    assert_eq!(store(&server.endpoint).list("").await.unwrap(), before);
}

/// B8: wrong bytes and lost objects are told by name.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_wrong_or_not_at_all_is_told() {
    let server = S3Server::start();
    let direct = Engine::new(Arc::new(store(&server.endpoint)));
    let (data, volume) = (data(), Uuid::new_v4());
    let report = create(&direct, &data, &small(volume, ParentChoice::None)).await.unwrap();
    let chunk = format!("{}-00002", report.prefix);
    let wrong = chunk.clone();
    let flips = Faulty::start(&server.endpoint, move |r| match r.target.contains(&wrong) {
        true if r.method == "GET" => Fault::Flip,
        _ => Fault::None,
    });
    let told = fails_to_restore(&Engine::new(Arc::new(store(&flips.endpoint))), report.backup_id).await;
    assert!(told.contains(&chunk), "{told}");
    assert!(restored(&direct, report.backup_id).await == data);
    store(&server.endpoint).delete(&chunk).await.unwrap();
    let told = fails_to_restore(&direct, report.backup_id).await;
    assert!(told.contains(&chunk) || told.contains("00002"), "{told}");
}

async fn fails_to_restore(engine: &Engine, backup: Uuid) -> String {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("volume");
    let done = crate::util::restore(engine, backup, &to, strata::image::Format::Raw, false).await;
    assert!(!to.exists(), "a broken restore left its file");
    done.unwrap_err().to_string()
}

/// What moves slowly is not cut; what stands still is, soon.
#[tokio::test(flavor = "multi_thread")]
async fn slow_is_not_stalled() {
    let server = S3Server::start();
    store(&server.endpoint).ensure().await.unwrap();
    let faulty = Faulty::start(&server.endpoint, |r| match r.method.as_str() {
        "PUT" => Fault::Slowly,
        "GET" if r.target.contains("small") => Fault::Stall,
        _ => Fault::None,
    });
    let slow = store(&faulty.endpoint);
    let started = Instant::now();
    let body = Bytes::from(vec![7; 8 << 20]);
    slow.put("large", body.clone()).await.unwrap();
    assert!(started.elapsed() > Duration::from_secs(2), "it was not slow: {:?}", started.elapsed());
    assert_eq!(faulty.seen().iter().filter(|r| r.method == "PUT").count(), 1, "it was cut and sent again");
    assert_eq!(slow.get("large", 1 << 30).await.unwrap(), body);
    let started = Instant::now();
    let told = slow.get("small", 10).await.unwrap_err().to_string();
    assert!(told.contains("no byte moved for 1.0 s") && told.contains("retries"), "{told}");
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

/// Who may only read can list and restore: nothing is tried out for that.
#[tokio::test(flavor = "multi_thread")]
async fn reading_needs_no_right_to_write() {
    let server = S3Server::start();
    let direct = Engine::new(Arc::new(store(&server.endpoint)));
    let data = data();
    let report = create(&direct, &data, &small(Uuid::new_v4(), ParentChoice::None)).await.unwrap();
    let reads = Faulty::start(&server.endpoint, |r| match r.method.as_str() {
        "GET" | "HEAD" => Fault::None,
        _ => Fault::Answer(403, "AccessDenied"),
    });
    let engine = Engine::new(Arc::new(store(&reads.endpoint)));
    assert_eq!(engine.list(None).await.unwrap().len(), 1);
    assert!(restored(&engine, report.backup_id).await == data);
    assert!(reads.seen().iter().all(|r| r.method == "GET" || r.method == "HEAD"));
    let told = store(&reads.endpoint).put_new("a", Bytes::new()).await.unwrap_err().to_string();
    assert!(told.contains("AccessDenied"), "{told}");
}

/// An export whose parts are taken by nobody ends when it is asked to, and what was begun of it goes.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_stalls_is_stopped() {
    let server = S3Server::start();
    store(&server.endpoint).ensure().await.unwrap();
    let (canceller, cancel) = Canceller::new();
    let stalls =
        Faulty::start(&server.endpoint, move |request| match request.target.contains("partNumber=") {
            true => {
                canceller.cancel();
                Fault::Stall
            }
            false => Fault::None,
        });
    let export = Export {
        source: Arc::new(Memory(vec![1; 40 << 20])),
        chain: Vec::new(),
        qemu_img: "qemu-img".into(),
        format: Format::Raw,
        compress: false,
        force: true,
    };
    let (bucket, progress) =
        (ObjectBacked::s3("bucket", "", &patient(&stalls.endpoint)).unwrap(), Progress::default());
    let begun = Instant::now();
    let ended = export.to_object(&bucket, "disk", &progress, &cancel).await;
    assert!(matches!(ended, Err(BackupError::Cancelled)), "{ended:?}");
    // Before anything would have been taken for stalled.
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    assert_eq!(server.parts(), Vec::<String>::new());
}
