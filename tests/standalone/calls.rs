//! CSI calls as the sidecars and the kubelet make them.

use crate::driver::Driver;
use std::path::Path;
use strata::rpc::csi::volume_capability::access_mode::Mode;
use strata::rpc::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use strata::rpc::csi::volume_content_source::{SnapshotSource, Type as SourceType};
use strata::rpc::csi::*;
use tonic::Status;

pub const NODE: &str = "test-node";
pub const GIB: i64 = 1 << 30;

/// One writer, with a filesystem.
pub fn mount(fs: &str) -> VolumeCapability {
    let mount = MountVolume { fs_type: fs.to_owned(), ..Default::default() };
    writer(AccessType::Mount(mount))
}

/// One writer, raw.
pub fn block() -> VolumeCapability {
    writer(AccessType::Block(BlockVolume {}))
}

fn writer(access: AccessType) -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
        access_type: Some(access),
    }
}

/// A request for a small volume.
pub fn create_request(name: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: Some(CapacityRange { required_bytes: GIB, limit_bytes: 0 }),
        volume_capabilities: vec![mount("ext4")],
        ..Default::default()
    }
}

/// Repeats a call while it is answered with "ask again", as the sidecars do.
pub async fn patiently<T, F: Future<Output = Result<T, Status>>>(
    mut call: impl FnMut() -> F,
) -> Result<T, Status> {
    for _ in 0..100 {
        match call().await {
            Err(status) if matches!(status.code(), tonic::Code::Aborted | tonic::Code::Unavailable) => {
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
            answer => return answer,
        }
    }
    call().await
}

impl Driver {
    pub async fn create(&self, request: CreateVolumeRequest) -> Result<Volume, Status> {
        patiently(|| {
            let (mut client, request) = (self.controller(), request.clone());
            async move { Ok(client.create_volume(request).await?.into_inner().volume.unwrap()) }
        })
        .await
    }

    pub async fn create_from(&self, name: &str, snapshot: &str) -> Result<Volume, Status> {
        let source = SourceType::Snapshot(SnapshotSource { snapshot_id: snapshot.to_owned() });
        let source = Some(VolumeContentSource { r#type: Some(source) });
        self.create(CreateVolumeRequest { volume_content_source: source, ..create_request(name) }).await
    }

    pub async fn delete(&self, volume: &str) -> Result<(), Status> {
        patiently(|| {
            let request = DeleteVolumeRequest { volume_id: volume.to_owned(), ..Default::default() };
            let mut client = self.controller();
            async move { client.delete_volume(request).await.map(drop) }
        })
        .await
    }

    pub async fn publish_to(&self, volume: &str, node: &str) -> Result<(), Status> {
        patiently(|| {
            let request = ControllerPublishVolumeRequest {
                volume_id: volume.to_owned(),
                node_id: node.to_owned(),
                volume_capability: Some(mount("ext4")),
                ..Default::default()
            };
            let mut client = self.controller();
            async move { client.controller_publish_volume(request).await.map(drop) }
        })
        .await
    }

    pub async fn unpublish_from(&self, volume: &str, node: &str) -> Result<(), Status> {
        patiently(|| {
            let request = ControllerUnpublishVolumeRequest {
                volume_id: volume.to_owned(),
                node_id: node.to_owned(),
                ..Default::default()
            };
            let mut client = self.controller();
            async move { client.controller_unpublish_volume(request).await.map(drop) }
        })
        .await
    }

    pub async fn snapshot(&self, volume: &str, name: &str) -> Result<Snapshot, Status> {
        patiently(|| {
            let request = CreateSnapshotRequest {
                source_volume_id: volume.to_owned(),
                name: name.to_owned(),
                ..Default::default()
            };
            let mut client = self.controller();
            async move { Ok(client.create_snapshot(request).await?.into_inner().snapshot.unwrap()) }
        })
        .await
    }

    pub async fn delete_snapshot(&self, snapshot: &str) -> Result<(), Status> {
        patiently(|| {
            let request = DeleteSnapshotRequest { snapshot_id: snapshot.to_owned(), ..Default::default() };
            let mut client = self.controller();
            async move { client.delete_snapshot(request).await.map(drop) }
        })
        .await
    }

    pub async fn list_snapshots(
        &self,
        request: ListSnapshotsRequest,
    ) -> Result<ListSnapshotsResponse, Status> {
        Ok(self.controller().list_snapshots(request).await?.into_inner())
    }

    pub async fn stage(
        &self,
        volume: &str,
        staging: &Path,
        capability: VolumeCapability,
    ) -> Result<(), Status> {
        std::fs::create_dir_all(staging).unwrap();
        patiently(|| {
            let request = NodeStageVolumeRequest {
                volume_id: volume.to_owned(),
                staging_target_path: staging.display().to_string(),
                volume_capability: Some(capability.clone()),
                ..Default::default()
            };
            let mut client = self.node();
            async move { client.node_stage_volume(request).await.map(drop) }
        })
        .await
    }

    pub async fn unstage(&self, volume: &str, staging: &Path) -> Result<(), Status> {
        patiently(|| {
            let request = NodeUnstageVolumeRequest {
                volume_id: volume.to_owned(),
                staging_target_path: staging.display().to_string(),
            };
            let mut client = self.node();
            async move { client.node_unstage_volume(request).await.map(drop) }
        })
        .await
    }

    pub async fn publish(
        &self,
        volume: &str,
        staging: &Path,
        target: &Path,
        capability: VolumeCapability,
    ) -> Result<(), Status> {
        patiently(|| {
            let request = NodePublishVolumeRequest {
                volume_id: volume.to_owned(),
                staging_target_path: staging.display().to_string(),
                target_path: target.display().to_string(),
                volume_capability: Some(capability.clone()),
                ..Default::default()
            };
            let mut client = self.node();
            async move { client.node_publish_volume(request).await.map(drop) }
        })
        .await
    }

    pub async fn unpublish(&self, volume: &str, target: &Path) -> Result<(), Status> {
        patiently(|| {
            let request = NodeUnpublishVolumeRequest {
                volume_id: volume.to_owned(),
                target_path: target.display().to_string(),
            };
            let mut client = self.node();
            async move { client.node_unpublish_volume(request).await.map(drop) }
        })
        .await
    }

    /// From nothing to a path in a pod: volume id, staging path, target path.
    pub async fn bring_up(
        &self,
        volume: &str,
        name: &str,
        capability: VolumeCapability,
    ) -> (std::path::PathBuf, std::path::PathBuf) {
        let (staging, target) = (self.path(&format!("{name}-staging")), self.path(&format!("{name}-target")));
        self.publish_to(volume, NODE).await.unwrap();
        self.stage(volume, &staging, capability.clone()).await.unwrap();
        self.publish(volume, &staging, &target, capability).await.unwrap();
        (staging, target)
    }

    /// And back to a volume that no node has.
    pub async fn bring_down(&self, volume: &str, staging: &Path, target: &Path) {
        self.unpublish(volume, target).await.unwrap();
        self.unstage(volume, staging).await.unwrap();
        self.unpublish_from(volume, NODE).await.unwrap();
    }
}
