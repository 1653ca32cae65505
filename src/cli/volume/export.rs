//! `strata volume export`: a volume or snapshot, flat, in one file or object (G13).

use super::ShareArgs;
use crate::backup::store::{ObjectBacked, RepositoryUrl};
use crate::backup::{Cancel, Export, Exported, Progress};
use crate::cli::backup::{OpenShare, PinnedSource, S3Args, cancel_on_signals, parse_format, show};
use crate::cli::exit::Failure;
use crate::cli::output::{lines, with_bar};
use crate::cli::size::human;
use crate::gluster::Source;
use crate::image::Format;
use crate::volume::{SnapshotHandle, VolumeHandle};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

/// Arguments of `export`.
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// A volume's or a snapshot's handle. A volume that is written to is frozen for a moment, and what it holds then
    /// is exported.
    #[arg(value_name = "HANDLE", value_parser = Which::from_str)]
    what: Which,
    #[command(flatten)]
    share: ShareArgs,
    /// A file, file:///FILE, or s3://BUCKET/KEY with credentials from the AWS_* variables.
    #[arg(long, value_name = "FILE|URL", value_parser = Target::from_str)]
    to: Target,
    /// The format to write: raw or qcow2.
    #[arg(long, value_parser = parse_format, default_value = "raw")]
    format: Format,
    /// Compress the clusters of a qcow2 image.
    #[arg(long)]
    compress: bool,
    /// Replace the file or object of that name.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    s3: S3Args,
}

/// What is exported.
#[derive(Clone, Debug)]
enum Which {
    Volume(VolumeHandle),
    Snapshot(SnapshotHandle),
}

impl FromStr for Which {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let snapshot = text.parse().map(Which::Snapshot);
        snapshot.or_else(|_| text.parse().map(Which::Volume)).map_err(|_| {
            "write a volume's handle (<share-key>/<volume-id>) or a snapshot's \
             (<share-key>/<volume-id>/<snapshot-id>)"
                .to_owned()
        })
    }
}

/// Where it goes.
#[derive(Clone, Debug)]
enum Target {
    File(PathBuf),
    Object { bucket: String, key: String },
}

impl FromStr for Target {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if !text.starts_with("s3://") && !text.starts_with("file:") {
            return Ok(Target::File(PathBuf::from(text)));
        }
        match text.parse::<RepositoryUrl>() {
            Ok(RepositoryUrl::S3 { prefix, .. }) if prefix.is_empty() => {
                Err("an object has a key: write s3://BUCKET/KEY".to_owned())
            }
            Ok(RepositoryUrl::S3 { bucket, prefix }) => Ok(Target::Object { bucket, key: prefix }),
            Ok(RepositoryUrl::Local(path)) => Ok(Target::File(path)),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl ExportArgs {
    pub fn run(&self) -> ExitCode {
        show(self.share.output, self.export(), text)
    }

    async fn export(&self) -> Result<Exported, Failure> {
        if self.compress && self.format == Format::Raw {
            return Err(Failure::usage("--compress needs --format qcow2: raw bytes are not compressed"));
        }
        let cancel = cancel_on_signals()?;
        let (what, share) = (self.what.clone(), self.share.share.clone());
        let pinned = tokio::task::spawn_blocking(move || pin(&what, &share));
        let source = Arc::new(pinned.await.map_err(Failure::failed)??);
        let done = self.copy(&source, &cancel).await;
        // Unpinning and unmounting block, and are over before the command ends.
        tokio::task::spawn_blocking(move || drop(source)).await.map_err(Failure::failed)?;
        done
    }

    async fn copy(&self, source: &Arc<PinnedSource>, cancel: &Cancel) -> Result<Exported, Failure> {
        let export = Export {
            source: Arc::clone(source) as _,
            chain: source.chain().to_vec(),
            qemu_img: source.qemu_img(),
            format: self.format,
            compress: self.compress,
            force: self.force,
        };
        let progress = Progress::default();
        let exported = match &self.to {
            Target::File(path) => with_bar(&progress, export.to_file(path, &progress, cancel)).await,
            Target::Object { bucket, key } => {
                let store = ObjectBacked::s3(bucket, "", &self.s3.options()).map_err(Failure::failed)?;
                with_bar(&progress, export.to_object(&store, key, &progress, cancel)).await
            }
        };
        Ok(exported?)
    }
}

fn pin(what: &Which, share: &Source) -> Result<PinnedSource, Failure> {
    let opened = OpenShare::open(share)?;
    match what {
        Which::Volume(handle) => opened.expect(handle, &handle.share)?,
        Which::Snapshot(handle) => opened.expect(handle, &handle.share)?,
    }
    PinnedSource::pin(opened, "strata volume export", |volumes, owner| match what {
        Which::Volume(handle) => volumes.pin_volume(handle.volume, owner),
        Which::Snapshot(handle) => volumes.pin_snapshot(handle.volume, handle.snapshot, owner),
    })
}

fn text(exported: &Exported) -> String {
    lines(&[
        ("to", exported.to.clone()),
        ("format", exported.format.to_string()),
        ("volume", human(exported.size)),
        ("bytes", exported.bytes.to_string()),
        ("takes", exported.allocated.map(human).unwrap_or_default()),
        ("sha256", exported.sha256.clone()),
        ("time", format!("{:.1} s", exported.milliseconds as f64 / 1000.0)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_told_apart() {
        assert!(matches!("disk.raw".parse(), Ok(Target::File(path)) if path.to_str() == Some("disk.raw")));
        assert!(matches!("file:///a/b".parse(), Ok(Target::File(path)) if path.to_str() == Some("/a/b")));
        let object = "s3://bucket/a/b.qcow2".parse();
        assert!(
            matches!(object, Ok(Target::Object { bucket, key }) if bucket == "bucket" && key == "a/b.qcow2")
        );
        for bad in ["s3://bucket", "s3://bucket/", "s3:///key", "s3://bucket/../x", "file://x"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
