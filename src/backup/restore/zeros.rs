//! Zeros in a target: found in what is to be written, and made where something else may be.

use crate::backup::window::is_zero;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// What a target took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// Bytes written.
    pub data: u64,
    /// Bytes of an existing target made zeros without being written.
    pub zeros: u64,
}

/// Cuts data into runs that are all zeros, and runs that are not, in steps of `grain` bytes of the volume.
pub(super) fn runs(data: &[u8], offset: u64, grain: u64) -> Vec<(Range<usize>, bool)> {
    let mut runs: Vec<(Range<usize>, bool)> = Vec::new();
    let mut at = 0;
    while at < data.len() {
        let next = (offset + at as u64) / grain * grain + grain - offset;
        let end = data.len().min(next as usize);
        let zeros = is_zero(&data[at..end]);
        match runs.last_mut().filter(|(_, kind)| *kind == zeros) {
            Some((run, _)) => run.end = end,
            None => runs.push((at..end, zeros)),
        }
        at = end;
    }
    runs
}

/// Makes a range of an existing file or block device zeros: a hole if it can have one.
pub(super) fn make_zero(file: &File, range: Range<u64>) -> io::Result<()> {
    let length = range.end - range.start;
    if length == 0 {
        return Ok(());
    }
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let zeros = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
    for flags in [hole, zeros] {
        match fallocate(file, flags, range.start, length) {
            Ok(()) => return Ok(()),
            // A filesystem or device without that, or a range that does not fit its sectors.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => {}
            Err(error) => return Err(error.into()),
        }
    }
    write_zeros(file, range)
}

fn write_zeros(file: &File, range: Range<u64>) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut at = range.start;
    while at < range.end {
        let step = (range.end - at).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..step as usize], at)?;
        at += step;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_follow_the_grain_of_the_volume() {
        let mut data = vec![0; 100];
        data[25] = 1;
        assert_eq!(runs(&data, 0, 10), vec![(0..20, true), (20..30, false), (30..100, true)]);
        // The first step ends at the next multiple.
        assert_eq!(runs(&data, 7, 10), vec![(0..23, true), (23..33, false), (33..100, true)]);
        assert_eq!(runs(&[], 7, 10), vec![]);
    }

    #[test]
    fn each_way_makes_zeros_and_no_more() {
        type Way = fn(&File, Range<u64>) -> io::Result<()>;
        for make in [make_zero as Way, write_zeros] {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&[7; 300_000], 0).unwrap();
            make(&file, 1000..200_001).unwrap();
            make(&file, 5..5).unwrap();
            let mut found = vec![0; 300_000];
            file.read_exact_at(&mut found, 0).unwrap();
            assert!(found[1000..200_001].iter().all(|b| *b == 0));
            assert!(found[..1000].iter().chain(&found[200_001..]).all(|b| *b == 7));
            assert_eq!(file.metadata().unwrap().len(), 300_000);
        }
    }
}
