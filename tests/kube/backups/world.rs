//! One share, one driver's name, one namespace, one repository; and who backs up.

use crate::apiserver::ApiServer;
use crate::support::domain::{Domain, write_at};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Client, CustomResourceExt, Resource, ResourceExt};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use strata::backup::store::{self, RepositoryUrl, S3Options};
use strata::backup::{BackupInfo, Cancel, Engine, Progress, RestoreOptions};
use strata::kube::crd::backup::{Phase, VolumeBackup, VolumeBackupStatus};
use strata::kube::crd::repository::BackupRepository;
use strata::kube::crd::snapshot::{VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent};
use strata::kube::{
    Clock, Error, LeaseSettings, OpenVolumes, Parts, Settings, SystemClock, crd, names, serve,
};
use strata::metrics::Metrics;
use strata::volume::{Access, SnapshotView, VolumeId, VolumeKind, Volumes};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// On a machine that does other things too.
pub const LIMIT: Duration = Duration::from_secs(90);
pub const MIB: u64 = 1 << 20;
/// Of the Secrets of all worlds: whoever backs up on a shared server looks at every BackupRepository there.
pub const OWN_NAMESPACE: &str = crate::rights::NAMESPACE;

pub struct World {
    pub server: Arc<ApiServer>,
    pub client: Client,
    pub namespace: String,
    pub driver: String,
    pub repository: String,
    pub domain: Domain,
}

struct Shares(Volumes);

impl OpenVolumes for Shares {
    fn open(&self) -> Vec<Volumes> {
        vec![self.0.clone()]
    }
}

/// Somebody who backs up, until it is told to stop.
pub struct Serving {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), Error>>,
}

