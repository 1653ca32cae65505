//! A volume as a sparse file, and what happens to it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use tempfile::NamedTempFile;

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// A raw image that ends with this value.
pub struct Volume(NamedTempFile);

/// Nothing that compresses, the same for the same seed.
pub fn random(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    words.flat_map(u64::to_le_bytes).take(length).collect()
}

/// What compresses well.
pub fn text(seed: u64, length: usize) -> Vec<u8> {
    let line = format!("line {seed} of a text that says the same again and again\n");
    line.bytes().cycle().take(length).collect()
}

impl Volume {
    pub fn new(size: u64) -> Volume {
        let file = NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        Volume(file)
    }

    /// No byte of it is zero: what is not written shows.
    pub fn full_of_something(size: u64) -> Volume {
        let volume = Volume::new(0);
        volume.fill(size);
        volume
    }

    pub fn fill(&self, size: u64) {
        self.write(0, &vec![0xee; size as usize]);
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    pub fn write(&self, offset: u64, data: &[u8]) {
        self.0.as_file().write_all_at(data, offset).unwrap();
    }

    pub fn zero(&self, offset: u64, length: u64) {
        self.write(offset, &vec![0; length as usize]);
    }

    pub fn grow(&mut self, size: u64) {
        self.0.as_file().set_len(size).unwrap();
    }

    /// Byte for byte, without holding both in memory.
    pub fn same_as(&self, other: &Path) -> bool {
        let (mut one, mut two) = (File::open(self.path()).unwrap(), File::open(other).unwrap());
        let (mut left, mut right) = (vec![0; MIB as usize], vec![0; MIB as usize]);
        if one.metadata().unwrap().len() != two.metadata().unwrap().len() {
            return false;
        }
        loop {
            let read = one.read(&mut left).unwrap();
            two.read_exact(&mut right[..read]).unwrap();
            if read == 0 || left[..read] != right[..read] {
                return read == 0;
            }
        }
    }
}

/// A full backup's data, and two changes. Chunks of 4 MiB: whole windows that do not compress, extents that
/// cross a window's end, data that becomes zeros, the short last block, a block that changes again.
pub const HISTORY: [fn(&mut Volume); 3] = [
    |volume| {
        volume.write(0, &text(1, 3 << 20));
        volume.write(4 * MIB, &random(2, 4 << 20));
        volume.write(9 * MIB, &random(3, 200_000));
        volume.write(24 * MIB + 4000, &text(4, 96));
    },
    |volume| {
        volume.write(4 * MIB - 40_000, &random(5, 80_000));
        volume.zero(6 * MIB, 4 * MIB);
        volume.write(20 * MIB, &text(6, 1));
        volume.write(24 * MIB + 4095, b"!");
    },
    |volume| {
        volume.write(20 * MIB, &text(7, 40_000));
        volume.write(7 * MIB, &random(8, 100_000));
        volume.zero(0, 2 * MIB);
    },
];
