//! The data that is backed up: made of nothing but a seed, so that every run and every machine has the same.

use anyhow::Result;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

const PAGE: u64 = 4096;
/// How many places of a volume change.
const EXTENTS: u64 = 200;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Files,
    Noise,
    Zeros,
}

/// Words of different frequency, and repetitions, as text, logs and programs have them.
fn files(random: &mut Random, length: usize) -> Vec<u8> {
    let mut words = Random(42);
    let vocabulary: Vec<Vec<u8>> =
        (0..4096).map(|_| (0..3 + words.below(9)).map(|_| b'a' + words.below(26) as u8).collect()).collect();
    let mut bytes: Vec<u8> = Vec::with_capacity(length + 1024);
    while bytes.len() < length {
        if bytes.len() > 1024 && random.below(8) == 0 {
            let from = random.below(bytes.len() as u64 - 600) as usize;
            let span = 32 + random.below(500) as usize;
            bytes.extend_from_within(from..from + span);
            continue;
        }
        // The smallest of three: few words are frequent, many are rare.
        let index = (0..3).map(|_| random.below(4096)).min().unwrap_or(0);
        bytes.extend_from_slice(&vocabulary[index as usize]);
        bytes.push(if random.below(10) == 0 { b'\n' } else { b' ' });
    }
    bytes.truncate(length);
    bytes
}

fn noise(random: &mut Random, length: usize) -> Vec<u8> {
    let words = (0..length.div_ceil(8)).flat_map(|_| random.next().to_le_bytes());
    let mut bytes: Vec<u8> = words.collect();
    bytes.truncate(length);
    bytes
}

/// Makes a sparse raw image: 40 % files that shrink, 30 % noise, 30 % holes, in stretches of 64 KiB to 4 MiB.
pub fn make(path: &Path, size: u64) -> Result<()> {
    let file = File::create_new(path)?;
    file.set_len(size)?;
    let mut random = Random(1);
    let kinds = [(Kind::Files, 0.4), (Kind::Noise, 0.3), (Kind::Zeros, 0.3)];
    let mut done = [0u64; 3];
    let mut at = 0;
    while at < size {
        let length = ((16 + random.below(1009)) * PAGE).min(size - at);
        // Whatever is furthest behind its share.
        let behind = |n: &usize| kinds[*n].1 * at as f64 - done[*n] as f64;
        let chosen = (0..3).max_by(|a, b| behind(a).total_cmp(&behind(b))).unwrap_or(0);
        match kinds[chosen].0 {
            Kind::Files => file.write_all_at(&files(&mut random, length as usize), at)?,
            Kind::Noise => file.write_all_at(&noise(&mut random, length as usize), at)?,
            Kind::Zeros => {}
        }
        done[chosen] += length;
        at += length;
    }
    Ok(file.sync_all()?)
}

/// What changes in one round: a place and its new bytes.
pub struct Change {
    pub at: u64,
    pub bytes: Vec<u8>,
}

impl Change {
    pub fn range(&self) -> Range<u64> {
        self.at..self.at + self.bytes.len() as u64
    }
}

/// 1 % of the first `span` bytes, in 200 extents spread over them at random pages: 4 of 7 shrink, 3 are noise.
pub fn changes(span: u64, round: u64) -> Vec<Change> {
    let mut random = Random(1000 + round);
    let (slot, length) = (span / EXTENTS / PAGE * PAGE, span / 100 / EXTENTS / PAGE * PAGE);
    let change = |number| {
        let at = number * slot + random.below((slot - length) / PAGE) * PAGE;
        let make = if number % 7 < 4 { files } else { noise };
        Change { at, bytes: make(&mut random, length as usize) }
    };
    (0..EXTENTS).map(change).collect()
}

/// Writes the changes into a raw image.
pub fn apply(path: &Path, changes: &[Change]) -> Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    for change in changes {
        file.write_all_at(&change.bytes, change.at)?;
    }
    Ok(file.sync_all()?)
}

/// Whether two files have the same bytes.
pub fn same(one: &Path, other: &Path) -> Result<bool> {
    let (one, other) = (File::open(one)?, File::open(other)?);
    let size = one.metadata()?.len();
    if other.metadata()?.len() != size {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for at in (0..size).step_by(1 << 20) {
        let length = (size - at).min(1 << 20) as usize;
        one.read_exact_at(&mut left[..length], at)?;
        other.read_exact_at(&mut right[..length], at)?;
        if left[..length] != right[..length] {
            return Ok(false);
        }
    }
    Ok(true)
}
