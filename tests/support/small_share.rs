//! A share that can be filled up.

use std::path::{Path, PathBuf};

/// A filesystem of its own at the share's folder. Unmounted at the end.
pub struct SmallShare(PathBuf);

impl SmallShare {
    pub fn mount(at: &Path, gib: u64) -> SmallShare {
        let disk = at.with_extension("disk");
        std::fs::File::create(&disk).unwrap().set_len(gib << 30).unwrap();
        super::run("mkfs.ext4", &["-q", "-F", disk.to_str().unwrap()]);
        super::run("mount", &["-o", "loop", disk.to_str().unwrap(), at.to_str().unwrap()]);
        SmallShare(at.to_owned())
    }

    /// Leaves that many bytes free.
    pub fn fill(root: &Path, left: u64) {
        let free = rustix::fs::statvfs(root).map(|found| found.f_bavail * found.f_frsize).unwrap();
        let filler = std::fs::File::create(root.join("filler")).unwrap();
        rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, free - left).unwrap();
    }

    /// Takes every byte there is, those that are root's included.
    pub fn fill_up(root: &Path) {
        let filler = std::fs::File::create(root.join("filler")).unwrap();
        let (mut at, mut step) = (0, 64 << 20);
        while step >= 1024 {
            match rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), at, step) {
                Ok(()) => at += step,
                Err(rustix::io::Errno::NOSPC) => step /= 2,
                Err(error) => panic!("{error}"),
            }
        }
        filler.sync_all().unwrap();
    }
}

impl Drop for SmallShare {
    /// A server that was told to end may have it for moments still.
    fn drop(&mut self) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let output = std::process::Command::new("umount").arg(&self.0).output().unwrap();
            if output.status.success() {
                return;
            }
            if std::time::Instant::now() > deadline {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                // A second panic while panicking would hide the first.
                assert!(std::thread::panicking(), "umount: {said}");
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}
