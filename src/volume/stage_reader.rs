//! A volume on a node that only reads it.
//!
//! The chain is opened for reading. A filesystem whose journal has to be replayed does not mount from that: so a
//! throw-away overlay goes on top, in the node's own folder, which takes what the replay writes and goes when the
//! volume is unstaged. Nothing is ever written to the share, and no filesystem is made, grown or repaired.

use super::chain::{Link, images};
use super::error::*;
use super::first_use::History;
use super::id::VolumeId;
use super::local::Local;
use super::provision::QUICK;
use super::stage::{Access, Opened, PREFIX, StageVolume, Staging};
use super::steps::{Step, reached};
use super::store::remove_file;
use super::volumes::Volumes;
use crate::host::mount::FsType;
use crate::image::qemu_img::{Create, Preallocation};
use crate::image::{Format, QemuImg, header};
use crate::qsd::command::{self, Open};
use crate::qsd::qmp::Client;
use crate::qsd::reader;
use snafu::{ResultExt, ensure};

const OVERLAY: &str = "overlay";

impl Staging {
    /// Opens a chain in the volume's daemon, for reading; answers the node that pods are to see.
    pub(super) fn open_to_read(
        &self,
        volumes: &Volumes,
        client: &mut Client,
        local: &Local,
        chain: &[Link],
        access: &Access,
    ) -> Result<String, Error> {
        let images = images(chain);
        let top = command::add_chain(client, PREFIX, &images, Open::ReadOnly)?;
        let active = images.first().expect("a chain has at least one layer");
        reader::exclude_writers(client, PREFIX, active)?;
        if *access == Access::Block {
            return Ok(top);
        }
        let overlay = self.local.work_dir(&local.handle).join(OVERLAY);
        remove_file(&overlay)?;
        let size = header::virtual_size(&active.path, active.format).context(ImageHeaderSnafu)?;
        let create = Create { format: Format::Qcow2, size, preallocation: Preallocation::Off, backing: None };
        let img = QemuImg::new(volumes.tools.qemu_img.clone());
        img.create(&overlay, &create, QUICK).context(QemuImgSnafu)?;
        reached(Step::StageScratchMade);
        Ok(reader::add_scratch(client, PREFIX, &overlay, &top)?)
    }

    /// Mounts a filesystem that pods may read, or hands the device out, which refuses writes.
    pub(super) fn present_to_read(&self, request: &StageVolume, opened: Opened) -> Result<(), Error> {
        let Opened { mut local, device, history } = opened;
        if let Access::Mount { fs, flags } = &request.access {
            holds_filesystem(request.volume, *fs, history)?;
            self.format(request.volume, &device.path, *fs, history)?;
            let mut flags = flags.clone();
            flags.retain(|flag| flag != "rw");
            flags.push("ro".to_owned());
            self.parts.mounter.mount(&device.path, &request.staging_path, *fs, &flags)?;
            reached(Step::StageMounted);
            self.parts.backend.release_with_mount(&device)?;
            local.mounted_read_only = true;
            local.filesystem = Some(fs.name().to_owned());
        }
        local.staged = true;
        self.local.save(&local)
    }
}

/// A volume that nobody has ever written to has no filesystem, and a reader makes none.
fn holds_filesystem(volume: VolumeId, fs: FsType, history: History) -> Result<(), Error> {
    let reason = format!(
        "it is empty: nobody has written to it yet, and a node that only reads makes no {fs}; attach it for writing \
         first, or make it from a snapshot"
    );
    ensure!(!history.is_new(), PreconditionSnafu { volume, reason });
    Ok(())
}
