//! Whether a filesystem is made: only where nobody's data can be. docs/decisions/0015-mkfs.md tells why so.

use super::chain::Link;
use super::error::*;
use super::id::VolumeId;
use super::record::Record;
use super::stage::Staging;
use super::steps::{Step, reached};
use crate::host::mkfs::Content;
use crate::host::mount::FsType;
use crate::image::{Format, header};
use snafu::{ResultExt, ensure};
use std::path::Path;

/// What a record tells of what can be on its volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum History {
    /// It was made from nothing, and no node has ever opened it.
    Untouched,
    /// It is new, but a node has opened it, or that which it is a copy of: half a mkfs may be on it.
    Tried,
    /// Pods may have written to it.
    Used,
}

impl History {
    /// Of a volume that is about to be opened.
    pub(super) fn of(record: &Record) -> History {
        match record.new {
            false => History::Used,
            true if record.epoch == 0 && record.source.is_none() => History::Untouched,
            true => History::Tried,
        }
    }

    /// Whether a first mount is still to come.
    pub(super) fn is_new(self) -> bool {
        self != History::Used
    }
}

impl Staging {
    /// Before a node opens what nobody has opened yet: whatever is on it is somebody's. To be asked before the opening is
    /// noted, for from then on it could be half a mkfs.
    pub(super) fn nobody_wrote_past_us(&self, volume: VolumeId, chain: &[Link]) -> Result<(), Error> {
        let mut blank = true;
        for Link { layer, path, .. } in chain {
            blank &= match layer.format {
                Format::Qcow2 => header::has_no_data(path).context(ImageHeaderSnafu)?,
                Format::Raw => self.parts.formatter.probe(path)? == Content::Blank,
            };
        }
        let reason = "it is new and no node has ever opened it, yet there is something on it, so it is not formatted: a disk \
                      image becomes a volume by `strata volume import`";
        ensure!(blank, PreconditionSnafu { volume, reason });
        Ok(())
    }

    /// Makes a filesystem on a volume that is new and blank, and anew over what an earlier try can have left. Of all else
    /// it must be the filesystem that is asked for.
    pub(super) fn format(
        &self,
        volume: VolumeId,
        device: &Path,
        fs: FsType,
        history: History,
    ) -> Result<(), Error> {
        let make = |force| {
            self.parts.formatter.make(device, fs, &[], force)?;
            reached(Step::StageFormatted);
            Ok(())
        };
        let reason = match (history, self.parts.formatter.probe(device)?) {
            (History::Untouched | History::Tried, Content::Blank) => return make(false),
            (History::Tried, _) => return make(true),
            (History::Untouched, content) => format!("it is new, but its device is not blank: {content:?}"),
            (History::Used, Content::Filesystem(found)) if found == fs.name() => return Ok(()),
            (History::Used, Content::Filesystem(found)) => {
                format!("it holds the filesystem {found}, and {fs} was asked for")
            }
            (History::Used, Content::Blank) => {
                "it was in use before but holds no filesystem; it was not formatted (was \
                                                it used as a raw block device?)"
                    .to_owned()
            }
            (History::Used, content) => {
                format!("what it holds is not clear, so it was not touched: {content:?}")
            }
        };
        PreconditionSnafu { volume, reason }.fail()
    }
}
