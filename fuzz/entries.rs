//! What reads bytes that somebody else wrote, one entry point each. The fuzzer calls them with what it makes up,
//! tests/fuzz_corpus.rs with what was found before.
//!
//! An entry fails by a panic: the reader's own, or of a property that must hold of all that it accepts.

use sha2::{Digest, Sha256};
use std::fmt::{Debug, Display};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};
use strata::backup::catalog::Catalog;
use strata::backup::format::{Compression, HashList, Manifest, Prefix, ZoneName};
use strata::backup::store::{ObjectBacked, RepositoryUrl, Store};
use strata::gluster::{ShareKey, Source};
use strata::image::header;
use strata::volume::delta_file::{Delta, block_count};
use strata::volume::{NodeId, SnapshotHandle, SnapshotId, VolumeHandle, VolumeId, info_table, record};
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

/// Takes any bytes.
pub type Entry = fn(&[u8]);

/// Every entry point by the name of its corpus' folder.
pub const TARGETS: &[(&str, Entry)] = &[
    ("codec", codec),
    ("delta", delta),
    ("handles", handles),
    ("hash_reader", hash_reader),
    ("hashes", hashes),
    ("manifest", manifest),
    ("names", names),
    ("qcow2", qcow2),
    ("record", volume_record),
    ("url", url),
    ("volume_info", volume_info),
];

/// More than any chunk here unpacks to.
const MOST: u64 = 1 << 20;

/// The set that manifests and hash files of the corpus are of.
pub fn prefix() -> Prefix {
    Prefix::new(Uuid::nil(), "20261121194302", &ZoneName::default(), Uuid::max())
}

/// `_metadata`: what is accepted is disjoint, below this prefix, and the same after being written and read again.
fn manifest(data: &[u8]) {
    let Ok(read) = Manifest::parse(&prefix(), data) else { return };
    let mut end = 0;
    let mut extents: Vec<_> = read.extents.iter().collect();
    extents.sort_by_key(|extent| extent.offset);
    for extent in extents {
        assert!(prefix().owns_chunk(&extent.key), "{extent:?}");
        assert!(extent.length > 0 && extent.offset >= end, "{extent:?} begins before {end}");
        end = extent.offset.checked_add(extent.length).expect("no extent ends beyond all numbers");
    }
    let again = Manifest::parse(&prefix(), &read.encode().expect("what was read can be written"));
    assert_eq!(again.expect("what was written can be read"), read);
}

/// `_sha256file`.
fn hashes(data: &[u8]) {
    let Ok(read) = HashList::parse(&prefix(), data) else { return };
    assert!(read.block > 0);
    let encoded = read.encode(&prefix(), None, None, "now").expect("what was read can be written");
    assert_eq!(HashList::parse(&prefix(), &encoded).expect("what was written can be read"), read);
}

/// `_sha256file` as backups and restores read it, in parts: what both ways accept is the same.
fn hash_reader(data: &[u8]) {
    static RUNTIME: LazyLock<Runtime> =
        LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime starts"));
    let store: Arc<dyn Store> = Arc::new(ObjectBacked::memory());
    let read = RUNTIME.block_on(async {
        store.put(&prefix().hashes(), data.to_vec().into()).await.expect("memory takes bytes");
        Catalog::new(store).hashes(&prefix()).await
    });
    let Ok(read) = read else { return };
    assert!(read.block > 0);
    if let Ok(whole) = HashList::parse(&prefix(), data) {
        assert_eq!(whole, read);
    }
}

/// Object names: an owner's prefix and the rest make up the name; a chunk never leaves its prefix.
fn names(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Some((found, rest)) = Prefix::of_key(text) {
        assert_eq!(format!("{found}{rest}"), text);
        assert!(text.starts_with(&Prefix::of_volume(found.volume())));
        assert!(found.as_str().ends_with(&found.backup().to_string()));
        let manifest = found.manifest();
        assert_eq!(Prefix::of_key(&manifest), Some((found.clone(), "_metadata")));
        if found.owns_chunk(text) {
            assert!(!rest.contains('/') && rest.starts_with('-'), "{text}");
        }
    }
    same_again::<ZoneName>(text);
}

