//! What tests put into the API.

use super::{ApiServer, LIMIT, client};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Whose fields the applied ones are.
const MANAGER: &str = "strata-test";

impl ApiServer {
    /// Applies every object of a YAML text, in its order; those of no namespace go to `default`. Waits until a CRD is served.
    pub async fn apply(&self, yaml: &str) {
        let client = self.client().await;
        let objects: Vec<Value> = serde_saphyr::from_multiple(yaml).expect("YAML");
        for object in objects.into_iter().filter(|object| !object.is_null()) {
            apply(&client, object).await;
        }
    }

    /// Makes a namespace; it may be there.
    pub async fn namespace(&self, name: &str) {
        self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).to_string())
            .await;
    }

    /// A token of a service account, by TokenRequest, as pods get theirs. The account must be there.
    pub async fn token(&self, namespace: &str, account: &str) -> String {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await, namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(3600), ..Default::default() },
            ..Default::default()
        };
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await;
        answer.expect("a token").status.expect("a token").token
    }

    /// A kubeconfig of a service account. The account must be there.
    pub async fn kubeconfig_of(&self, namespace: &str, account: &str) -> PathBuf {
        let token = self.token(namespace, account).await;
        self.kubeconfig_with(&format!("{namespace}-{account}"), &token)
    }

    /// A client that is a service account. The account must be there.
    pub async fn client_of(&self, namespace: &str, account: &str) -> Client {
        client(self.kubeconfig_of(namespace, account).await).await
    }

    /// All namespaces' names.
    pub async fn namespaces(&self) -> Vec<String> {
        let all: Api<Namespace> = Api::all(self.client().await);
        let found = all.list(&Default::default()).await.expect("namespaces");
        found.into_iter().map(|namespace| namespace.name_any()).collect()
    }
}

async fn apply(client: &Client, object: Value) {
    let object: DynamicObject = serde_json::from_value(object).expect("an object");
    let types = object.types.clone().expect("apiVersion and kind");
    let kind = GroupVersionKind::try_from(&types).expect("a group, a version and a kind");
    let (resource, capabilities) = served(client, &kind).await;
    let api: Api<DynamicObject> = match (capabilities, object.namespace()) {
        (Scope::Cluster, _) => Api::all_with(client.clone(), &resource),
        (Scope::Namespaced, namespace) => {
            Api::namespaced_with(client.clone(), namespace.as_deref().unwrap_or("default"), &resource)
        }
    };
    let name = object.name_any();
    let parameters = PatchParams::apply(MANAGER).force();
    let applied = api.patch(&name, &parameters, &Patch::Apply(&object)).await;
    applied.unwrap_or_else(|error| panic!("{} {name}: {error}", kind.kind));
    if kind.kind == "CustomResourceDefinition" {
        let text = |pointer: &str| {
            object.data.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let version = text("/spec/versions/0/name");
        served(client, &GroupVersionKind::gvk(&text("/spec/group"), &version, &text("/spec/names/kind")))
            .await;
    }
}

/// Waits until a kind is listed: that of a CRD is some moments after it was made.
async fn served(client: &Client, kind: &GroupVersionKind) -> (kube::core::ApiResource, Scope) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let said = match pinned_kind(client, kind).await {
            Ok((resource, capabilities)) => {
                let all: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
                match all.list(&Default::default()).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => status.to_string(),
                    _ => return (resource, capabilities.scope),
                }
            }
            Err(error) => error.to_string(),
        };
        assert!(Instant::now() < deadline, "{kind:?} is not served: {said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
