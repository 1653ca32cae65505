//! Full and incremental backups, and what a restore refuses.

use crate::util::{Repository, noise, restore, sha256, small};
use proptest::prelude::*;
use rstest::rstest;
use strata::backup::format::Compression;
use strata::backup::{BackupError, CreateOptions, ErrorKind, ParentChoice};
use strata::image::{ChainReader, Format, ImageRef};
use uuid::Uuid;

/// B1, B14: each compression both ways; a volume whose last block is short; B2 by its noise.
#[rstest]
#[tokio::test]
async fn each_compression_restores(
    #[values(Compression::None, Compression::Zlib, Compression::Bz2, Compression::Zstd)]
    compression: Compression,
) {
    let repository = Repository::new();
    let data = noise(5, 100_003);
    let options = CreateOptions { compression, ..small(Uuid::new_v4(), ParentChoice::None) };
    let made = repository.create(&data, &options).await.unwrap();
    assert_eq!((made.objects, made.bytes_total), (7, 100_003));
    assert!(repository.restored(made.backup_id).await == data);
}

/// B6, B7, B11: changes at the first block, across a chunk window, at the short last one, data turned
/// into zeros, a grown volume: each point restores, the objects are what changed and no more.
#[tokio::test]
async fn incrementals_store_what_changed() {
    let repository = Repository::new();
    let volume = Uuid::new_v4();
    let mut points: Vec<(Uuid, Vec<u8>)> = Vec::new();
    let mut data = noise(7, 100_003);
    let full = repository.create(&data, &small(volume, ParentChoice::Latest)).await.unwrap();
    assert_eq!(full.full_because.as_deref(), Some("the volume has no earlier backup"));
    points.push((full.backup_id, data.clone()));
    type Step = (&'static str, fn(&mut Vec<u8>), u64, u64);
    let steps: [Step; 6] = [
        ("nothing", |_| {}, 0, 0),
        ("first block", |d| d[0] ^= 1, 1, 1024),
        ("across a window", |d| d[16 * 1024 - 1..16 * 1024 + 1].fill(3), 2, 2048),
        ("short last block", |d| *d.last_mut().unwrap() ^= 1, 1, 100_003 % 1024),
        ("data to zeros", |d| d[40_000..60_000].fill(0), 2, 0),
        ("grown", |d| d.resize(150_000, 9), 0, 0),
    ];
    for (what, change, objects, changed) in steps {
        change(&mut data);
        let made = repository.create(&data, &small(volume, ParentChoice::Latest)).await.unwrap();
        assert_eq!(made.parent_id, Some(points.last().unwrap().0), "{what}");
        if what == "nothing" || objects > 0 {
            assert_eq!(made.objects, objects, "{what}");
        }
        if what == "nothing" || changed > 0 {
            assert_eq!(made.bytes_changed, changed, "{what}");
        }
        points.push((made.backup_id, data.clone()));
    }
    for (backup, expected) in &points {
        assert!(repository.restored(*backup).await == *expected);
    }
    // The newest over old data: what became zeros is written as zeros.
    let target = repository.path("old");
    std::fs::write(&target, vec![0xee; 150_100]).unwrap();
    let (backup, expected) = points.last().unwrap();
    restore(&repository.engine, *backup, &target, Format::Raw, true).await.unwrap();
    let found = std::fs::read(&target).unwrap();
    assert!(found[..150_000] == expected[..] && found[150_000..] == [0xee; 100]);
    // A parent that has children stays.
    let refused = repository.engine.delete(full.backup_id).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsafe);
}

/// B7: another block size and a shrunk volume are refused, a damaged parent makes a full backup.
#[tokio::test]
async fn parents_that_do_not_fit() {
    let repository = Repository::new();
    let volume = Uuid::new_v4();
    let data = noise(3, 50_000);
    let full = repository.create(&data, &small(volume, ParentChoice::None)).await.unwrap();
    let other = CreateOptions { hash_block: 2048, ..small(volume, ParentChoice::Latest) };
    let error = repository.create(&data, &other).await.unwrap_err();
    assert!(matches!(error, BackupError::OtherHashBlock { theirs: 1024, ours: 2048, .. }), "{error}");
    let error = repository.create(&data[..40_000], &small(volume, ParentChoice::Latest)).await.unwrap_err();
    assert!(matches!(error, BackupError::Shrunk { theirs: 50_000, ours: 40_000, .. }), "{error}");
    let foreign = small(Uuid::new_v4(), ParentChoice::Backup(full.backup_id));
    assert_eq!(repository.create(&data, &foreign).await.unwrap_err().kind(), ErrorKind::Usage);
    std::fs::remove_file(repository.file(&format!("{}-00002", full.prefix))).unwrap();
    let again = repository.create(&data, &small(volume, ParentChoice::Latest)).await.unwrap();
    assert_eq!(again.parent_id, None);
    assert!(again.full_because.unwrap().contains("-00002"));
    let gone = small(volume, ParentChoice::Backup(Uuid::new_v4()));
    assert!(repository.create(&data, &gone).await.unwrap().full_because.is_some());
    let bad = CreateOptions { chunk_size: 1000, ..small(volume, ParentChoice::None) };
    assert_eq!(repository.create(&data, &bad).await.unwrap_err().kind(), ErrorKind::Usage);
    let empty = repository.create(&[], &small(volume, ParentChoice::None)).await.unwrap_err();
    assert_eq!(empty.kind(), ErrorKind::Usage);
}