/// Compressed chunks: never more bytes than declared, never fewer.
fn codec(data: &[u8]) {
    let [which, a, b, c, stored @ ..] = data else { return };
    let all = [Compression::None, Compression::Zlib, Compression::Bz2, Compression::Zstd];
    let compression = all[usize::from(which % 4)];
    let declared = u64::from(u32::from_le_bytes([*a, *b, *c, 0])) % MOST;
    if let Ok(unpacked) = compression.decompress(stored, declared) {
        assert_eq!(unpacked.len() as u64, declared);
    }
    if let Some(packed) = compression.compress(stored).expect("any bytes can be compressed") {
        assert!(packed.len() < stored.len());
        let unpacked = compression.decompress(&packed, stored.len() as u64);
        assert_eq!(unpacked.expect("what was compressed can be unpacked"), stored);
    }
}

/// A repository's URL.
fn url(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    same_again::<RepositoryUrl>(text);
}

/// What Kubernetes and people hand in: handles, ids, sources of shares.
fn handles(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    same_again::<VolumeHandle>(text);
    same_again::<SnapshotHandle>(text);
    same_again::<VolumeId>(text);
    same_again::<SnapshotId>(text);
    same_again::<NodeId>(text);
    same_again::<ShareKey>(text);
    same_again::<Source>(text);
}

/// volume.json: only what this program writes byte for byte is accepted. Its checksum stops all but the fuzzer's
/// best guesses, so that the record inside is tried by itself too.
fn volume_record(data: &[u8]) {
    if let Ok(read) = record::decode(data) {
        assert_eq!(record::encode(&read), data);
    }
    if let Ok(inside) = serde_json::from_slice::<record::Record>(data) {
        let encoded = record::encode(&inside);
        if let Ok(read) = record::decode(&encoded) {
            assert_eq!(read, inside);
            assert!(info_table::parse("volume.info", &info_table::encode(&read.info_table())).is_ok());
        }
    }
}

/// volume.info: no name in it leaves the folder.
fn volume_info(data: &[u8]) {
    let Ok(table) = info_table::parse("volume.info", data) else { return };
    for name in table.values() {
        assert!(name.starts_with("volume-") && !name.contains('/') && !name.contains(".."), "{name}");
    }
    assert_eq!(info_table::parse("volume.info", &info_table::encode(&table)).as_ref(), Ok(&table));
}

/// deltas/…: no block past the end of the disk. The checksum stops all guesses, so that the same with a right one is
/// tried, too.
fn delta(data: &[u8]) {
    delta_as_it_is(data);
    let Some(length) = data.len().checked_sub(32) else { return };
    let mut sealed = data[..length].to_vec();
    sealed.extend_from_slice(&Sha256::digest(&data[..length]));
    delta_as_it_is(&sealed);
}

fn delta_as_it_is(data: &[u8]) {
    let Ok(read) = Delta::decode(data) else { return };
    assert_eq!(Delta::decode(&read.encode()).as_ref(), Ok(&read));
    let end = block_count(read.to.size).expect("a disk that is too large is refused");
    let changed = read.changed();
    assert!(read.blocks.is_subset(&changed));
    assert!(changed.max().is_none_or(|last| last < end), "{last:?} of {end}", last = changed.max());
}

/// The header of a qcow2 file, by every way that reads one.
fn qcow2(data: &[u8]) {
    let memory =
        rustix::fs::memfd_create("qcow2", rustix::fs::MemfdFlags::CLOEXEC).expect("a file in memory");
    let mut file = std::fs::File::from(memory);
    file.write_all(data).expect("memory takes bytes");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let read = header::Header::read(&path);
    if let Ok(accepted) = header::verify(&path, None) {
        assert_eq!(Some(&accepted), read.as_ref().ok());
        assert!(accepted.backing_file.is_none() && !accepted.external_data && accepted.unknown_features == 0);
    }
    let _ = header::has_no_data(&path);
}

/// What is accepted is written as it is read.
fn same_again<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(read) = text.parse::<T>() {
        let written = read.to_string();
        match written.parse::<T>() {
            Ok(again) => assert_eq!(again, read, "{text:?} was written as {written:?}"),
            Err(_) => panic!("{text:?} was written as {written:?}, which cannot be read"),
        }
    }
}
