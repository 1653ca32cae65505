//! A directory share with one volume of it, not attached to any node.

use crate::image::Change;
use crate::measure;
use crate::world::World;
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use strata::agent::{AgentClient, CUT_LIMIT};
use strata::gluster::{self, Source};
use strata::qsd::LocalDaemons;
use strata::volume::{CreateVolume, Policy, Tools, VolumeHandle, VolumeId, VolumeKind, Volumes};
use tokio::runtime::{Builder, Runtime};

pub struct Share {
    /// As arguments name it.
    pub source: String,
    root: PathBuf,
    volumes: Volumes,
    share: gluster::Share,
    // Drives the connections to nodes, of which there are none.
    _runtime: Runtime,
}

impl Share {
    pub fn new(world: &World, name: &str) -> Result<Share> {
        let root = world.dir().join(name);
        std::fs::create_dir(&root)?;
        let source = format!("dir:{}", root.display());
        let parsed: Source = source.parse().map_err(|e| anyhow::anyhow!("{source}: {e}"))?;
        let (share, _) = gluster::open(&parsed, &[], &world.dir().join(format!("{name}-mounts")))?;
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let tools = Tools {
            qemu_img: world.qemu_img.clone(),
            daemons: Arc::new(LocalDaemons::new(
                world.qemu_storage_daemon.clone(),
                world.dir().join("daemons"),
            )),
            agents: Arc::new(AgentClient::new(runtime.handle().clone(), CUT_LIMIT)),
            // The disk below may be nearly full with what is not the share's.
            policy: Policy { reserve_percent: 0, ..Policy::default() },
        };
        let volumes = Volumes::new(share.clone(), tools);
        Ok(Share { source, root, volumes, share, _runtime: runtime })
    }

    /// A volume with the data of a raw image.
    pub fn import(&self, world: &World, image: &Path) -> Result<VolumeId> {
        let mut command = Command::new(&world.program);
        command.args(["volume", "import", "--format", "raw", "--name", "bench", "-o", "json", "--share"]);
        command.args([&self.source]).arg(image);
        command.env("STRATA_RESERVE", "0");
        let (_, said) = measure::run(&mut command, &world.log())?;
        let answer: Value = serde_json::from_str(&said)?;
        let handle = answer["handle"].as_str().context("import answers with a handle")?;
        let handle: VolumeHandle = handle.parse().map_err(|e| anyhow::anyhow!("{handle}: {e}"))?;
        Ok(handle.volume)
    }

    /// An empty volume.
    pub fn create(&self, name: &str, size: u64) -> Result<VolumeId> {
        let request = CreateVolume {
            name: name.to_owned(),
            required: Some(size),
            limit: None,
            kind: VolumeKind::Qcow2,
            source: None,
            parameters: [].into(),
        };
        Ok(self.volumes.create(&request)?.handle.volume)
    }

    /// Answers the snapshot's handle.
    pub fn snapshot(&self, volume: VolumeId, name: &str) -> Result<String> {
        Ok(self.volumes.snapshot(volume, name)?.handle.to_string())
    }

    /// As a pod's writes arrive: in the active image, through nothing that tells Strata of it.
    pub fn write(&self, world: &World, volume: VolumeId, changes: &[Change]) -> Result<()> {
        let data = world.dir().join("data");
        std::fs::create_dir(&data)?;
        let mut command = Command::new(world.qemu_img.with_file_name("qemu-io"));
        command.args(["-f", "qcow2"]);
        for (number, change) in changes.iter().enumerate() {
            let file = data.join(number.to_string());
            std::fs::write(&file, &change.bytes)?;
            let write = format!("write -q -s {} {} {}", file.display(), change.at, change.bytes.len());
            command.args(["-c", &write]);
        }
        command.arg(self.active(volume)?);
        measure::run(&mut command, &world.log())?;
        Ok(std::fs::remove_dir_all(&data)?)
    }

    fn active(&self, volume: VolumeId) -> Result<PathBuf> {
        let home = self.root.join("volumes").join(volume.uuid().to_string());
        let base = home.join(format!("volume-{volume}"));
        let Ok(table) = std::fs::read(home.join("volume.info")) else { return Ok(base) };
        let table: Value = serde_json::from_slice(&table)?;
        Ok(table["active"].as_str().map_or(base, |name| home.join(name)))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Err(error) = gluster::close(&self.share) {
            eprintln!("the share {} stays open: {error}", self.source);
        }
        let _ = std::fs::remove_dir_all(&self.root);
    }
}
