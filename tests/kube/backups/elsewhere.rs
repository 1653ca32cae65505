//! K10: another cluster knows nothing but the bucket.

use super::processes::{Access, command, controller, data_plane};
use super::world::{MIB, OWN_NAMESPACE, World, define, repository, secret};
use crate::apiserver::ApiServer;
use crate::rights::apply_chart;
use crate::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
use crate::support::backups::{CINDER, CINDER_BYTES, cinder_bucket, cinder_handles};
use kube::api::{Api, DeleteParams, ListParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use strata::kube::crd::backup::{DeletionPolicy, Phase, VolumeBackup};
use strata::rpc::csi::controller_client::ControllerClient;
use strata::rpc::csi::identity_client::IdentityClient;
use strata::rpc::csi::volume_capability::access_mode::Mode;
use strata::rpc::csi::volume_capability::{AccessMode, AccessType, BlockVolume};
use strata::rpc::csi::volume_content_source::{SnapshotSource, Type as SourceType};
use strata::rpc::csi::*;
use strata::volume::{VolumeHandle, VolumeId};
use tonic::Code;
use tonic::transport::Channel;

/// Two backups of a volume in a bucket; what it held at the last one.
async fn backed_up(world: &World, s3: &S3Server) -> (Vec<String>, Vec<u8>) {
    let name = format!("keys-of-{}", world.namespace);
    world.server.apply(&secret(&name, ACCESS_KEY, SECRET_KEY).to_string()).await;
    world.put_repository(json!({"s3": bucket(s3, &name), "chunkSize": "1Mi"})).await;
    let _serving = world.serve();
    let volume = world.volume("v", 2 * MIB);
    let mut handles = Vec::new();
    for snapshot in ["first", "second"] {
        world.write(volume, 2 * MIB, MIB);
        world.snapshot(snapshot, volume, "plain", world.to_here()).await;
        let status = world.until_complete(&world.backup_of(snapshot).await).await;
        handles.push(status.handle.unwrap());
    }
    (handles, world.content(volume, 4 * MIB))
}

pub fn bucket(s3: &S3Server, secret: &str) -> Value {
    json!({"endpoint": s3.endpoint, "bucket": "backups", "prefix": "a/b", "region": "us-east-1",
        "secretRef": {"name": secret}})
}

fn import(access: &Access, more: &[&str]) -> Vec<Value> {
    let arguments = [&["backup", "import", "--repository", "found", "-o", "json"], more].concat();
    serde_json::from_str(&command(&arguments, access)).unwrap()
}

async fn objects(client: &Client) -> Vec<VolumeBackup> {
    let api: Api<VolumeBackup> = Api::all(client.clone());
    api.list(&ListParams::default()).await.unwrap().items
}

fn versions(objects: &[VolumeBackup]) -> Vec<(String, Option<String>)> {
    objects.iter().map(|object| (object.name_any(), object.resource_version())).collect()
}

/// As the provisioner asks for a claim: again and again.
pub async fn restore(channel: &Channel, handle: &str, name: &str) -> VolumeId {
    let source = SourceType::Snapshot(SnapshotSource { snapshot_id: handle.to_owned() });
    let capability = VolumeCapability {
        access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
        access_type: Some(AccessType::Block(BlockVolume {})),
    };
    let request = CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: Some(CapacityRange { required_bytes: 1 << 30, limit_bytes: 0 }),
        volume_capabilities: vec![capability],
        volume_content_source: Some(VolumeContentSource { r#type: Some(source) }),
        ..Default::default()
    };
    for _ in 0..300 {
        match ControllerClient::new(channel.clone()).create_volume(request.clone()).await {
            Err(status) if matches!(status.code(), Code::Aborted | Code::Unavailable) => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            answer => {
                let id = answer.unwrap().into_inner().volume.unwrap().volume_id;
                return id.parse::<VolumeHandle>().unwrap().volume;
            }
        }
    }
    panic!("{handle} is never restored");
}

/// The size of a snapshot that is ready.
async fn listed(channel: &Channel, handle: &str) -> i64 {
    let request = ListSnapshotsRequest { snapshot_id: handle.to_owned(), ..Default::default() };
    let answer = ControllerClient::new(channel.clone()).list_snapshots(request).await.unwrap().into_inner();
    let [entry] = &answer.entries[..] else { panic!("{answer:?}") };
    let snapshot = entry.snapshot.as_ref().unwrap();
    assert!(snapshot.ready_to_use);
    snapshot.size_bytes
}

async fn is_ready(channel: &Channel) -> bool {
    let answer = IdentityClient::new(channel.clone()).probe(ProbeRequest {}).await;
    answer.expect("an answer, for an error ends the sidecars").into_inner().ready.unwrap()
}

fn is_alive(socket: &Path) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
    command.args(["probe", "--socket"]).arg(socket).output().unwrap().status.success()
}

/// The objects come of the bucket alone, once; what they tell restores the volume, by a controller with the chart's rights that
/// finds its repositories as objects. So does what Cinder wrote.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn another_cluster_imports_what_a_bucket_holds_and_restores_it() {
    let (world, s3) = (World::new().await, S3Server::start());
    let (handles, content) = backed_up(&world, &s3).await;
    let elsewhere = ApiServer::start().await;
    define(&elsewhere).await;
    apply_chart(&elsewhere, "shares").await;
    elsewhere.namespace(&world.namespace).await;
    elsewhere.apply(&secret("keys", ACCESS_KEY, SECRET_KEY).to_string()).await;
    elsewhere.apply(&repository("found", json!({"s3": bucket(&s3, "keys")})).to_string()).await;
    let of_cinder = json!({"directory": {"path": cinder_bucket("zstd")}});
    elsewhere.apply(&repository("of-cinder", of_cinder).to_string()).await;
    let client = elsewhere.client().await;
    let admin = Access { kubeconfig: elsewhere.kubeconfig(), namespace: OWN_NAMESPACE.to_owned() };

    let planned = import(&admin, &["--dry-run"]);
    assert_eq!((planned.len(), objects(&client).await.len()), (2, 0));
    let made = import(&admin, &[]);
    assert_eq!(made, planned);
    let imported = objects(&client).await;
    let mut found: Vec<String> =
        imported.iter().map(|object| object.status.clone().unwrap().handle.unwrap()).collect();
    found.sort();
    let mut expected: Vec<String> =
        handles.iter().map(|handle| handle.replace(&world.repository, "found")).collect();
    expected.sort();
    assert_eq!(found, expected);
    for object in &imported {
        let status = object.status.as_ref().unwrap();
        assert_eq!((status.phase, object.namespace()), (Phase::Completed, Some(world.namespace.clone())));
        assert_eq!(object.spec.deletion_policy, DeletionPolicy::Retain);
        assert!(status.claim.as_deref().unwrap().starts_with("claim-of-"));
    }
    let again = import(&admin, &[]);
    assert!(again.iter().all(|row| row["skipped"] == "it has an object"), "{again:?}");
    assert_eq!(versions(&objects(&client).await), versions(&imported));

    let (data_plane, data) = data_plane(&world);
    let kubeconfig = elsewhere.kubeconfig_of(OWN_NAMESPACE, "strata-controller").await;
    let access = Access { kubeconfig, namespace: OWN_NAMESPACE.to_owned() };
    let (controller, socket) = controller(&world, &data, &access);
    let channel = strata::rpc::uds::channel(&socket).unwrap();
    let last = handles[1].replace(&world.repository, "found");
    assert_eq!(listed(&channel, &last).await, 1 << 30);
    let restored = restore(&channel, &last, "from-the-bucket").await;
    assert!(world.content(restored, 4 * MIB) == content, "another content");
    let [.., newest] = &cinder_handles("zstd", "of-cinder")[..] else { panic!("no fixture") };
    let restored = restore(&channel, newest, "from-cinder").await;
    let digest = Sha256::digest(world.content(restored, CINDER_BYTES as u64));
    assert_eq!(digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), CINDER[2]);
    let denied: Vec<_> = elsewhere
        .asked(OWN_NAMESPACE, "strata-controller")
        .into_iter()
        .filter(|asked| !asked.allowed)
        .collect();
    assert!(denied.is_empty(), "{denied:?}");
    assert_eq!((is_ready(&channel).await, is_alive(&socket)), (true, true));
    drop(data_plane);
    assert_eq!((is_ready(&channel).await, is_alive(&socket)), (false, true), "without its data plane");

    // The objects are another cluster's, too: deleting them leaves the data.
    let api: Api<VolumeBackup> = Api::namespaced(client, &world.namespace);
    api.delete(&imported[0].name_any(), &DeleteParams::default()).await.unwrap();
    let back = import(&admin, &[]);
    let made = back.iter().filter(|row| row["skipped"].is_null()).count();
    assert_eq!(made, 1, "{back:?}");
    drop(controller);
    assert!(!is_alive(&socket));
}
