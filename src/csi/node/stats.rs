//! How volumes are, and how full.

use super::NodeService;
use crate::csi::call::{Call, Patience};
use crate::csi::request::{known_path, required, volume_handle};
use crate::csi::wire;
use crate::rpc::csi::*;
use crate::volume::{Health, Reason};
use tonic::{Request, Response, Status};

pub(super) async fn stats(
    service: &NodeService,
    request: Request<NodeGetVolumeStatsRequest>,
) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
    let (metadata, _, request) = request.into_parts();
    required(&request.volume_id, "volume_id")?;
    let path = known_path(&request.volume_path, "volume_path")?;
    let handle = volume_handle(&request.volume_id)?;
    // The kubelet asks for each pod; a look holds nobody up.
    let key = format!("{handle}, look {}", uuid::Uuid::new_v4());
    let parts = service.parts.clone();
    let call = Call { method: "NodeGetVolumeStats", key: &key, patience: Patience::Node };
    service
        .caller
        .run(call, &metadata, move || {
            let stats = parts.staging.stats(&handle, &path)?;
            // Asked of what is known: a share that hangs must not be touched for this.
            let health = stats.health.clone().or_else(|| match parts.shares.get(&handle.share) {
                Ok(_) => Health::Sound,
                Err(status) => Health::abnormal(Reason::ShareUnreachable, status.message()),
            });
            if health != Health::Sound {
                tracing::warn!(volume = %handle, %health, "a volume is not as it should be");
            }
            Ok(NodeGetVolumeStatsResponse {
                usage: wire::usage(&stats),
                volume_condition: Some(wire::condition(&health)),
            })
        })
        .await
}
