//! From layers to files: the chain under a layer, across volumes, each header held to the records.

use super::error::{Error, ImageHeaderSnafu, PendingSnafu, TooDeepSnafu};
use super::id::{LayerId, VolumeId};
use super::lock::Mode;
use super::record::{Layer, ParentLayer, Record};
use super::store::{GraphLock, Locked};
use super::volumes::Volumes;
use crate::image::{Format, ImageRef, header};
use snafu::{ResultExt, ensure};
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// More layers than any limit allows: past this the records form a cycle.
const MAX_CHAIN: usize = 1024;
/// The background waits for some seconds before it begins a merge anew.
const REST_TRIES: usize = 5;

/// A layer and where it is.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) volume: VolumeId,
    pub(super) layer: Layer,
    pub(super) path: PathBuf,
}

impl Link {
    /// The layer's file with its format, for QEMU.
    pub(super) fn image(&self) -> ImageRef {
        ImageRef { path: self.path.clone(), format: self.layer.format }
    }
}

impl Volumes {
    /// The layers from `top` down to the bottom, top first.
    pub(super) fn chain(&self, record: &Record, top: LayerId) -> Result<Vec<Link>, Error> {
        self.chain_from(record, ParentLayer { volume: record.id, layer: top })
    }

    /// How many layers are read for a layer of this volume, or of one that it stands on.
    pub(super) fn depth(&self, record: &Record, top: ParentLayer) -> Result<usize, Error> {
        Ok(self.chain_from(record, top)?.len())
    }

    fn chain_from(&self, record: &Record, top: ParentLayer) -> Result<Vec<Link>, Error> {
        let mut others: HashMap<VolumeId, Record> = HashMap::new();
        let mut links = Vec::new();
        let mut next = Some(top);
        while let Some(at) = next {
            let broken = |reason: String| Error::DamagedRecord { volume: record.id, reason };
            if links.len() == MAX_CHAIN {
                return Err(broken(format!("its chain has more than {MAX_CHAIN} layers")));
            }
            let holder = if at.volume == record.id {
                record
            } else {
                match others.entry(at.volume) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(unknown) => {
                        let other = self.read(at.volume)?;
                        let gone = || broken(no_record(at.volume));
                        unknown.insert(other.ok_or_else(gone)?)
                    }
                }
            };
            let layer = holder.layer(at.layer).ok_or_else(|| {
                broken(format!(
                    "layer {} of volume {}, which it stands on, is not there",
                    at.layer, at.volume
                ))
            })?;
            next = layer.parent;
            let path = self.layout.image(at.volume, &layer.file);
            links.push(Link { volume: at.volume, layer: layer.clone(), path });
        }
        Ok(links)
    }

    /// Keeps the layers of other volumes that a volume stands on where they are, until the answer is dropped: no merge
    /// begins, and those that run are stopped. None if it stands on its own layers alone.
    pub(super) fn hold_sources(&self, id: VolumeId) -> Result<Option<GraphLock>, Error> {
        let Some(record) = self.read(id)? else { return Ok(None) };
        let Some(active) = record.active else { return Ok(None) };
        if record.layers.iter().all(|layer| layer.parent.is_none_or(|parent| parent.volume == id)) {
            return Ok(None);
        }
        let sources = || {
            let chain = self.chain(&record, active)?;
            Ok(chain.into_iter().map(|link| link.volume).filter(|volume| *volume != id).collect())
        };
        self.graph_at_rest(id, sources).map(Some)
    }

    /// The graph lock, shared, while no layers of these volumes are being merged; as long as it is held no merge begins.
    /// To stop one a node may have to be asked. That is done without the lock, so that a node which does not answer keeps no
    /// other volume waiting.
    pub(super) fn graph_at_rest(
        &self,
        id: VolumeId,
        sources: impl Fn() -> Result<BTreeSet<VolumeId>, Error>,
    ) -> Result<GraphLock, Error> {
        for _ in 0..REST_TRIES {
            let graph = self.graph(Mode::Shared, id)?;
            let mut merging = None;
            for source in sources()? {
                if self.read(source)?.is_some_and(|record| record.merge.is_some()) {
                    merging = Some(source);
                }
            }
            let Some(source) = merging else { return Ok(graph) };
            drop(graph);
            match self.lock(source) {
                // Who looks for it finds that out.
                Err(Error::VolumeNotFound { .. }) => {}
                locked => locked?.stop_merge()?,
            }
        }
        let doing = "layers that it stands on are merged again and again".to_owned();
        PendingSnafu { volume: id, doing }.fail()
    }

    /// Holds every header of a chain to the records. A layer with a backing file of its own choosing, or with its
    /// data elsewhere, is refused before anything opens it.
    pub(super) fn verify(&self, chain: &[Link]) -> Result<(), Error> {
        for (index, link) in chain.iter().enumerate() {
            if link.layer.format == Format::Raw {
                // A raw image has no header; whatever a guest wrote at its start is its data.
                std::fs::metadata(&link.path).map_err(Error::io("find", &link.path))?;
                continue;
            }
            let below = chain.get(index + 1);
            let name = below.map(|below| relative(&link.path, &below.path));
            let backing = name.as_deref().zip(below.map(|below| below.layer.format));
            header::verify(&link.path, backing).context(ImageHeaderSnafu)?;
        }
        Ok(())
    }
}

impl Locked<'_> {
    /// Whether one more layer may stand on this one: each costs memory in every process that opens the chain, and
    /// time in every read that goes down to it.
    pub(super) fn room_for_another_layer(&self, on: ParentLayer) -> Result<(), Error> {
        let depth = self.volumes.depth(&self.record, on)? + 1;
        let limit = self.volumes.tools.policy.hard_depth;
        ensure!(depth <= limit, TooDeepSnafu { volume: self.id(), depth, limit });
        Ok(())
    }
}

/// Of a volume that another one stands on.
fn no_record(source: VolumeId) -> String {
    format!("volume {source}, which it stands on, has no record; it is that one which has to be repaired")
}

/// How an overlay names the file under it. Both are below one share's root, so there always is such a name.
pub(super) fn relative(overlay: &Path, backing: &Path) -> String {
    header::relative_name(overlay, backing).expect("both paths are below the share's root and valid UTF-8")
}

/// What QEMU is to open, top first.
pub(super) fn images(chain: &[Link]) -> Vec<ImageRef> {
    chain.iter().map(Link::image).collect()
}