/// B11: a missing object, one too many and a damaged one are refused by name, and leave no file.
#[rstest]
#[case::missing("-00002", None)]
#[case::surplus("-00099", Some(&b"surplus"[..]))]
#[case::damaged("-00003", Some(&b"damaged"[..]))]
#[case::no_hashes("_sha256file", None)]
#[tokio::test]
async fn a_set_that_is_not_whole(#[case] end: &str, #[case] content: Option<&[u8]>) {
    let repository = Repository::new();
    let made =
        repository.create(&noise(2, 80_000), &small(Uuid::new_v4(), ParentChoice::None)).await.unwrap();
    let key = format!("{}{end}", made.prefix);
    match content {
        Some(bytes) => std::fs::write(repository.file(&key), bytes).unwrap(),
        None => std::fs::remove_file(repository.file(&key)).unwrap(),
    }
    let error = repository.restore_to(made.backup_id, &repository.path("out")).await.unwrap_err().to_string();
    assert!(error.contains(&key), "{error}");
    assert_eq!(repository.leftovers(), Vec::<String>::new());
    // In place: with a wrong listing not a byte was written, with a damaged chunk none of its own.
    let old = repository.path("old");
    std::fs::write(&old, vec![0xee; 80_000]).unwrap();
    restore(&repository.engine, made.backup_id, &old, Format::Raw, true).await.unwrap_err();
    let found = std::fs::read(&old).unwrap();
    let range = if end == "-00003" { 32 * 1024..48 * 1024 } else { 0..80_000 };
    assert!(found[range].iter().all(|b| *b == 0xee));
}

/// Manifests that lie are refused in words.
#[rstest]
#[case::version("\"1.0.0\"", "\"9\"", "version \"9\"")]
#[case::negative("\"offset\": 16384", "\"offset\": -1", "cannot be read")]
#[case::overlap("\"offset\": 16384", "\"offset\": 1024", "overlap")]
#[case::beyond("\"offset\": 32768", "\"offset\": 18446744073709551000", "cannot have offset")]
#[case::gap("\"offset\": 32768", "\"offset\": 1048576", "splits a hash block")]
#[case::path("-00002\"", "-00002/../../x\"", "no chunk of this backup")]
#[case::word("\"zstd\"", "\"lzma\"", "unknown compression")]
#[case::bomb("\"length\": 16384", "\"length\": 99999999999", "cannot have offset")]
#[tokio::test]
async fn hostile_manifests(#[case] from: &str, #[case] to: &str, #[case] expected: &str) {
    let repository = Repository::new();
    let data = b"compressible ".repeat(4000);
    let made = repository.create(&data, &small(Uuid::new_v4(), ParentChoice::None)).await.unwrap();
    let path = repository.file(&format!("{}_metadata", made.prefix));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
    let error = repository.restore_to(made.backup_id, &repository.path("out")).await.unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
    assert_eq!(repository.leftovers(), Vec::<String>::new());
}

/// A chain that goes round ends in an error.
#[tokio::test]
async fn a_backup_that_is_its_own_ancestor() {
    let repository = Repository::new();
    let volume = Uuid::new_v4();
    let data = noise(4, 20_000);
    let full = repository.create(&data, &small(volume, ParentChoice::None)).await.unwrap();
    let child = repository.create(&data, &small(volume, ParentChoice::Latest)).await.unwrap();
    let path = repository.file(&format!("{}_metadata", full.prefix));
    let text = std::fs::read_to_string(&path).unwrap();
    let round = text.replace("\"parent_id\": null", &format!("\"parent_id\": \"{}\"", child.backup_id));
    std::fs::write(&path, round).unwrap();
    let error = repository.restore_to(child.backup_id, &repository.path("out")).await.unwrap_err();
    assert!(matches!(error, BackupError::BadChain { .. }), "{error}");
}

/// B11: a restore to qcow2 reads back as the volume, with explicit formats.
#[tokio::test]
async fn restored_to_qcow2() {
    let repository = Repository::new();
    let mut data = vec![0; 1 << 20];
    data[300_000..400_000].copy_from_slice(&noise(8, 100_000));
    let made = repository.create(&data, &small(Uuid::new_v4(), ParentChoice::None)).await.unwrap();
    assert!(made.bytes_read < 110_000, "holes are not read");
    let to = repository.path("volume.qcow2");
    restore(&repository.engine, made.backup_id, &to, Format::Qcow2, false).await.unwrap();
    assert!(std::fs::metadata(&to).unwrap().len() < 700_000);
    let reader = ChainReader::open(&[ImageRef { path: to, format: Format::Qcow2 }]).unwrap();
    let mut found = vec![1; 1 << 20];
    reader.read_at(&mut found, 0).unwrap();
    assert_eq!(sha256(&found), sha256(&data));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any history: each point restores to its bytes.
    #[test]
    fn histories(
        size in 1usize..40_000,
        edits in prop::collection::vec(prop::collection::vec((0usize..40_000, 1usize..9000, any::<Option<u8>>()), 0..4), 1..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let repository = Repository::new();
            let volume = Uuid::new_v4();
            let mut data = noise(size as u64, size);
            let mut points = Vec::new();
            for edit in [vec![]].into_iter().chain(edits) {
                for (start, length, byte) in edit {
                    let range = start.min(size)..(start + length).min(size);
                    data[range].fill(byte.unwrap_or(0));
                }
                let options = small(volume, points.last().map_or(ParentChoice::None, |(id, _)| ParentChoice::Backup(*id)));
                let made = repository.create(&data, &options).await.unwrap();
                points.push((made.backup_id, data.clone()));
            }
            for (backup, expected) in points {
                assert!(repository.restored(backup).await == expected);
            }
        });
    }
}
