//! What images ask of a filesystem and of the kernel: direct I/O, and room for asynchronous requests.

use rustix::fs::{Mode, OFlags};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What direct I/O asks of addresses and sizes, on any device.
const ALIGN: usize = 4096;
/// What QEMU reserves for each of its event loops (its MAX_EVENTS).
const CONTEXT: u64 = 1024;

/// Writes a block past the kernel's cache over the beginning of a file and reads it back. Some filesystems open no
/// file in that way (EINVAL), and then no image.
pub fn probe(path: &Path) -> io::Result<()> {
    let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let mut memory = vec![0x5a; 2 * ALIGN];
    let start = memory.as_ptr().align_offset(ALIGN);
    let block = &mut memory[start..start + ALIGN];
    file.write_all_at(block, 0)?;
    file.sync_data()?;
    block.fill(0);
    file.read_exact_at(block, 0)?;
    match block.iter().all(|byte| *byte == 0x5a) {
        true => Ok(()),
        false => Err(io::Error::other("other bytes were read than written")),
    }
}

/// Why the kernel gives one more process no room for asynchronous I/O now, if so. QEMU then uses a pool of threads:
/// sound, but FUSE lets one of them at a time write into a file.
pub fn no_room() -> Option<String> {
    let number = |name: &str| -> Option<u64> {
        fs::read_to_string(Path::new("/proc/sys/fs").join(name)).ok()?.trim().parse().ok()
    };
    too_full(number("aio-nr")?, number("aio-max-nr")?)
}

fn too_full(used: u64, most: u64) -> Option<String> {
    (used + CONTEXT > most).then(|| {
        format!(
            "{used} of fs.aio-max-nr={most} requests are reserved, and {CONTEXT} more are needed: raise it"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_context_that_fits_is_no_reason() {
        assert_eq!(too_full(64512, 65536), None);
        let reason = too_full(64513, 65536).unwrap();
        assert!(reason.contains("64513") && reason.contains("fs.aio-max-nr=65536"), "{reason}");
    }
}
