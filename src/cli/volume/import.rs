//! `strata volume import`: a file becomes a volume (K8), or what Cinder left does (G16).

use super::manifest::{ManifestArgs, yaml};
use super::{ShareArgs, failure};
use crate::backup::{Cancel, Progress, refuse_used_source};
use crate::cli::backup::{OpenShare, cancel_on_signals, parse_format, show};
use crate::cli::driver::RoomArgs;
use crate::cli::exit::Failure;
use crate::cli::output::{lines, with_bar};
use crate::cli::size::human;
use crate::image::Format;
use crate::volume::{
    Adopt, ImportFile, Policy, SnapshotView, VolumeHandle, VolumeId, VolumeKind, VolumeView, Volumes,
};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The bar counts thousandths: what is read and what is written differ.
const SCALE: f64 = 1000.0 * 1024.0;

/// Arguments of `import`.
#[derive(Clone, Debug, Args)]
pub(super) struct ImportArgs {
    /// The file, which is only read. A qcow2 image with a backing file, an external data file or encryption is refused.
    #[arg(value_name = "FILE", requires = "name", requires = "format", required_unless_present = "cinder")]
    file: Option<PathBuf>,
    #[command(flatten)]
    share: ShareArgs,
    /// The volume's name. One name is one volume: the same file again finds it, or goes on.
    #[arg(long)]
    name: Option<String>,
    /// The file's format, raw or qcow2; it is never guessed. With --cinder: that of the base, if nothing stands on it.
    #[arg(long, value_parser = parse_format)]
    format: Option<Format>,
    /// The layout of the volume's base.
    #[arg(long, value_enum, default_value_t, conflicts_with = "cinder")]
    kind: Kind,
    /// Adopt this volume, with its snapshots, from what Cinder's GlusterFS driver left on the share. Nothing is copied.
    #[arg(long, value_name = "VOLUME-ID", conflicts_with = "file")]
    cinder: Option<VolumeId>,
    /// The folder in which Cinder's files lie, from the share's root.
    #[arg(long, value_name = "FOLDER", requires = "cinder", default_value = ".")]
    from: PathBuf,
    #[command(flatten)]
    room: RoomArgs,
    #[command(flatten)]
    manifest: ManifestArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Grows as it is written to.
    #[default]
    Qcow2,
    /// A raw file with holes.
    Raw,
}

/// A volume that is there now.
#[derive(Debug, Serialize)]
pub(super) struct Imported {
    handle: VolumeHandle,
    name: String,
    capacity: u64,
    snapshots: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    manifest: Vec<Value>,
}

impl ImportArgs {
    pub fn run(&self) -> ExitCode {
        show(self.share.output, self.import(), text)
    }

    async fn import(&self) -> Result<Imported, Failure> {
        let cancel = cancel_on_signals()?;
        let progress = Progress::default();
        let (args, counted) = (self.clone(), progress.clone());
        let work = tokio::task::spawn_blocking(move || {
            let opened = {
                let policy = args.room.apply(Policy::default()).map_err(Failure::usage)?;
                OpenShare::open_under(&args.share.share, policy)?
            };
            match (&args.cinder, &args.file) {
                (Some(id), None) => args.adopt(&opened.volumes, *id),
                (None, Some(file)) => args.file(&opened.volumes, file, &counted, &cancel),
                _ => Err(Failure::usage("give a file, or --cinder")),
            }
        });
        with_bar(&progress, work).await.map_err(Failure::failed)?
    }

    fn adopt(&self, volumes: &Volumes, id: VolumeId) -> Result<Imported, Failure> {
        let (from, name) = (self.from.clone(), self.name.clone());
        let request = Adopt { id, from, format: self.format, name };
        let (volume, snapshots) = volumes.adopt(&request).map_err(failure)?;
        Ok(self.answer(&volume, &snapshots))
    }

    fn file(
        &self,
        volumes: &Volumes,
        file: &Path,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Imported, Failure> {
        let (Some(name), Some(format)) = (self.name.clone(), self.format) else {
            return Err(Failure::usage("a file needs --name and --format"));
        };
        refuse_used_source(file)?;
        let kind = match self.kind {
            Kind::Qcow2 => VolumeKind::Qcow2,
            Kind::Raw => VolumeKind::RawSparse,
        };
        let request = ImportFile { name, file: file.to_owned(), format, kind };
        progress.set_total(SCALE as u64);
        let mut done = 0;
        let imported = volumes.import(&request, &mut |part| {
            let now = (part * SCALE) as u64;
            progress.add_done(now.saturating_sub(done));
            done = done.max(now);
            !cancel.is_asked()
        });
        let stopped = || Failure::failed("cancelled; what was begun is removed");
        let volume = imported.map_err(failure)?.ok_or_else(stopped)?;
        Ok(self.answer(&volume, &[]))
    }

    fn answer(&self, volume: &VolumeView, snapshots: &[SnapshotView]) -> Imported {
        let objects = || self.manifest.objects(volume, snapshots);
        Imported {
            handle: volume.handle.clone(),
            name: volume.name.clone(),
            capacity: volume.capacity,
            snapshots: snapshots.iter().map(|snapshot| snapshot.handle.to_string()).collect(),
            manifest: if self.manifest.manifest { objects() } else { Vec::new() },
        }
    }
}

fn text(imported: &Imported) -> String {
    if !imported.manifest.is_empty() {
        return yaml(&imported.manifest);
    }
    lines(&[
        ("volume", imported.handle.to_string()),
        ("name", imported.name.clone()),
        ("capacity", human(imported.capacity)),
        ("snapshots", imported.snapshots.join(" ")),
    ])
}
