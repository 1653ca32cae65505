//! What is on a share, for its operator: without a driver, and without changing anything.

use super::error::Error;
use super::id::{NodeId, VolumeId};
use super::layout::Layout;
use super::nodes::{self, NodeRecord};
use super::references::list_ids;
use super::view::Room;
use std::path::Path;

/// What is on a share.
#[derive(Debug)]
pub struct Survey {
    /// The space on it.
    pub room: Room,
    /// How many volumes, in whatever state.
    pub volumes: usize,
    /// Every node that has ever registered, with what is wrong where a registration cannot be read.
    pub nodes: Vec<(NodeId, Result<NodeRecord, Error>)>,
}

impl Survey {
    /// Of the share that is mounted there. Blocks.
    pub fn of(root: &Path) -> Result<Survey, Error> {
        let layout = Layout::new(root);
        let volumes = list_ids::<VolumeId>(&layout.volumes())?.len();
        let nodes = nodes::ids(&layout)?.into_iter().map(|node| {
            let record = nodes::get(&layout, &node);
            (node, record)
        });
        Ok(Survey { room: room(root)?, volumes, nodes: nodes.collect() })
    }
}

/// The space of the filesystem there.
pub(super) fn room(root: &Path) -> Result<Room, Error> {
    let stat = rustix::fs::statvfs(root).map_err(|e| Error::io("stat the filesystem of", root)(e.into()))?;
    Ok(Room { total: stat.f_blocks * stat.f_frsize, free: stat.f_bavail * stat.f_frsize })
}
