//! K13: thousands of objects are there when it starts.

use super::processes::{Access, data_plane, serve};
use super::world::{LIMIT, MIB, OWN_NAMESPACE, World, definitions};
use crate::apiserver::ApiServer;
use crate::rights::{ACCOUNT, apply_chart};
use futures::{StreamExt, TryStreamExt, stream};
use kube::Client;
use kube::api::{Api, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;
use strata::kube::crd::backup::{Phase, VolumeBackup};
use strata::kube::crd::snapshot::VolumeSnapshot;
use strata::kube::names;
use uuid::Uuid;

const SNAPSHOTS: usize = 3000;
const BACKUPS: usize = 300;
const NAMESPACES: usize = 6;
/// It has 40 MiB with nothing to look at, in a build for tests.
const MEMORY: u64 = 160 * MIB;

fn namespace(number: usize) -> String {
    format!("crowd-{}", number % NAMESPACES)
}

/// Ready; every second one has its backup.
fn snapshot(number: usize) -> Value {
    let done =
        json!({names::BACKUP: format!("snapshot-{number}-0123456789"), names::BACKUP_PHASE: "Completed"});
    json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
        "metadata": {
            "name": format!("snapshot-{number}"), "namespace": namespace(number),
            "annotations": if number.is_multiple_of(2) { done } else { json!({}) },
        },
        "spec": {"source": {"persistentVolumeClaimName": format!("claim-{}", number % 100)}},
        "status": {"readyToUse": true, "creationTime": "2026-01-01T00:00:00Z",
            "boundVolumeSnapshotContentName": format!("content-{number}")},
    })
}

fn backup(number: usize) -> Value {
    let id = Uuid::new_v4();
    json!({
        "apiVersion": "strata.dev/v1alpha1", "kind": "VolumeBackup",
        "metadata": {
            "name": format!("backup-{number}"), "namespace": namespace(number), "finalizers": [names::FINALIZER],
        },
        "spec": {"repository": "of-before", "volumeSnapshot": {"name": format!("gone-{number}")}},
        "status": {"phase": "Completed", "backupId": id, "handle": format!("bak://of-before/{id}/{id}")},
    })
}

async fn make<K>(client: &Client, number: usize, object: impl Fn(usize) -> Value)
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    K: Clone + Debug + serde::Serialize + DeserializeOwned,
{
    let objects =
        (0..number).map(|number| {
            let (api, object) = (Api::<K>::namespaced(client.clone(), &namespace(number)), object(number));
            async move {
                api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.map(drop)
            }
        });
    stream::iter(objects).buffer_unordered(32).try_collect::<()>().await.unwrap();
}

/// As they are after months. While their definitions have no status of its own, one request makes an object with it.
async fn fill(server: &ApiServer) {
    for mut definition in definitions() {
        definition.spec.versions.iter_mut().for_each(|version| version.subresources = None);
        server.apply(&serde_json::to_string(&definition).unwrap()).await;
    }
    for number in 0..NAMESPACES {
        server.namespace(&namespace(number)).await;
    }
    let client = server.client().await;
    make::<VolumeSnapshot>(&client, SNAPSHOTS, snapshot).await;
    make::<VolumeBackup>(&client, BACKUPS, backup).await;
}

/// A new definition counts some moments after it was made.
async fn until_status_is_apart(world: &World) {
    let deadline = Instant::now() + LIMIT;
    let (snapshots, backups) = (
        Api::<VolumeSnapshot>::namespaced(world.client.clone(), &namespace(0)),
        Api::<VolumeBackup>::namespaced(world.client.clone(), &namespace(0)),
    );
    while snapshots.get_status("snapshot-0").await.is_err() || backups.get_status("backup-0").await.is_err() {
        assert!(Instant::now() < deadline, "no status of its own");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amid_thousands_of_objects_one_more_snapshot_is_backed_up() {
    let server = Arc::new(ApiServer::start().await);
    let began = Instant::now();
    fill(&server).await;
    println!("{SNAPSHOTS} snapshots and {BACKUPS} backups are there after {:?}", began.elapsed());
    let world = World::on(server).await;
    until_status_is_apart(&world).await;
    apply_chart(&world.server, "shares").await;
    world.directory(json!({})).await;
    let volume = world.volume("v", MIB);
    world.snapshot("one-more", volume, "plain", world.to_here()).await;
    let (_data, socket) = data_plane(&world);
    let kubeconfig = world.server.kubeconfig_of(OWN_NAMESPACE, ACCOUNT).await;
    let access = Access { kubeconfig, namespace: OWN_NAMESPACE.to_owned() };
    let began = Instant::now();
    let process = serve(&world, &socket, &access, "one");
    let name = world.backup_of("one-more").await;
    world.until_complete(&name).await;
    println!("the backup of one more is complete after {:?}", began.elapsed());
    // And one that comes later.
    let began = Instant::now();
    world.snapshot("later", volume, "plain", world.to_here()).await;
    let later = world.backup_of("later").await;
    world.until_complete(&later).await;
    let peak = process.peak_memory();
    println!("that of a later one after {:?}; {} MiB of memory", began.elapsed(), peak / MIB);
    // Deleting one has a look at the others.
    let api = world.api::<VolumeBackup>();
    api.delete(&name, &Default::default()).await.unwrap();
    let waits = world.until(&name, |status| status.message.is_some()).await;
    assert_eq!(waits.phase, Phase::Deleting, "the later one is made on it");
    api.delete(&later, &Default::default()).await.unwrap();
    world.until_gone(&later).await;
    world.until_gone(&name).await;
    assert!(peak < MEMORY, "{} MiB", peak / MIB);
    let lists = world.server.lists(OWN_NAMESPACE, ACCOUNT);
    let whole: Vec<&String> = lists.iter().filter(|list| !list.contains("limit=")).collect();
    assert!(whole.is_empty(), "asked for all at once: {whole:?}");
    let more =
        lists.iter().filter(|list| list.contains("/volumesnapshots?") && list.contains("continue=")).count();
    assert!(more >= SNAPSHOTS / 500 - 1, "{lists:?}");
    // What was there is as it was.
    let untouched =
        Api::<VolumeBackup>::namespaced(world.client.clone(), &namespace(1)).get("backup-1").await;
    assert_eq!(untouched.unwrap().status.unwrap().phase, Phase::Completed);
}
