//! Cinder's real driver and this engine over one S3 server: each restores what the other made, and goes on
//! with the other's chains (B14, X5).

mod cinder;
#[path = "../backup/s3_server.rs"]
mod s3_server;
mod volume;

use cinder::{BUCKET, Cinder, CinderBackup, Record};
use s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use strata::backup::format::{Compression, VolumeMeta};
use strata::backup::store::{ObjectBacked, S3Options};
use strata::backup::{
    Cancel, CreateOptions, CreateReport, Engine, ParentChoice, Progress, RestoreOptions, SnapshotSource,
};
use strata::image::{ChainReader, Format, ImageRef};
use uuid::Uuid;
use volume::{GIB, MIB, Volume};

const CHUNK: u64 = 4 << 20;
const BLOCK: u64 = 32 << 10;

fn engine(server: &S3Server) -> Engine {
    let options = S3Options {
        endpoint: Some(server.endpoint.clone()),
        region: Some("us-east-1".to_owned()),
        credentials: Some((ACCESS_KEY.to_owned(), SECRET_KEY.to_owned())),
        ..S3Options::default()
    };
    Engine::new(Arc::new(ObjectBacked::s3(BUCKET, "", &options).unwrap()))
}

async fn create(engine: &Engine, image: &Path, options: &CreateOptions) -> CreateReport {
    let image = ImageRef { path: image.to_owned(), format: Format::Raw };
    let source: Arc<dyn SnapshotSource> = Arc::new(ChainReader::open(&[image]).unwrap());
    let made = engine.create(source, options, &Progress::default(), &Cancel::never()).await.unwrap();
    assert_eq!(made.full_because, None);
    made
}

async fn restore(engine: &Engine, backup: Uuid, to: &Path, in_place: bool) {
    let options = RestoreOptions { in_place, ..RestoreOptions::new(backup, to) };
    engine.restore(&options, &Progress::default(), &Cancel::never()).await.unwrap();
}

/// What Cinder is told of a backup of ours.
fn record<'a>(made: &'a CreateReport, volume: Uuid) -> Record<'a> {
    Record {
        id: made.backup_id,
        volume,
        parent: made.parent_id,
        prefix: &made.prefix,
        objects: made.objects,
        gigabytes: made.bytes_total.div_ceil(GIB),
    }
}

fn small(volume: Uuid, parent: Option<Uuid>, compression: Compression) -> CreateOptions {
    let parent = parent.map_or(ParentChoice::None, ParentChoice::Backup);
    CreateOptions { parent, compression, chunk_size: CHUNK, hash_block: BLOCK, ..CreateOptions::new(volume) }
}

fn metadata() -> String {
    let base = [("display_name", json!("a claim")), ("size", json!(1))];
    let base = base.map(|(key, value)| (key.to_owned(), value)).into();
    VolumeMeta::new(base, [("strata.mode".to_owned(), "0750".to_owned())].into()).encode()
}

/// Each point of our chains, over a volume full of something else, and over a blank one.
#[tokio::test(flavor = "multi_thread")]
async fn cinder_restores_ours() {
    let server = S3Server::start();
    let (ours, mut cinder) = (engine(&server), Cinder::start(&server));
    for compression in [Compression::None, Compression::Zlib, Compression::Bz2, Compression::Zstd] {
        restores_ours(&ours, &mut cinder, compression).await;
    }
}

async fn restores_ours(ours: &Engine, cinder: &mut Cinder, compression: Compression) {
    let id = Uuid::new_v4();
    let mut volume = Volume::new(24 * MIB + 4096);
    let mut points: Vec<(CreateReport, Vec<u8>)> = Vec::new();
    for change in volume::HISTORY {
        change(&mut volume);
        let parent = points.last().map(|(made, _)| made.backup_id);
        let options = CreateOptions { volume_meta: Some(metadata()), ..small(id, parent, compression) };
        let made = create(ours, volume.path(), &options).await;
        cinder.import(&record(&made, id));
        points.push((made, volume.bytes()));
    }
    for (made, expected) in &points {
        let dirty = Volume::full_of_something(expected.len() as u64);
        let got = cinder.restore(made.backup_id, dirty.path(), false);
        assert!(dirty.bytes() == *expected, "{compression} {}", made.backup_id);
        assert_eq!(got["strata.mode"], "0750", "the metadata came back: {got}");
        let blank = Volume::new(expected.len() as u64);
        cinder.restore(made.backup_id, blank.path(), true);
        assert!(blank.bytes() == *expected, "{compression} {} to a new volume", made.backup_id);
    }
    // The last is gone when Cinder deletes it, and the others are whole.
    let (last, _) = points.pop().unwrap();
    cinder.delete(last.backup_id);
    let left = ours.list(Some(id)).await.unwrap();
    assert_eq!(left.len(), points.len());
    assert!(left.iter().all(|info| info.damage.is_none()), "{left:?}");
}

