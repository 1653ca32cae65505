//! Two processes, of which one works; and the other one, once the first is killed.

use super::processes::{Access, data_plane, serve};
use super::world::{MIB, World};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use serde_json::json;
use std::time::{Duration, Instant};
use strata::kube::crd::backup::VolumeBackup;

async fn leader(world: &World) -> String {
    let leases = world.api::<Lease>();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let lease = leases.get_opt("strata-backup").await.unwrap();
        if let Some(holder) = lease.and_then(|lease| lease.spec?.holder_identity) {
            return holder;
        }
        assert!(Instant::now() < deadline, "nobody leads");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// K12: two replicas make one backup; when the leader is killed in the middle of it the other goes on with the same one.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_next_one_goes_on_where_a_killed_leader_was() {
    let world = World::new().await;
    world.directory(json!({"chunkSize": "1Mi", "bandwidth": "1Mi"})).await;
    let (_data, socket) = data_plane(&world);
    let access = Access { kubeconfig: world.server.kubeconfig(), namespace: world.namespace.clone() };
    let mut replicas = ["one", "two"].map(|name| (name, serve(&world, &socket, &access, name)));
    let volume = world.volume("v", 16 * MIB);
    let content = world.content(volume, 16 * MIB);
    world.snapshot("s", volume, "plain", world.to_here()).await;
    let name = world.backup_of("s").await;
    let first = leader(&world).await;
    let before = world.until(&name, |status| status.bytes_uploaded >= Some(2 * MIB)).await;
    assert_eq!(before.holder.as_deref(), Some(first.as_str()));
    let killed = replicas.iter_mut().find(|(name, _)| *name == first).unwrap();
    killed.1.0.kill().unwrap();
    let other = |status: &strata::kube::crd::backup::VolumeBackupStatus| {
        status.holder.as_deref().is_some_and(|holder| holder != first)
    };
    world.until(&name, other).await;
    let status = world.until_complete(&name).await;
    assert_eq!(status.backup_id, before.backup_id);
    assert_ne!(leader(&world).await, first);
    let all = world.api::<VolumeBackup>().list(&ListParams::default()).await.unwrap();
    assert_eq!((all.items.len(), world.listed().await.len()), (1, 1));
    world.assert_restores(status.backup_id.unwrap(), &content).await;
}
