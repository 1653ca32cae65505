//! The run's GlusterFS volume, mounted for the tests of one program together: a mount with its self-test takes seconds.

use super::OpenShare;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use strata::gluster::Share;
use tempfile::TempDir;

/// As two nodes have it. Unmounted when no test has it any more.
pub struct Mounted {
    share: OpenShare,
    _dir: TempDir,
}

impl Mounted {
    pub fn share(&self) -> Share {
        self.share.0.clone()
    }
}

static NODES: [Mutex<Weak<Mounted>>; 2] = [const { Mutex::new(Weak::new()) }; 2];

/// The mount of the first node, or of the second.
pub fn mounted(node: usize) -> Arc<Mounted> {
    let mut known = NODES[node].lock().unwrap_or_else(PoisonError::into_inner);
    known.upgrade().unwrap_or_else(|| {
        let dir = super::scratch();
        let share = OpenShare::new(&super::gluster_share(), dir.path());
        let mounted = Arc::new(Mounted { share, _dir: dir });
        *known = Arc::downgrade(&mounted);
        mounted
    })
}