/// Each point of Cinder's chains, to a new file and over another one; digests are compared on the way.
#[tokio::test(flavor = "multi_thread")]
async fn we_restore_cinders() {
    let server = S3Server::start();
    let (ours, mut cinder) = (engine(&server), Cinder::start(&server));
    for compression in ["none", "zlib", "bz2", "zstd"] {
        restores_cinders(&ours, &mut cinder, compression).await;
    }
}

async fn restores_cinders(ours: &Engine, cinder: &mut Cinder, compression: &str) {
    let id = Uuid::new_v4();
    let mut volume = Volume::new(24 * MIB + 4096);
    let mut points: Vec<(Uuid, Vec<u8>)> = Vec::new();
    for change in volume::HISTORY {
        change(&mut volume);
        let parent = points.last().map(|(backup, _)| *backup);
        let how = CinderBackup { volume: id, parent, compression, chunk: CHUNK, block: BLOCK };
        let (backup, _) = cinder.backup(volume.path(), &how);
        points.push((backup, volume.bytes()));
    }
    for (backup, expected) in &points {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("new");
        restore(ours, *backup, &new, false).await;
        assert!(std::fs::read(&new).unwrap() == *expected, "{compression} {backup}");
        let dirty = Volume::full_of_something(expected.len() as u64);
        restore(ours, *backup, dirty.path(), true).await;
        assert!(dirty.bytes() == *expected, "{compression} {backup} over another");
    }
    let listed = ours.list(Some(id)).await.unwrap();
    assert_eq!(listed.iter().map(|info| info.backup_id).collect::<Vec<_>>().len(), points.len());
    assert!(listed.iter().all(|info| info.name.as_deref() == Some("made by Cinder")), "{listed:?}");
}

/// One chain by turns, by both: full by one of them, then an incremental by the other, and so on.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_both() {
    let server = S3Server::start();
    let (ours, mut cinder) = (engine(&server), Cinder::start(&server));
    by_turns(&ours, &mut cinder, true).await;
    by_turns(&ours, &mut cinder, false).await;
}

async fn by_turns(ours: &Engine, cinder: &mut Cinder, cinder_begins: bool) {
    let id = Uuid::new_v4();
    let mut volume = Volume::new(24 * MIB + 4096);
    let mut points: Vec<(Uuid, Vec<u8>)> = Vec::new();
    for (number, change) in volume::HISTORY.iter().enumerate() {
        change(&mut volume);
        let parent = points.last().map(|(backup, _)| *backup);
        let backup = if (number % 2 == 0) == cinder_begins {
            let how = CinderBackup { volume: id, parent, compression: "zlib", chunk: CHUNK, block: BLOCK };
            cinder.backup(volume.path(), &how).0
        } else {
            let made = create(ours, volume.path(), &small(id, parent, Compression::Zstd)).await;
            cinder.import(&record(&made, id));
            made.backup_id
        };
        points.push((backup, volume.bytes()));
    }
    for (backup, expected) in &points {
        let (by_us, by_cinder) = (Volume::full_of_something(0), Volume::full_of_something(0));
        for target in [&by_us, &by_cinder] {
            target.fill(expected.len() as u64);
        }
        restore(ours, *backup, by_us.path(), true).await;
        cinder.restore(*backup, by_cinder.path(), false);
        assert!(by_us.bytes() == *expected, "{backup} by us");
        assert!(by_cinder.bytes() == *expected, "{backup} by Cinder");
    }
    // What Cinder does not do: the same volume with other hash blocks.
    let parent = Some(points.last().unwrap().0);
    let other = CinderBackup { volume: id, parent, compression: "zlib", chunk: CHUNK, block: 2 * BLOCK };
    let refused = cinder.refusal(volume.path(), &other);
    assert!(refused.contains("block size"), "{refused}");
}