impl Serving {
    pub async fn stop(mut self) -> Result<(), Error> {
        self.stop.take();
        let task = std::mem::replace(&mut self.task, tokio::spawn(async { Ok(()) }));
        task.await.unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The definitions, ours and the snapshot API's.
pub async fn define(server: &ApiServer) {
    let text = |definition: &CustomResourceDefinition| serde_json::to_string(definition).unwrap();
    server.apply(&definitions().iter().map(text).collect::<Vec<_>>().join("\n---\n")).await;
}

pub fn definitions() -> Vec<CustomResourceDefinition> {
    let mut all = crd::definitions();
    for mut foreign in [VolumeSnapshot::crd(), VolumeSnapshotContent::crd(), VolumeSnapshotClass::crd()] {
        // The API wants to see that its owners know of it.
        foreign
            .annotations_mut()
            .insert("api-approved.kubernetes.io".into(), "unapproved, for a test".into());
        all.push(foreign);
    }
    all
}

impl World {
    pub async fn new() -> World {
        World::on(ApiServer::shared().await).await
    }

    pub async fn on(server: Arc<ApiServer>) -> World {
        define(&server).await;
        let mark = Uuid::new_v4().simple().to_string()[..8].to_owned();
        let namespace = format!("ns-{mark}");
        server.namespace(&namespace).await;
        server.namespace(OWN_NAMESPACE).await;
        let client = server.client().await;
        let domain = tokio::task::spawn_blocking(Domain::new).await.unwrap();
        let world = World {
            client,
            driver: format!("csi-{mark}.strata.dev"),
            repository: format!("repo-{mark}"),
            server,
            namespace,
            domain,
        };
        world.class("plain", None).await;
        world
    }

    pub fn class_name(&self, name: &str) -> String {
        format!("{name}-{}", self.namespace)
    }

    /// A snapshot class of our driver.
    pub async fn class(&self, name: &str, repository: Option<&str>) {
        let mut parameters = json!({});
        if let Some(repository) = repository {
            parameters[names::REPOSITORY] = json!(repository);
        }
        let class = json!({
            "apiVersion": "snapshot.storage.k8s.io/v1",
            "kind": "VolumeSnapshotClass",
            "metadata": {"name": self.class_name(name)},
            "driver": self.driver,
            "deletionPolicy": "Delete",
            "parameters": parameters,
        });
        self.server.apply(&class.to_string()).await;
    }

    pub fn repository_dir(&self) -> PathBuf {
        self.domain.dir.path().join("repository")
    }

    /// A directory as the repository, with more settings.
    pub async fn directory(&self, more: Value) {
        let mut spec = json!({"directory": {"path": self.repository_dir()}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.put_repository(spec).await;
    }

    pub async fn put_repository(&self, spec: Value) {
        self.server.apply(&repository(&self.repository, spec).to_string()).await;
    }

    pub fn engine(&self) -> Engine {
        let url = RepositoryUrl::Local(self.repository_dir());
        Engine::new(store::open(&url, &S3Options::default()).unwrap())
    }

    pub fn parts(&self, identity: &str, clock: Arc<dyn Clock>) -> Parts {
        Parts {
            client: self.client.clone(),
            shares: Arc::new(Shares(self.domain.volumes.clone())),
            settings: Settings {
                driver: self.driver.clone(),
                namespace: OWN_NAMESPACE.to_owned(),
                identity: identity.to_owned(),
                workers: 4,
                per_node: None,
                memory: 256 * MIB,
            },
            lease: LeaseSettings {
                namespace: self.namespace.clone(),
                name: "strata-backup".to_owned(),
                identity: identity.to_owned(),
                duration: Duration::from_secs(15),
            },
            clock,
            metrics: Metrics::new("backup"),
        }
    }

    /// Somebody who backs up, in this process.
    pub fn serve(&self) -> Serving {
        self.serve_by(Arc::new(SystemClock))
    }

    /// The same, begun again whenever it no longer leads, as a pod is.
    pub fn serve_always(&self) -> Serving {
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = futures::FutureExt::shared(stopped);
        let lives = (0..20).map(|_| self.parts(&Uuid::new_v4().to_string(), Arc::new(SystemClock)));
        let lives: Vec<Parts> = lives.collect();
        let task = tokio::spawn(async move {
            for parts in lives {
                let stopped = stopped.clone();
                match serve(parts, async move { drop(stopped.await) }).await {
                    Err(Error::LeaseLost { .. }) => {}
                    ended => return ended,
                }
            }
            panic!("it does not keep its Lease");
        });
        Serving { stop: Some(stop), task }
    }

    pub fn serve_by(&self, clock: Arc<dyn Clock>) -> Serving {
        self.serve_with(self.parts(&Uuid::new_v4().to_string(), clock))
    }

    pub fn serve_with(&self, parts: Parts) -> Serving {
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(parts, async move { drop(stopped.await) }));
        Serving { stop: Some(stop), task }
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A new volume with noise at its begin.
    pub fn volume(&self, name: &str, noise_bytes: u64) -> VolumeId {
        let volume = self.domain.create(name, VolumeKind::Qcow2);
        self.write(volume, 0, noise_bytes);
        volume
    }

    /// Noise into a volume that is not attached.
    pub fn write(&self, volume: VolumeId, offset: u64, bytes: u64) {
        let mut noise = vec![0; bytes as usize];
        File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
        let device = self.domain.attach(volume, Access::Block);
        write_at(&device, offset, &noise);
        self.domain.detach(volume);
    }

    /// A VolumeSnapshot as the user makes it, and all that the snapshot controller and the sidecar make of it.
    pub async fn snapshot(&self, name: &str, volume: VolumeId, class: &str, labels: Value) -> SnapshotView {
        let cut = self.domain.volumes.snapshot(volume, &format!("snapshot-{name}")).unwrap();
        let object = json!({
            "apiVersion": "snapshot.storage.k8s.io/v1",
            "kind": "VolumeSnapshot",
            "metadata": {"name": name, "namespace": self.namespace, "labels": labels},
            "spec": {
                "volumeSnapshotClassName": self.class_name(class),
                "source": {"persistentVolumeClaimName": format!("claim-of-{volume}")},
            },
        });
        let api = self.api::<VolumeSnapshot>();
        let made: VolumeSnapshot = serde_json::from_value(object).unwrap();
        let made = api.create(&PostParams::default(), &made).await.unwrap();
        self.make_ready(&made, &cut).await;
        cut
    }

    /// What the snapshot controller and the sidecar do.
    pub async fn make_ready(&self, snapshot: &VolumeSnapshot, cut: &SnapshotView) {
        let uid = snapshot.metadata.uid.clone().unwrap();
        let content = format!("snapcontent-{uid}");
        let object = json!({
            "apiVersion": "snapshot.storage.k8s.io/v1",
            "kind": "VolumeSnapshotContent",
            "metadata": {"name": content},
            "spec": {
                "driver": self.driver,
                "deletionPolicy": "Delete",
                "source": {"volumeHandle": cut.handle.volume_handle().to_string()},
                "volumeSnapshotRef": {"name": snapshot.name_any(), "namespace": self.namespace, "uid": uid},
            },
        });
        let contents: Api<VolumeSnapshotContent> = Api::all(self.client.clone());
        let made: VolumeSnapshotContent = serde_json::from_value(object).unwrap();
        contents.create(&PostParams::default(), &made).await.unwrap();
        let ready = json!({"status": {"snapshotHandle": cut.handle.to_string(), "readyToUse": true}});
        patch_status(&contents, &content, ready).await;
        let ready = json!({"status": {
            "boundVolumeSnapshotContentName": content,
            "creationTime": cut.created_at,
            "readyToUse": true,
        }});
        patch_status(&self.api::<VolumeSnapshot>(), &snapshot.name_any(), ready).await;
    }

    /// What becomes of a VolumeSnapshot that is deleted.
    pub async fn delete_snapshot(&self, name: &str, cut: &SnapshotView) {
        let api = self.api::<VolumeSnapshot>();
        let uid = api.get(name).await.unwrap().metadata.uid.unwrap();
        api.delete(name, &DeleteParams::default()).await.unwrap();
        let contents: Api<VolumeSnapshotContent> = Api::all(self.client.clone());
        contents.delete(&format!("snapcontent-{uid}"), &DeleteParams::default()).await.unwrap();
        self.domain.volumes.delete_snapshot(cut.handle.volume, cut.handle.snapshot).unwrap();
    }

    pub fn to_here(&self) -> Value {
        json!({names::REPOSITORY: self.repository})
    }

    /// The VolumeBackup of a VolumeSnapshot, once there is one.
    pub async fn backup_of(&self, snapshot: &str) -> String {
        let api = self.api::<VolumeSnapshot>();
        let named = |found: Option<&VolumeSnapshot>| {
            found.is_some_and(|found| found.annotations().contains_key(names::BACKUP))
        };
        let found = within(await_condition(api, snapshot, named)).await.unwrap();
        found.annotations()[names::BACKUP].clone()
    }

    /// Waits until the status of a VolumeBackup fits.
    pub async fn until(&self, name: &str, fits: impl Fn(&VolumeBackupStatus) -> bool) -> VolumeBackupStatus {
        let api = self.api::<VolumeBackup>();
        let condition =
            |found: Option<&VolumeBackup>| found.and_then(|found| found.status.as_ref()).is_some_and(&fits);
        let waited = tokio::time::timeout(LIMIT, await_condition(api.clone(), name, condition)).await;
        let Ok(found) = waited else {
            panic!(
                "{name} never came so far: {:#?}",
                api.get_opt(name).await.unwrap().map(|found| found.status)
            );
        };
        found.unwrap().unwrap().status.unwrap()
    }

    pub async fn until_complete(&self, name: &str) -> VolumeBackupStatus {
        let ended = |status: &VolumeBackupStatus| {
            status.phase == Phase::Completed || status.phase == Phase::Failed && status.retry_at.is_none()
        };
        let status = self.until(name, ended).await;
        assert_eq!(status.phase, Phase::Completed, "{status:#?}");
        status
    }

    pub async fn until_gone(&self, name: &str) {
        let api = self.api::<VolumeBackup>();
        let gone = |found: Option<&VolumeBackup>| found.is_none();
        let waited = tokio::time::timeout(LIMIT, await_condition(api.clone(), name, gone)).await;
        if waited.is_err() {
            panic!("{name} stays: {:#?}", api.get_opt(name).await.unwrap());
        }
    }

    pub async fn until_reachable(&self, is: bool) -> BackupRepository {
        let api: Api<BackupRepository> = Api::all(self.client.clone());
        let condition = |found: Option<&BackupRepository>| {
            found.and_then(|found| found.status.as_ref()).is_some_and(|status| status.reachable == is)
        };
        within(await_condition(api, &self.repository, condition)).await.unwrap()
    }

    /// Reasons of the events about an object, the oldest first.
    pub async fn events_of(&self, kind: &str, name: &str) -> Vec<(String, String)> {
        let api = self.api::<Event>();
        let mut found = api.list(&ListParams::default()).await.unwrap().items;
        found.sort_by_key(|event| event.event_time.clone().map(|time| time.0));
        let about = |event: &Event| {
            let regarding = event.regarding.clone().unwrap_or_default();
            regarding.kind.as_deref() == Some(kind) && regarding.name.as_deref() == Some(name)
        };
        let say = |event: Event| (event.reason.unwrap_or_default(), event.note.unwrap_or_default());
        found.into_iter().filter(about).map(say).collect()
    }

    /// What is in the repository, whole or not.
    pub async fn listed(&self) -> Vec<BackupInfo> {
        self.engine().list(None).await.unwrap()
    }

    pub fn objects(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.file_type().unwrap().is_dir() {
                    true => walk(&entry.path(), found),
                    false => found.push(entry.path()),
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.repository_dir(), &mut found);
        found.retain(|path| path.to_string_lossy().contains("volume_"));
        found
    }

    /// A backup brought back holds what its snapshot held.
    pub async fn assert_restores(&self, backup: Uuid, expected: &[u8]) {
        let to = self.domain.dir.path().join(format!("restored-{backup}"));
        let options = RestoreOptions::new(backup, &to);
        self.engine().restore(&options, &Progress::default(), &Cancel::never()).await.unwrap();
        let mut bytes = vec![0; expected.len()];
        File::open(&to).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == expected, "another content");
        std::fs::remove_file(to).unwrap();
    }

    /// The begin of a volume that is not attached.
    pub fn content(&self, volume: VolumeId, bytes: u64) -> Vec<u8> {
        self.domain.read(volume, bytes as usize)
    }
}

pub fn repository(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "strata.dev/v1alpha1", "kind": "BackupRepository", "metadata": {"name": name}, "spec": spec,
    })
}

/// A repository's credentials.
pub fn secret(name: &str, access_key: &str, secret_key: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": OWN_NAMESPACE},
        "stringData": {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key},
    })
}

pub async fn within<T, E: std::fmt::Debug>(work: impl Future<Output = Result<T, E>>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("in time").unwrap()
}

pub async fn patch_status<K>(api: &Api<K>, name: &str, patch: Value)
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}
