//! The API server of these tests is a real one: it validates, refuses, conflicts and forgets as a cluster's does.

use crate::apiserver::{ApiServer, Asked};
use futures::StreamExt;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::core::{ApiResource, GroupVersionKind, ObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

const WIDGETS: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.test.strata.dev}
spec:
  group: test.strata.dev
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  versions:
    - name: v1
      served: true
      storage: true
      subresources: {status: {}}
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec:
              type: object
              required: [size]
              properties: {size: {type: integer, minimum: 1}}
            status:
              type: object
              properties: {phase: {type: string}}
"#;

fn code(result: Result<impl Sized, kube::Error>) -> u16 {
    match result {
        Ok(_) => 200,
        Err(kube::Error::Api(status)) => status.code,
        Err(error) => panic!("no answer: {error}"),
    }
}

fn map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
        ..Default::default()
    }
}

#[tokio::test]
async fn custom_resources_are_validated_and_have_a_status_of_their_own() {
    let server = ApiServer::shared().await;
    server.apply(WIDGETS).await;
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("test.strata.dev", "v1", "Widget"));
    let widgets: Api<DynamicObject> = Api::namespaced_with(server.client().await, "default", &resource);
    let widget =
        |spec| DynamicObject::new("one", &resource).data(json!({"spec": spec, "status": {"phase": "Done"}}));
    for wrong in [json!({}), json!({"size": 0}), json!({"size": "two"})] {
        assert_eq!(code(widgets.create(&PostParams::default(), &widget(wrong)).await), 422);
    }
    let made =
        widgets.create(&PostParams::default(), &widget(json!({"size": 3, "colour": "red"}))).await.unwrap();
    assert_eq!(made.data["spec"], json!({"size": 3}), "a field that the schema does not have is dropped");
    assert!(made.data.get("status").is_none(), "a status is not made with the object");
    let status = Patch::Merge(json!({"status": {"phase": "Running"}, "spec": {"size": 9}}));
    let changed = widgets.patch_status("one", &PatchParams::default(), &status).await.unwrap();
    assert_eq!(
        (&changed.data["spec"]["size"], &changed.data["status"]["phase"]),
        (&json!(3), &json!("Running"))
    );
}

#[tokio::test]
async fn an_account_may_do_what_a_role_says_and_nothing_else() {
    let server = ApiServer::shared().await;
    server
        .apply(
            r#"
apiVersion: v1
kind: Namespace
metadata: {name: rights}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: rights}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: rights}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader, namespace: rights}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: rights}]
"#,
        )
        .await;
    let client = server.client_of("rights", "reader").await;
    let here: Api<ConfigMap> = Api::namespaced(client.clone(), "rights");
    let there: Api<ConfigMap> = Api::namespaced(client, "default");
    assert_eq!(code(here.list(&Default::default()).await), 200);
    assert_eq!(code(here.get("none").await), 404);
    assert_eq!(code(here.create(&PostParams::default(), &map("new")).await), 403);
    assert_eq!(code(there.list(&Default::default()).await), 403);
    let asked =
        |verb: &str, allowed| Asked { verb: verb.to_owned(), resource: "/configmaps".to_owned(), allowed };
    let expected = [asked("create", false), asked("get", true), asked("list", false), asked("list", true)];
    // It is written down after the answer.
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.asked("rights", "reader") != expected.clone().into() {
        assert!(Instant::now() < deadline, "{:?}", server.asked("rights", "reader"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let stranger = Client::try_from(kube::Config::new(server.url().parse().unwrap())).unwrap();
    let blind: Api<ConfigMap> = Api::all(stranger);
    assert!(blind.list(&Default::default()).await.is_err(), "its certificate is of an authority of its own");
}

#[tokio::test]
async fn of_two_who_take_a_lease_one_is_refused() {
    let server = ApiServer::shared().await;
    let leases: Api<Lease> = Api::namespaced(server.client().await, "default");
    let metadata = ObjectMeta { name: Some("leader".to_owned()), ..Default::default() };
    let held_by = |lease: &Lease, holder: &str| Lease {
        spec: Some(LeaseSpec { holder_identity: Some(holder.to_owned()), ..Default::default() }),
        ..lease.clone()
    };
    let free = leases.create(&PostParams::default(), &Lease { metadata, spec: None }).await.unwrap();
    assert_eq!(code(leases.replace("leader", &PostParams::default(), &held_by(&free, "one")).await), 200);
    assert_eq!(code(leases.replace("leader", &PostParams::default(), &held_by(&free, "two")).await), 409);
    let held = leases.get("leader").await.unwrap();
    assert_eq!(held.spec.unwrap().holder_identity.unwrap(), "one");
}

/// What a watch has to get over: the server goes away, comes back with all objects, and knows nothing of before.
#[tokio::test]
async fn after_a_restart_objects_are_there_and_old_versions_are_gone() {
    let server = ApiServer::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(server.client().await, "default");
    let before = maps.create(&PostParams::default(), &map("before")).await.unwrap();
    maps.create(&PostParams::default(), &map("between")).await.unwrap();
    let mut seen =
        Box::pin(watcher(maps.clone(), watcher::Config::default()).default_backoff().applied_objects());
    assert!(seen.next().await.is_some());
    server.restart().await;
    maps.create(&PostParams::default(), &map("after")).await.unwrap();
    let saw = async {
        loop {
            if seen.next().await.expect("endless").is_ok_and(|map| map.name_any() == "after") {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), saw).await.expect("the watch goes on");
    let version = before.resource_version().unwrap();
    let mut old = maps.watch(&WatchParams::default(), &version).await.unwrap().boxed();
    let first = old.next().await.unwrap();
    let gone = match &first {
        Ok(WatchEvent::Error(status)) => status.code,
        Err(kube::Error::Api(status)) => status.code,
        _ => 0,
    };
    assert_eq!(gone, 410, "{first:?}");
}

#[tokio::test]
async fn nothing_is_left_of_a_server_that_is_dropped() {
    let started = Instant::now();
    let server = ApiServer::start().await;
    println!("an API server is ready after {:?}", started.elapsed());
    let (folder, pids) = (server.folder().to_owned(), server.processes());
    assert!(pids.len() == 2 && pids.iter().all(|pid| Path::new(&format!("/proc/{pid}")).exists()));
    assert!(server.namespaces().await.contains(&"default".to_owned()));
    drop(server);
    assert!(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
    assert!(!folder.exists());
}
