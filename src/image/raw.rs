//! Growing raw images, whose size is that of their file.

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use std::fs::File;
use std::io;
use std::path::Path;

/// One call is one request to the share's servers, which have a time limit for it, and which on a failure keep what
/// they have got of it.
const PIECE: u64 = 1 << 30;
/// What stays free. GlusterFS needs room to note that it is about to free something: on bricks that are full to the last
/// block the giving back fails, too (measured, ext4 bricks).
const MARGIN: u64 = 256 << 20;

/// Allocates what lies between the end of the file and `size`, leaving the end where it is: whoever looks at the file,
/// also after a crash, sees it as before. After an error a part of it is taken; see [`give_back`].
pub fn reserve(path: &Path, size: u64) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    let end = file.metadata()?.len();
    let mut from = end;
    while from < size {
        let length = (size - from).min(PIECE);
        allocate(&file, from, length)?;
        from += length;
    }
    Ok(())
}

/// Allocates every block up to `size` that is not, data and the end of the file staying as they are.
pub fn fill(path: &Path, size: u64) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    let mut from = 0;
    while from < size {
        let length = (size - from).min(PIECE);
        allocate(&file, from, length)?;
        from += length;
    }
    Ok(())
}

fn allocate(file: &File, from: u64, length: u64) -> io::Result<()> {
    let room = fstatvfs(file)?;
    if room.f_bavail.saturating_mul(room.f_frsize) < length + MARGIN {
        return Err(io::ErrorKind::StorageFull.into());
    }
    Ok(fallocate(file, FallocateFlags::KEEP_SIZE, from, length)?)
}

/// Frees what was allocated past the end of the file. Nobody else may have it open: who grew it in between would find it
/// cut off again.
pub fn give_back(path: &Path) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    // Cutting a file off where it ends frees what it has there.
    file.set_len(file.metadata()?.len())?;
    file.sync_all()
}

/// Moves the end of the file out. What lies there reads as zeros.
pub fn extend(path: &Path, size: u64) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    if file.metadata()?.len() < size {
        file.set_len(size)?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const MIB: u64 = 1 << 20;

    fn size_and_allocation(path: &Path) -> (u64, u64) {
        let meta = std::fs::metadata(path).unwrap();
        (meta.len(), meta.blocks() * 512)
    }

    #[test]
    fn a_reservation_is_not_seen_can_be_used_and_can_be_given_back() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, vec![7; MIB as usize]).unwrap();
        reserve(&path, 4 * MIB).unwrap();
        let (size, allocated) = size_and_allocation(&path);
        assert!(size == MIB && allocated >= 4 * MIB, "{size} {allocated}");
        give_back(&path).unwrap();
        let (size, allocated) = size_and_allocation(&path);
        assert!(size == MIB && allocated < 2 * MIB, "{size} {allocated}");
        reserve(&path, 4 * MIB).unwrap();
        extend(&path, 4 * MIB).unwrap();
        let (size, allocated) = size_and_allocation(&path);
        assert!(size == 4 * MIB && allocated >= 4 * MIB, "{size} {allocated}");
        let bytes = std::fs::read(&path).unwrap();
        assert!(
            bytes[..MIB as usize].iter().all(|b| *b == 7) && bytes[MIB as usize..].iter().all(|b| *b == 0)
        );
        // Nothing ever gets smaller.
        extend(&path, MIB).unwrap();
        assert_eq!(size_and_allocation(&path).0, 4 * MIB);
    }
}
