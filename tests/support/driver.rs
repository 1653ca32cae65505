//! A whole driver in a folder, spoken to over its CSI socket as the sidecars would.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use strata::rpc::csi::controller_client::ControllerClient;
use strata::rpc::csi::node_client::NodeClient;
use strata::rpc::csi::volume_capability::access_mode::Mode;
use strata::rpc::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use strata::rpc::csi::*;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Longer than anything here takes, shorter than a hung run.
const LIMIT: Duration = Duration::from_secs(90);

/// How a volume is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Ext4,
    Xfs,
    Block,
}

/// `strata standalone` on a folder of its own. Torn down when dropped.
pub struct Driver {
    program: PathBuf,
    pub dir: PathBuf,
    shares: Vec<String>,
    pub node: String,
    environment: Vec<(String, String)>,
    child: Option<Child>,
    runtime: Runtime,
}

impl Driver {
    /// Starts a driver and waits until it serves.
    pub fn start(program: &Path, dir: &Path, shares: &[&str], node: &str) -> Driver {
        let mut driver = Driver::prepare(program, dir, shares, node);
        driver.launch();
        driver
    }

    /// One that is not launched yet, with a folder in `dir` as its share. For tests alone: examples are built without the
    /// program's path.
    #[cfg(test)]
    pub fn on_folder(dir: &Path, node: &str, variables: &[(&str, &str)]) -> Driver {
        let share = dir.join("share");
        std::fs::create_dir(&share).expect("a folder for the share");
        let program = Path::new(env!("CARGO_BIN_EXE_strata"));
        let source = format!("dir:{}", share.display());
        let mut driver = Driver::prepare(program, &dir.join("d"), &[&source], node);
        let (img, daemon) = (crate::support::qemu_img(), crate::support::qemu_storage_daemon());
        let qemu = [
            ("STRATA_QEMU_IMG", img.to_str().expect("a path in UTF-8")),
            ("STRATA_QEMU_STORAGE_DAEMON", daemon.to_str().expect("a path in UTF-8")),
        ];
        driver.set_environment(&[&qemu[..], variables].concat());
        driver
    }

    /// A driver that is not launched yet.
    pub fn prepare(program: &Path, dir: &Path, shares: &[&str], node: &str) -> Driver {
        Driver {
            program: program.to_owned(),
            dir: dir.to_owned(),
            shares: shares.iter().map(|share| (*share).to_owned()).collect(),
            node: node.to_owned(),
            environment: Vec::new(),
            child: None,
            runtime: Runtime::new().expect("a runtime"),
        }
    }

    /// The shares of the next launch.
    pub fn set_shares(&mut self, shares: &[&str]) {
        self.shares = shares.iter().map(|share| (*share).to_owned()).collect();
    }

    /// The environment of the next launch.
    pub fn set_environment(&mut self, variables: &[(&str, &str)]) {
        self.environment = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("standalone").arg("--dir").arg(&self.dir).args(["--node-id", &self.node]);
        for share in &self.shares {
            command.args(["--share", share]);
        }
        command.envs(self.environment.iter().map(|(k, v)| (k, v))).stdin(Stdio::null());
        command
    }

