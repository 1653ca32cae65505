//! Chunks that are cut into several objects.

use crate::util::{Repository, noise};
use rstest::rstest;
use std::ops::Range;
use strata::backup::format::{Compression, Manifest, Prefix, md5_hex};
use strata::backup::{CreateOptions, CreateReport, ParentChoice};
use uuid::Uuid;

const MIB: u64 = 1 << 20;

fn options(volume: Uuid, split: u64, compression: Compression) -> CreateOptions {
    let parent = ParentChoice::Latest;
    CreateOptions { parent, chunk_size: 16 * MIB, split, compression, ..CreateOptions::new(volume) }
}

/// Nothing that zstd could shrink.
fn pure_noise(length: u64) -> Vec<u8> {
    let mut state = 77u64;
    let word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(word).take(length as usize / 8).flatten().collect()
}

/// 54 MiB: a chunk of text, zeros and noise, one of zeros, one of text, and a short one.
fn volume() -> Vec<u8> {
    let mut data = noise(3, 4 * MIB as usize);
    data.resize(12 * MIB as usize, 0);
    data.extend(pure_noise(4 * MIB));
    data.resize(32 * MIB as usize, 0);
    data.extend(noise(4, 22 * MIB as usize));
    data
}

/// Where each object lies, in MiB, and whether it is compressed; with its bytes checked against its digest.
fn objects(repository: &Repository, made: &CreateReport, data: &[u8]) -> Vec<(Range<u64>, bool)> {
    let prefix = Prefix::of_key(&format!("{}_metadata", made.prefix)).unwrap().0;
    let manifest =
        Manifest::parse(&prefix, &std::fs::read(repository.file(&prefix.manifest())).unwrap()).unwrap();
    let checked = manifest.extents.iter().map(|extent| {
        let bytes = &data[extent.offset as usize..extent.end() as usize];
        assert_eq!(extent.md5, md5_hex(bytes), "{}", extent.key);
        let stored = std::fs::read(repository.file(&extent.key)).unwrap();
        assert!(extent.compression.decompress(&stored, extent.length).unwrap() == bytes, "{}", extent.key);
        (extent.offset / MIB..extent.end() / MIB, extent.compression != Compression::None)
    });
    checked.collect()
}

/// Data is cut, neighbours of zeros are not, and what was noise is as it was; an increment on it the same.
#[rstest]
#[case(Compression::Zstd)]
#[case(Compression::None)]
#[tokio::test]
async fn data_is_cut_and_zeros_are_not(#[case] compression: Compression) {
    let repository = Repository::new();
    let options = options(Uuid::new_v4(), 4, compression);
    let mut data = volume();
    let full = repository.create(&data, &options).await.unwrap();
    let packs = compression != Compression::None;
    let expected = [
        (0..4, packs),
        (4..12, packs),
        (12..16, false),
        (16..32, packs),
        (32..36, packs),
        (36..40, packs),
        (40..44, packs),
        (44..48, packs),
        (48..52, packs),
        (52..54, packs),
    ];
    assert_eq!(objects(&repository, &full, &data), expected);
    assert_eq!((full.bytes_read, full.objects), (30 * MIB, 10));
    // Two runs: nine mebibytes of text, and five of zeros.
    data[17 * MIB as usize..26 * MIB as usize].copy_from_slice(&noise(5, 9 * MIB as usize));
    data[33 * MIB as usize..38 * MIB as usize].fill(0);
    let next = repository.create(&data, &options).await.unwrap();
    let expected = [(17..21, packs), (21..25, packs), (25..26, packs), (33..38, packs)];
    assert_eq!(objects(&repository, &next, &data), expected);
    assert!(repository.restored(next.backup_id).await == data);
}

/// As Cinder has it.
#[tokio::test]
async fn one_object_per_chunk() {
    let repository = Repository::new();
    let data = volume();
    let made = repository.create(&data, &options(Uuid::new_v4(), 1, Compression::Zstd)).await.unwrap();
    let expected = [(0..16, true), (16..32, true), (32..48, true), (48..54, true)];
    assert_eq!(objects(&repository, &made, &data), expected);
    assert!(repository.restored(made.backup_id).await == data);
    let none = CreateOptions { split: 0, ..options(Uuid::new_v4(), 1, Compression::Zstd) };
    let refused = repository.create(&data, &none).await.unwrap_err();
    assert!(refused.to_string().contains("at least one object"), "{refused}");
}
