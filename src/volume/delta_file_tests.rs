use super::*;

fn at(layer: u128, size: u64) -> At {
    let id = |n: u128| Uuid::from_u128(n).to_string();
    At {
        volume: id(1).parse().unwrap(),
        layer: id(layer).parse().unwrap(),
        incarnation: Uuid::from_u128(7),
        size,
    }
}

fn delta() -> Delta {
    let blocks = [0, 3, 4, 5, 99].into_iter().collect();
    Delta { from: at(2, 80 * GRAIN), to: at(3, 100 * GRAIN), made_at: 1_700_000_000, blocks }
}

/// With a checksum that is right for what it has.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() - SUM);
    let sum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&sum);
    bytes
}

#[test]
fn what_is_written_is_read() {
    assert_eq!(Delta::decode(&delta().encode()).unwrap(), delta());
    let empty = Delta { blocks: RoaringBitmap::new(), ..delta() };
    assert_eq!(Delta::decode(&empty.encode()).unwrap(), empty);
}

/// The layout is a promise: this is what the first version wrote.
#[test]
fn the_layout_stays() {
    let bytes = delta().encode();
    assert_eq!(&bytes[..8], b"STRATADL");
    assert_eq!(bytes[8..16], [1, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(bytes[16..24], 1_700_000_000u64.to_le_bytes());
    assert_eq!(bytes[24 + 15], 1);
    assert_eq!(bytes[24 + 31], 2);
    assert_eq!(bytes[24 + 47], 7);
    assert_eq!(bytes[72..80], (80 * GRAIN).to_le_bytes());
    assert_eq!(bytes[80 + 31], 3);
    assert_eq!(bytes[128..136], (100 * GRAIN).to_le_bytes());
    assert_eq!(bytes[136..144], (bytes.len() as u64 - 144 - 32).to_le_bytes());
    assert_eq!(HEAD, 144);
}

#[test]
fn every_changed_bit_and_every_shorter_file_is_noticed() {
    let bytes = delta().encode();
    for bit in 0..bytes.len() * 8 {
        let mut broken = bytes.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        assert!(Delta::decode(&broken).is_err(), "bit {bit}");
    }
    for length in 0..bytes.len() {
        assert!(Delta::decode(&bytes[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn another_version_or_geometry_is_said_to_be_that() {
    let change = |at: usize, byte: u8| {
        let mut bytes = delta().encode();
        bytes[at] = byte;
        Delta::decode(&sealed(bytes)).unwrap_err()
    };
    assert_eq!(change(8, 2), "version 2, where this version of strata reads 1");
    assert_eq!(change(14, 2), "blocks of 131072 bytes, where this version of strata has 65536");
    assert_eq!(change(136, 0xff), "it is cut off");
    // A disk of 64 KiB has no block 99.
    let mut small = delta();
    small.to.size = GRAIN;
    assert_eq!(Delta::decode(&small.encode()).unwrap_err(), "it has blocks past the end of the disk");
    // A bitmap that promises more than there is.
    let mut bytes = delta().encode();
    bytes[HEAD] ^= 0xff;
    assert!(Delta::decode(&sealed(bytes)).is_err());
}

#[test]
fn growth_counts_as_changed_from_the_block_that_the_old_end_was_in() {
    assert_eq!(grown(GRAIN + 1, 3 * GRAIN + 1), 1..4);
    assert_eq!(grown(2 * GRAIN, 2 * GRAIN), 2..2);
    let changed = delta().changed();
    assert!(changed.contains_range(80..100) && changed.len() == 4 + 20);
}

#[test]
fn one_that_follows_another_has_the_changes_of_both() {
    let earlier = Delta { from: at(1, 60 * GRAIN), to: at(2, 80 * GRAIN), blocks: [1].into(), ..delta() };
    let mut later = delta();
    later.follow(&earlier);
    assert_eq!(later.from, at(1, 60 * GRAIN));
    assert_eq!(later.to, delta().to);
    assert_eq!(later.blocks, [0, 1, 3, 4, 5, 99].into_iter().collect());
}