/// A volume of a whole GiB that grew to two, with both sides' own sizes of chunks and blocks, each backup
/// compressed in another way.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_its_real_size() {
    let server = S3Server::start();
    let (ours, mut cinder, id) = (engine(&server), Cinder::start(&server), Uuid::new_v4());
    let mut volume = Volume::new(GIB);
    let text = |seed: u64, length: u64| volume::text(seed, length as usize);
    let random = |seed: u64, length: u64| volume::random(seed, length as usize);
    volume.write(0, &text(1, 2 * MIB));
    volume.write(50 * 1024 * 1024 - 70_000, &random(2, MIB));
    volume.write(GIB - 5000, &text(3, 5000));
    let how = |parent, compression| CreateOptions {
        parent: if parent == Uuid::nil() { ParentChoice::None } else { ParentChoice::Backup(parent) },
        compression,
        ..CreateOptions::new(id)
    };
    let mut chain = vec![create(&ours, volume.path(), &how(Uuid::nil(), Compression::Zlib)).await];
    volume.zero(MIB, 50 * MIB);
    let first = (chain[0].backup_id, Compression::Bz2);
    chain.push(create(&ours, volume.path(), &how(first.0, first.1)).await);
    volume.grow(2 * GIB);
    volume.write(GIB - 100, &random(4, MIB));
    volume.write(2 * GIB - 70_000, &random(5, 70_000));
    chain.push(create(&ours, volume.path(), &how(chain[1].backup_id, Compression::Zstd)).await);
    volume.write(3 * MIB, &random(6, 100_000));
    chain.push(create(&ours, volume.path(), &how(chain[2].backup_id, Compression::None)).await);
    for made in &chain {
        cinder.import(&record(made, id));
    }
    let dirty = Volume::new(2 * GIB);
    dirty.write(0, &random(7, 60 * MIB));
    dirty.write(GIB - MIB, &random(8, 3 * MIB));
    cinder.restore(chain[3].backup_id, dirty.path(), false);
    assert!(volume.same_as(dirty.path()), "restored by Cinder");
    let folder = tempfile::tempdir().unwrap();
    let new = folder.path().join("new");
    restore(&ours, chain[3].backup_id, &new, false).await;
    assert!(volume.same_as(&new), "restored by us");
}

/// What `strata backup export-record` prints: the records in the commands for Cinder.
fn import_commands(server: &S3Server, backup: Uuid) -> Vec<String> {
    let (repository, backup) = (format!("s3://{BUCKET}"), backup.to_string());
    let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
    command.args(["backup", "export-record", "--repository", &repository, "--backup", &backup]);
    command.args(["--endpoint", &server.endpoint, "--region", "us-east-1"]);
    let keys = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
    let printed = command.env_remove("AWS_SESSION_TOKEN").envs(keys).output().unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let printed = String::from_utf8(printed.stdout).unwrap();
    let words = printed.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let of_cinder = |words: Vec<&str>| {
        assert_eq!(words[..3], ["cinder", "backup-import", "cinder.backup.drivers.s3.S3BackupDriver"]);
        words[3].to_owned()
    };
    words.map(of_cinder).collect()
}

/// What export-record prints is what Cinder takes, for a chain and for one full backup made of it, which Cinder
/// restores rightly to a new volume too. The same after the full one was deleted and its successor made whole.
#[tokio::test(flavor = "multi_thread")]
async fn cinder_takes_our_records() {
    let server = S3Server::start();
    let (ours, mut cinder, id) = (engine(&server), Cinder::start(&server), Uuid::new_v4());
    let mut volume = Volume::new(24 * MIB + 4096);
    let mut made: Vec<Uuid> = Vec::new();
    for change in volume::HISTORY {
        change(&mut volume);
        let options = small(id, made.last().copied(), Compression::Zlib);
        made.push(create(&ours, volume.path(), &options).await.backup_id);
    }
    let (newest, expected) = (*made.last().unwrap(), volume.bytes());
    let (progress, cancel) = (Progress::default(), Cancel::never());
    let full = ours.export_full(newest, &ours, None, &progress, &cancel).await.unwrap();
    let printed = |backup| import_commands(&server, backup);
    let imported: Vec<Uuid> = printed(newest).iter().map(|url| cinder.import_url(url)).collect();
    assert_eq!(imported, made);
    let imported: Vec<Uuid> = printed(full.backup_id).iter().map(|url| cinder.import_url(url)).collect();
    assert_eq!(imported, [full.backup_id]);
    let dirty = Volume::full_of_something(expected.len() as u64);
    cinder.restore(newest, dirty.path(), false);
    assert!(dirty.bytes() == expected);
    let blank = Volume::new(expected.len() as u64);
    cinder.restore(full.backup_id, blank.path(), true);
    assert!(blank.bytes() == expected);
    // Another Cinder: one that has not heard of the chain before.
    ours.delete_rebasing(made[0], &progress, &cancel).await.unwrap();
    let mut other = Cinder::start(&server);
    for record in ours.import_records(newest, BUCKET).await.unwrap() {
        assert_eq!(other.import_url(&record.backup_url), record.backup_id);
    }
    let dirty = Volume::full_of_something(expected.len() as u64);
    other.restore(newest, dirty.path(), false);
    assert!(dirty.bytes() == expected);
}