    /// Where its processes write what they have to say.
    pub fn log(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    fn log_file(&self) -> std::fs::File {
        std::fs::File::options().create(true).append(true).open(self.log()).expect("a log file")
    }

    /// Starts the driver again on the same folder.
    pub fn launch(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let ready = self.dir.with_extension("ready");
        let out = std::fs::File::create(&ready).expect("a file for its standard output");
        let child = self.command().stdout(out).stderr(self.log_file()).spawn().expect("strata starts");
        self.child = Some(child);
        let deadline = Instant::now() + LIMIT;
        while !std::fs::read_to_string(&ready).unwrap_or_default().contains("ready: ") {
            let ended = self.child.as_mut().expect("just started").try_wait().expect("a child of ours");
            if ended.is_some() || Instant::now() > deadline {
                self.fail(&format!("the driver did not come up ({ended:?})"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Panics with the end of the log.
    pub fn fail(&self, what: &str) -> ! {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        panic!("{what}; its log ends with:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
    }

    /// Whether it has ended by itself: it gives up when its roles die too often. Then as a supervisor would.
    pub fn launch_if_ended(&mut self) {
        let ended = self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|end| end.is_some()));
        if ended {
            self.child = None;
            self.launch();
        }
    }

    /// SIGTERM: controller and node end, staged volumes go on.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = rustix::process::Pid::from_child(&child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let deadline = Instant::now() + LIMIT;
        while child.try_wait().expect("a child of ours").is_none() {
            if Instant::now() > deadline {
                let _ = child.kill();
                self.fail("the driver did not end within its time");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Unstages and stops everything.
    pub fn teardown(&mut self) -> bool {
        self.stop();
        let ended = self.command().arg("--teardown").stdout(Stdio::null()).stderr(self.log_file()).status();
        ended.is_ok_and(|status| status.success())
    }

    /// The gRPC channel to its CSI socket.
    pub fn channel(&self) -> Channel {
        let socket = self.dir.join("csi.sock");
        let _runtime = self.runtime.enter();
        match strata::rpc::uds::channel(&socket) {
            Ok(channel) => channel,
            Err(error) => self.fail(&format!("no connection to {}: {error}", socket.display())),
        }
    }

    /// Makes a call as a sidecar would: what is being worked on, or was interrupted, is asked for again.
    pub fn call<T, F>(&self, what: &str, call: impl Fn(Channel) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.once(&call) {
                Err(status) if status.code() == Code::Aborted && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(status) => {
                    return Err(Status::new(status.code(), format!("{what}: {}", status.message())));
                }
                Ok(answer) => return Ok(answer),
            }
        }
    }

    /// Makes a call once.
    pub fn once<T, F>(&self, call: &impl Fn(Channel) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let channel = self.channel();
        let answer = self.runtime.block_on(async { tokio::time::timeout(LIMIT, call(channel)).await });
        answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("the test's own limit"))).map_or_else(
            // A connection that was taken by a process which then ended.
            |status| match status.code() == Code::Unknown && status.message() == "transport error" {
                true => Err(Status::unavailable(status.message())),
                false => Err(status),
            },
            |answer| Ok(answer.into_inner()),
        )
    }

    /// Makes a call that many times at once.
    pub fn many<T, F>(&self, times: usize, call: impl Fn(Channel) -> F) -> Vec<Result<T, Status>>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let channel = self.channel();
        let calls = (0..times).map(|_| call(channel.clone()));
        let answers = self.runtime.block_on(futures::future::join_all(calls));
        answers.into_iter().map(|answer| answer.map(|a| a.into_inner())).collect()
    }

    pub fn create(&self, request: CreateVolumeRequest) -> Result<Volume, Status> {
        let answer = self.call("CreateVolume", |channel| {
            let request = request.clone();
            async move { ControllerClient::new(channel).create_volume(request).await }
        })?;
        Ok(answer.volume.expect("a volume"))
    }

    pub fn delete(&self, volume_id: &str) -> Result<(), Status> {
        let request = DeleteVolumeRequest { volume_id: volume_id.to_owned(), ..Default::default() };
        self.call("DeleteVolume", |channel| {
            let request = request.clone();
            async move { ControllerClient::new(channel).delete_volume(request).await }
        })
        .map(drop)
    }

    pub fn publish(&self, volume_id: &str, usage: Use) -> Result<(), Status> {
        self.publish_as(volume_id, usage, false)
    }

    pub fn publish_to_read(&self, volume_id: &str, usage: Use) -> Result<(), Status> {
        self.publish_as(volume_id, usage, true)
    }

    fn publish_as(&self, volume_id: &str, usage: Use, readonly: bool) -> Result<(), Status> {
        let request = ControllerPublishVolumeRequest {
            volume_id: volume_id.to_owned(),
            node_id: self.node.clone(),
            volume_capability: Some(capability(usage)),
            readonly,
            ..Default::default()
        };
        self.call("ControllerPublishVolume", |channel| {
            let request = request.clone();
            async move { ControllerClient::new(channel).controller_publish_volume(request).await }
        })
        .map(drop)
    }

    pub fn unpublish(&self, volume_id: &str) -> Result<(), Status> {
        let request = ControllerUnpublishVolumeRequest {
            volume_id: volume_id.to_owned(),
            node_id: self.node.clone(),
            ..Default::default()
        };
        self.call("ControllerUnpublishVolume", |channel| {
            let request = request.clone();
            async move { ControllerClient::new(channel).controller_unpublish_volume(request).await }
        })
        .map(drop)
    }

    pub fn stage(&self, volume_id: &str, staging: &Path, usage: Use) -> Result<(), Status> {
        std::fs::create_dir_all(staging).expect("a staging folder");
        let request = NodeStageVolumeRequest {
            volume_id: volume_id.to_owned(),
            staging_target_path: text(staging),
            volume_capability: Some(capability(usage)),
            ..Default::default()
        };
        self.call("NodeStageVolume", |channel| {
            let request = request.clone();
            async move { NodeClient::new(channel).node_stage_volume(request).await }
        })
        .map(drop)
    }

    pub fn unstage(&self, volume_id: &str, staging: &Path) -> Result<(), Status> {
        let request =
            NodeUnstageVolumeRequest { volume_id: volume_id.to_owned(), staging_target_path: text(staging) };
        self.call("NodeUnstageVolume", |channel| {
            let request = request.clone();
            async move { NodeClient::new(channel).node_unstage_volume(request).await }
        })
        .map(drop)
    }

    pub fn node_publish(
        &self,
        volume_id: &str,
        staging: &Path,
        target: &Path,
        usage: Use,
    ) -> Result<(), Status> {
        let request = NodePublishVolumeRequest {
            volume_id: volume_id.to_owned(),
            staging_target_path: text(staging),
            target_path: text(target),
            volume_capability: Some(capability(usage)),
            ..Default::default()
        };
        self.call("NodePublishVolume", |channel| {
            let request = request.clone();
            async move { NodeClient::new(channel).node_publish_volume(request).await }
        })
        .map(drop)
    }

    pub fn node_unpublish(&self, volume_id: &str, target: &Path) -> Result<(), Status> {
        let request =
            NodeUnpublishVolumeRequest { volume_id: volume_id.to_owned(), target_path: text(target) };
        self.call("NodeUnpublishVolume", |channel| {
            let request = request.clone();
            async move { NodeClient::new(channel).node_unpublish_volume(request).await }
        })
        .map(drop)
    }

    /// Answers the capacity.
    pub fn expand(&self, volume_id: &str, bytes: u64) -> Result<u64, Status> {
        let request = ControllerExpandVolumeRequest {
            volume_id: volume_id.to_owned(),
            capacity_range: Some(CapacityRange { required_bytes: bytes as i64, limit_bytes: 0 }),
            ..Default::default()
        };
        let answer = self.call("ControllerExpandVolume", |channel| {
            let request = request.clone();
            async move { ControllerClient::new(channel).controller_expand_volume(request).await }
        })?;
        Ok(answer.capacity_bytes as u64)
    }

    /// Answers the size of the device.
    pub fn node_expand(&self, volume_id: &str, path: &Path, bytes: u64) -> Result<u64, Status> {
        let request = NodeExpandVolumeRequest {
            volume_id: volume_id.to_owned(),
            volume_path: text(path),
            capacity_range: Some(CapacityRange { required_bytes: bytes as i64, limit_bytes: 0 }),
            ..Default::default()
        };
        let answer = self.call("NodeExpandVolume", |channel| {
            let request = request.clone();
            async move { NodeClient::new(channel).node_expand_volume(request).await }
        })?;
        Ok(answer.capacity_bytes as u64)
    }

    pub fn snapshot(&self, volume_id: &str, name: &str) -> Result<Snapshot, Status> {
        let request = CreateSnapshotRequest {
            source_volume_id: volume_id.to_owned(),
            name: name.to_owned(),
            ..Default::default()
        };
        let answer = self.call("CreateSnapshot", |channel| {
            let request = request.clone();
            async move { ControllerClient::new(channel).create_snapshot(request).await }
        })?;
        Ok(answer.snapshot.expect("a snapshot"))
    }

    /// One try, whatever the answer.
    pub fn snapshot_once(&self, volume_id: &str, name: &str) -> Result<Snapshot, Status> {
        let request = CreateSnapshotRequest {
            source_volume_id: volume_id.to_owned(),
            name: name.to_owned(),
            ..Default::default()
        };
        let answer = self.once(&|channel| {
            let request = request.clone();
            async move { ControllerClient::new(channel).create_snapshot(request).await }
        })?;
        Ok(answer.snapshot.expect("a snapshot"))
    }

    pub fn delete_snapshot(&self, snapshot_id: &str) -> Result<(), Status> {
        let request = DeleteSnapshotRequest { snapshot_id: snapshot_id.to_owned(), ..Default::default() };
        self.call("DeleteSnapshot", |channel| {
            let request = request.clone();
            async move { ControllerClient::new(channel).delete_snapshot(request).await }
        })
        .map(drop)
    }

    pub fn list_snapshots(&self, request: ListSnapshotsRequest) -> Result<Vec<Snapshot>, Status> {
        let answer = self.call("ListSnapshots", |channel| {
            let request = request.clone();
            async move { ControllerClient::new(channel).list_snapshots(request).await }
        })?;
        Ok(answer.entries.into_iter().filter_map(|entry| entry.snapshot).collect())
    }

    /// Publishes to the node, stages, and mounts for a pod; answers the pod's path.
    pub fn attach(&self, volume_id: &str, place: &Path, usage: Use) -> Result<PathBuf, Status> {
        let (staging, target) = (place.join("staging"), place.join("target"));
        self.publish(volume_id, usage)?;
        self.stage(volume_id, &staging, usage)?;
        self.node_publish(volume_id, &staging, &target, usage)?;
        Ok(target)
    }

    /// Undoes [`Driver::attach`].
    pub fn detach(&self, volume_id: &str, place: &Path) -> Result<(), Status> {
        self.node_unpublish(volume_id, &place.join("target"))?;
        self.unstage(volume_id, &place.join("staging"))?;
        self.unpublish(volume_id)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let clean = self.teardown();
        if !clean && !std::thread::panicking() {
            self.fail("the driver could not be torn down");
        }
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path of ours").to_owned()
}

/// The capability that the kubelet would ask for.
pub fn capability(usage: Use) -> VolumeCapability {
    let access_type = match usage {
        Use::Block => AccessType::Block(BlockVolume {}),
        Use::Ext4 => AccessType::Mount(MountVolume { fs_type: "ext4".into(), ..Default::default() }),
        Use::Xfs => AccessType::Mount(MountVolume { fs_type: "xfs".into(), ..Default::default() }),
    };
    let mode = AccessMode { mode: Mode::SingleNodeWriter.into() };
    VolumeCapability { access_mode: Some(mode), access_type: Some(access_type) }
}

/// A request for a new volume.
pub fn new_volume(name: &str, bytes: u64, usage: Use, parameters: &[(&str, &str)]) -> CreateVolumeRequest {
    let parameters: HashMap<String, String> =
        parameters.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: Some(CapacityRange { required_bytes: bytes as i64, limit_bytes: 0 }),
        volume_capabilities: vec![capability(usage)],
        parameters,
        ..Default::default()
    }
}

/// A request for a volume made from a snapshot.
pub fn from_snapshot(name: &str, snapshot: &Snapshot, usage: Use) -> CreateVolumeRequest {
    use volume_content_source::{SnapshotSource, Type};
    let source = SnapshotSource { snapshot_id: snapshot.snapshot_id.clone() };
    CreateVolumeRequest {
        volume_content_source: Some(VolumeContentSource { r#type: Some(Type::Snapshot(source)) }),
        ..new_volume(name, snapshot.size_bytes as u64, usage, &[])
    }
}

/// A request for a copy of a volume of 1 GiB.
pub fn from_volume(name: &str, volume_id: &str, usage: Use) -> CreateVolumeRequest {
    use volume_content_source::{Type, VolumeSource};
    let source = VolumeSource { volume_id: volume_id.to_owned() };
    CreateVolumeRequest {
        volume_content_source: Some(VolumeContentSource { r#type: Some(Type::Volume(source)) }),
        ..new_volume(name, 1 << 30, usage, &[])
    }
}
