//! What makes this process, and the daemons that inherit it, safe to write back through.

use rustix::io::Errno;

/// From linux/prctl.h; the libc crate does not have it.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Loop devices on a local daemon: under memory pressure the kernel writes dirty pages through the very
/// process that is waiting for memory. PR_SET_IO_FLUSHER lets it dip into the reserve (prctl(2)), and the
/// oom score keeps it from being the one that is killed. Children inherit both.
pub fn protect() {
    // SAFETY: PR_SET_IO_FLUSHER takes plain numbers and touches no memory of ours.
    let flusher = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    if flusher != 0 {
        let errno = std::io::Error::last_os_error();
        tracing::warn!(
            %errno,
            "not an I/O flusher: under memory pressure writes to volumes may stall (CAP_SYS_RESOURCE is missing)"
        );
    }
    let score = std::fs::write("/proc/self/oom_score_adj", "-999");
    match score {
        Ok(()) => {}
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::ACCESS | Errno::PERM)) => {
            tracing::warn!(
                "the oom score cannot be lowered: a machine out of memory may end volumes' daemons"
            );
        }
        Err(error) => tracing::warn!(%error, "the oom score was not lowered"),
    }
}
